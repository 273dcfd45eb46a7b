"""The API's description is OpenAPI 3.1 and covers every route; /docs is rendered from it."""

import json
import re
from html.parser import HTMLParser
from typing import Any
from uuid import uuid4

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openapi_spec_validator import OpenAPIV31SpecValidator

from handlers.errors import CODES
from server.hub.events import EVENTS
from server.hub.methods import METHODS
from tests.site import Site

ROUTES = {
    "/api/users": "get post",
    "/api/users/batch": "post",
    "/api/users/by-external-id/{externalId}": "get put",
    "/api/users/{userId}/tokens": "delete post",
    "/api/users/me": "get put",
    "/api/users/me/export": "get",
    "/api/users/me/privacy": "get put",
    "/api/users/me/unread": "get",
    "/api/reports": "get post",
    "/api/reports/{reportId}/resolution": "put",
    "/api/users/me/reports": "get",
    "/api/users/me/blocks": "get",
    "/api/users/me/blocks/{userId}": "delete put",
    "/api/users/status": "put",
    "/api/users/{userId}": "delete get",
    "/api/users/{userId}/standing": "get",
    "/api/users/{userId}/role": "put",
    "/api/users/{userId}/ban": "delete put",
    "/api/users/{userId}/sessions": "delete",
    "/api/users/{userId}/name": "put",
    "/api/audit": "get",
    "/api/conversations": "get post",
    "/api/conversations/{conversationId}": "delete get put",
    "/api/conversations/{conversationId}/settings": "put",
    "/api/conversations/{conversationId}/pins": "get",
    "/api/conversations/{conversationId}/links": "get post",
    "/api/conversations/{conversationId}/links/{linkId}": "delete",
    "/api/conversations/{conversationId}/join": "post",
    "/api/conversations/{conversationId}/members/{userId}/mute": "delete put",
    "/api/conversations/{conversationId}/bans": "get",
    "/api/conversations/{conversationId}/bans/{userId}": "delete put",
    "/api/conversations/{conversationId}/name": "put",
    "/api/groups": "get",
    "/api/join": "post",
    "/api/messages/{messageId}/pin": "delete put",
    "/api/conversations/{conversationId}/members": "get post",
    "/api/conversations/{conversationId}/members/{userId}": "delete",
    "/api/conversations/{conversationId}/members/{userId}/role": "put",
    "/api/messages": "get post",
    "/api/search/messages": "get",
    "/api/messages/{messageId}": "delete get put",
    "/api/messages/{messageId}/status": "put",
    "/api/messages/{messageId}/receipts": "get",
    "/api/messages/{messageId}/reactions": "get",
    "/api/messages/{messageId}/reactions/{emoji}": "delete put",
    "/api/mentions": "get",
    "/api/webhooks": "get post",
    "/api/webhooks/{webhookId}": "delete get put",
    "/api/webhooks/{webhookId}/secret": "post",
    "/api/webhooks/{webhookId}/dead-letters": "get",
    "/api/webhooks/{webhookId}/replay": "post",
    "/api/messages/{messageId}/replies": "get",
    "/api/threads": "get",
    "/api/threads/{threadId}": "get",
    "/api/threads/{threadId}/read": "put",
    "/api/threads/{threadId}/following": "delete put",
    "/api/files": "delete",
    "/api/files/upload": "post",
    "/api/files/presign": "post",
    "/api/files/presigned-url": "get",
    "/api/files/{fileKey}": "get",
    "/api/files/{fileId}/complete": "post",
    "/auth/login/{provider}": "get",
    "/auth/callback/{provider}": "get",
    "/auth/exchange": "post",
    "/auth/refresh": "post",
    "/auth/logout": "post",
    "/auth/sessions": "get",
    "/auth/sessions/{sessionId}": "delete",
    "/hubs/chat/negotiate": "post",
    "/health": "get",
    "/health/live": "get",
    "/health/ready": "get",
}
OPEN = {
    "post /api/users", "get /auth/login/{provider}", "get /auth/callback/{provider}", "post /auth/exchange",
    "post /auth/refresh", "get /health", "get /health/live", "get /health/ready",
}  # fmt: skip


@pytest.fixture
async def described(site: Site) -> dict[str, Any]:
    found: dict[str, Any] = await site.call("GET", "/openapi.json")
    return found


async def test_it_is_openapi(described: dict[str, Any]) -> None:
    """The document is valid OpenAPI 3.1 and has the routes of the contract."""
    assert described["openapi"].startswith("3.1.")
    errors = [error.message for error in OpenAPIV31SpecValidator(described).iter_errors()]
    assert [error for error in errors if "\\p{L}" not in error] == [], "of ECMA-262, which Python's re does not know"
    assert {path: " ".join(sorted(methods)) for path, methods in described["paths"].items()} == ROUTES


async def test_every_operation_is_whole(described: dict[str, Any]) -> None:
    """Each operation has a summary, a tag, descriptions of its parameters, and the errors common to all."""
    names, tags = [], {tag["name"] for tag in described["tags"]}
    for path, methods in described["paths"].items():
        for method, said in methods.items():
            where = f"{method} {path}"
            names.append(said["operationId"])
            assert said["summary"] and said["description"] and set(said["tags"]) <= tags, where
            assert all(parameter["description"] and parameter["schema"] for parameter in said["parameters"]), where
            statuses = set(said["responses"])
            assert {"429", "500", "503"} < statuses and min(statuses) < "400", where
            assert (said.get("security") == []) == (where in OPEN), where
            assert where in OPEN or "401" in statuses, where
            assert "{" not in path or "404" in statuses, where
            if "requestBody" in said:
                assert {"400", "413", "415"} < statuses, where
            keys = {parameter["name"] for parameter in said["parameters"]}
            assert ("Idempotency-Key" in keys) == (method == "post"), where
            assert ("If-Match" in keys) == ("412" in statuses), where
    assert len(set(names)) == len(names)


async def test_what_is_true_of_schemas(described: dict[str, Any]) -> None:
    """Ids and times have formats, choices their names, answers all fields, problems all codes."""
    schemas = described["components"]["schemas"]
    message = schemas["Message"]["properties"]
    assert message["id"] == {"type": "string", "format": "uuid"}
    assert message["createdAt"] == {"type": "string", "format": "date-time"}
    assert set(schemas["FileInfo"]["required"]) == set(schemas["FileInfo"]["properties"])
    assert set(schemas["MessageStatus"]["enum"]) == {"Sent", "Delivered", "Read"}
    role = json.dumps(schemas["ChangeRole"]["properties"]["role"])
    assert '["Owner", "Admin", "Member"]' in role and "[0, 1, 2]" in role
    for alternative in schemas["CreateMessage"]["anyOf"]:
        assert alternative["properties"]["content"]["maxLength"] == 32768
    check = Draft202012Validator({**schemas["CreateMessage"], "components": described["components"]}).is_valid
    text = {"conversationId": str(uuid4()), "content": "x"}
    file = {**text, "type": "File", "fileId": str(uuid4())}
    for one in (text, file):
        assert check(one) and check({**one, "threadId": str(uuid4()), "alsoInConversation": True})
        assert check({**one, "threadId": None, "alsoInConversation": False})
        assert not check({**one, "alsoInConversation": True})
        assert not check({**one, "threadId": None, "alsoInConversation": True})
    assert set(schemas["Problem"]["properties"]["code"]["enum"]) == set(CODES)
    [limit] = [p for p in described["paths"]["/api/users"]["get"]["parameters"] if p["name"] == "limit"]
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}


async def test_nothing_is_left_out_silently(site: Site) -> None:
    """Each route is described, or states why it is not."""
    app = site.process.rest.app
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        assert hasattr(view, "parley_operation") or hasattr(view, "parley_left_out"), rule.rule


class Links(HTMLParser):
    """Collects what a page makes a browser fetch, and the targets of its links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("href", "src", "action", "srcset", "data", "style") or name.startswith("on"):
                self.found.append((tag, value or ""))
            if name == "id":
                self.ids.add(value or "")


async def test_the_page_is_all_here(site: Site, described: dict[str, Any]) -> None:
    """The page has every operation and no script, and loads its style from this server only."""
    answer = await site.http.get("/docs")
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'; style-src 'self'" in answer.headers["Content-Security-Policy"]
    links = Links()
    links.feed(answer.text)
    assert not links.tags & {"script", "iframe", "img", "object", "base", "form"}
    operations = {said["operationId"] for methods in described["paths"].values() for said in methods.values()}
    shown = (
        operations
        | {method.name for method in METHODS}
        | set(EVENTS)
        | {f"schema-{name}" for name in described["components"]["schemas"]}
    )
    assert shown - links.ids == set()
    for tag, target in links.found:
        assert (
            target in ("/docs/style.css", "/openapi.json", "/asyncapi.json") or target.removeprefix("#") in links.ids
        ), (tag, target)
    style = await site.http.get("/docs/style.css")
    assert style.status_code == 200 and style.headers["Content-Type"].startswith("text/css")
    assert not re.search(r"url\(|@import|https?:", style.text)
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", answer.text)
    again = await site.http.get("/docs", headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304


async def test_the_errors_of_each_operation(described: dict[str, Any]) -> None:
    """An operation lists those codes that it may end with, and no others of the same status."""
    codes = {
        said["operationId"]: {
            code
            for answer in said["responses"].values()
            for code in re.findall(r"^- `(\w+)`:", answer["description"], re.MULTILINE)
        }
        for methods in described["paths"].values()
        for said in methods.values()
    }
    assert "username_taken" in codes["usersCreate"] and "last_owner" not in codes["usersCreate"]
    assert "username_taken" not in codes["conversationsRemoveMember"]
    assert "registration_closed" in codes["authCallback"]
    pages = {name for name, found in codes.items() if "invalid_cursor" in found}
    assert {"conversationsListMine", "conversationsListMembers", "usersSearch", "authListSessions"} <= pages
    assert "messagesCreate" not in pages


async def test_keys_that_are_of_no_use(site: Site, described: dict[str, Any]) -> None:
    """An operation that takes an Idempotency-Key and does not look at it cannot answer that it was used before."""
    posts = {said["operationId"]: path for path, methods in described["paths"].items() for said in methods.values()}
    without = {
        said["operationId"]
        for methods in described["paths"].values()
        for method, said in methods.items()
        if method == "post" and "422" not in said["responses"]
    }
    assert without == {
        "authExchange", "authLogout", "groupsJoin", "groupsJoinByLink", "hubNegotiate", "provisioningMint",
        "webhooksReplay", "provisioningPutAll", "reportsCreate",
    }  # fmt: skip
    _, token = await site.user("alice")
    key = {"Authorization": f"Bearer {token}", "Idempotency-Key": "one"}
    for name in sorted(without):
        for code in "ab":
            path = posts[name].replace("{conversationId}", str(uuid4()))
            answer = await site.http.post(path, json={"code": code, "token": code}, headers=key)
            assert answer.status_code != 422, name


async def test_a_browser_is_shown_where_to_go(site: Site) -> None:
    """`/` is a page for a browser, without a script or another host; for everything else there is nothing there."""
    page = await site.http.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.status_code == 200 and page.headers["Content-Type"].startswith("text/html")
    assert 'href="/docs"' in page.text and "script" not in page.text and "//" not in page.text
    assert "Accept" in page.headers["Vary"] and "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert (await site.call("GET", "/", status=404))["code"] == "not_found"


async def test_an_unknown_address_leads_on(site: Site) -> None:
    """A browser that opens it is shown a page with ways on, which says nothing of the address; programs, and browsers
    at addresses that are for programs, get the problem."""
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path in ("/nothing/here", "/doc", "/apis", "/%3Cscript%3E"):
        page = await site.http.get(path, headers=browser)
        assert page.status_code == 404 and page.headers["Content-Type"].startswith("text/html"), path
        assert 'href="/"' in page.text and 'href="/docs"' in page.text and "script" not in page.text
        assert "Accept" in page.headers["Vary"] and "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert page.headers["Cache-Control"] == "no-store"
        assert (await site.call("GET", path, status=404))["code"] == "not_found"
        assert (await site.call("POST", path, headers=browser, status=404))["code"] == "not_found"
    for path in ("/api/nothing", "/API/nothing", "/auth/nothing", "/hubs/other", "/api"):
        assert (await site.call("GET", path, headers=browser, status=404))["code"] == "not_found", path


async def test_the_hub_is_described(site: Site) -> None:
    """/asyncapi.json has every method and event with its arguments, and the errors of each."""
    described = await site.call("GET", "/asyncapi.json")
    said = {name: one["action"] for name, one in described["operations"].items()}
    assert said == {**{method.name: "receive" for method in METHODS}, **dict.fromkeys(EVENTS, "send")}
    messages = described["components"]["messages"]
    arguments = {}
    for name in said:
        items = messages[name]["payload"]["properties"]["arguments"].get("items", ())
        arguments[name] = [one["title"] for one in items]
    assert arguments["JoinConversation"] == ["conversationId", "sinceSeq"]
    assert arguments["ConversationRemoved"] == ["conversationId", "reason"]
    assert "forbidden" in described["operations"]["SendMessage"]["x-errors"]
    assert "forbidden" not in described["operations"]["MarkRead"]["x-errors"]
    waiting = {name for name, said in described["operations"].items() if "unavailable" in said.get("x-errors", ())}
    assert {method.name for method in METHODS} - waiting == {"Ping", "LeaveConversation", "StopTyping"}
    assert messages["SendMessageAnswer"]["payload"]["properties"]["result"]["$ref"].endswith("/SentMessage")
