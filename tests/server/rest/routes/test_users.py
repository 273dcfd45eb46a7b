"""REST for users: registration, profiles, search, deletion."""

from tests.site import Site


async def test_registration(site: Site) -> None:
    """Registration answers 201 with the user, their email and a working token; the name is then taken in any case."""
    body = {"username": "alice", "displayName": "Alice A.", "email": "a@example.org"}
    made = await site.call("POST", "/api/users", body, status=201)
    me = await site.call("GET", "/api/users/me", token=made["accessToken"])
    assert me == {key: made[key] for key in me}
    assert {"id", "username", "displayName", "avatarUrl", "status", "statusText", "lastSeenAt", "createdAt"} <= set(me)
    assert me["email"] == "a@example.org" and me["createdAt"].endswith("Z")
    again = await site.call("POST", "/api/users", {"username": "ALICE"}, status=409)
    assert again["code"] == "username_taken"


REFUSED: list[tuple[object, str]] = [
    ({}, "username"),
    ({"username": ""}, "username"),
    ({"username": "x" * 65}, "username"),
    ({"username": 5}, "username"),
    ({"username": "a\u0000b"}, "username"),
    ({"username": "-x-"}, "username"),
    ({"username": "ok", "email": "nonsense"}, "email"),
    ([], "body"),
]


async def test_refused_registrations(site: Site) -> None:
    """A wrong field is answered with 400 and its name."""
    for body, field in REFUSED:
        problem = await site.call("POST", "/api/users", body, status=400)
        assert problem["code"] == "invalid_request", body
        assert field in problem["detail"] or field in problem.get("errors", {}), body


async def test_bodies_that_are_no_json(site: Site) -> None:
    """A body that is not JSON, not UTF-8, of another type or too large gets a 4xx that says so."""
    for content, kind, status in (
        (b"{", "application/json", 400),
        (b'{"username": "\xff"}', "application/json", 400),
        (b"username=x", "application/x-www-form-urlencoded", 400),
        (b'{"username":"' + b"x" * 300_000 + b'"}', "application/json", 413),
        (b"[" * 100_000, "application/json", 400),
    ):
        answer = await site.http.post("/api/users", content=content, headers={"Content-Type": kind})
        assert answer.status_code in (status, 415), (content[:20], answer.text)
        assert answer.json()["code"] in ("invalid_request", "too_large", "unsupported_media_type")


async def test_an_early_answer_is_heard(site: Site) -> None:
    """A request that is refused before it has arrived in full gets its answer; the connection serves the next one."""
    for _ in range(10):
        answer = await site.http.post("/api/users", content=b'{"username":"' + b"x" * 300_000 + b'"}')
        assert answer.status_code in (400, 413, 415)
        await site.call("GET", "/health/live")


async def test_profile_and_status(site: Site) -> None:
    """Given fields change, others stay; a status is accepted in any case, or as its number."""
    alice, token = await site.user("alice")
    await site.call("PUT", "/api/users/me", {"displayName": "A"}, token=token)
    body = {"status": "busy", "statusText": "in a meeting"}
    changed = await site.call("PUT", "/api/users/status", body, token=token)
    assert (changed["displayName"], changed["status"], changed["statusText"]) == ("A", "Busy", "in a meeting")
    assert (await site.call("PUT", "/api/users/status", {"status": 1}, token=token))["status"] == "Away"
    problem = await site.call("PUT", "/api/users/status", {"status": "Sleeping"}, token=token, status=400)
    assert "Busy" in problem["errors"]["status"]
    _, other = await site.user("bob")
    seen = await site.call("GET", f"/api/users/{alice}", token=other)
    assert seen["displayName"] == "A" and "email" not in seen


async def test_what_can_be_taken_away(site: Site) -> None:
    """null removes email, avatar and status text; if left out, they stay."""
    _, token = await site.user("alice")
    full = {"email": "a@example.org", "avatarUrl": "https://example.org/a.png", "statusText": "here"}
    changed = await site.call("PUT", "/api/users/me", {"displayName": "A", **full}, token=token)
    assert {name: changed[name] for name in full} == full
    assert await site.call("PUT", "/api/users/me", {}, token=token) == changed
    assert await site.call("PUT", "/api/users/me", {"displayName": None}, token=token) == changed
    for field in full:
        changed = await site.call("PUT", "/api/users/me", {field: None}, token=token) | {"checked": field}
        assert changed[field] is None and changed["displayName"] == "A"
    assert [changed[field] for field in full] == [None] * 3
    for wrong in ({"email": "no"}, {"email": ""}, {"statusText": "a\nb"}, {"statusText": "x" * 257}):
        await site.call("PUT", "/api/users/me", wrong, token=token, status=400)


async def test_search_is_paged(site: Site) -> None:
    """Each match is listed once over all pages, without the emails of others."""
    token = (await site.user("zoe"))[1]
    for number in range(7):
        await site.user(f"ann{number}")
    names, cursor = [], ""
    while True:
        page = await site.call("GET", "/api/users", token=token, params={"q": "ANN", "limit": 3, "cursor": cursor})
        names += [user["username"] for user in page["items"]]
        assert all("email" not in user for user in page["items"])
        if page["next"] is None:
            break
        cursor = page["next"]
    assert names == [f"ann{number}" for number in range(7)]
    for query in ({"limit": 0}, {"limit": 201}, {"limit": "x"}, {"cursor": "!!"}):
        await site.call("GET", "/api/users", token=token, params=query, status=400)


async def test_tokens_are_needed(site: Site) -> None:
    """Requests without a token, with a broken one or one of a deleted user get 401 with WWW-Authenticate."""
    for headers in ({}, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic eDp5"}):
        answer = await site.http.get("/api/users/me", headers=headers)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["code"] == "unauthenticated"
    alice, token = await site.user("alice")
    bob, other = await site.user("bob")
    assert (await site.call("DELETE", f"/api/users/{alice}", token=other, status=403))["code"] == "forbidden"
    await site.call("DELETE", f"/api/users/{alice}", token=token, status=204)
    await site.call("GET", "/api/users/me", token=token, status=401)
    await site.call("GET", "/api/users/nonsense", token=other, status=404)
    await site.call("PATCH", f"/api/users/{bob}", {}, token=other, status=405)


PICTURES = {
    "https://pics.example/a.png?x=1#y": 200,
    "https://[2001:db8::1]:8443/a": 200,
    "http://pics.example/a.png": 400,
    "HTTPS://pics.example/": 400,
    "javascript:alert(1)": 400,
    "data:text/html,x": 400,
    "//pics.example/a.png": 400,
    "https:pics.example": 400,
    "https://user@pics.example/": 400,
    "https://user:word@pics.example/": 400,
    "https://pics.example\\@evil.example/": 400,
    "https://pics.example/\u202egnp": 400,
    "https://pics.example/\x1b[2J": 400,
    "https://pics.example/'><script>": 400,
    "https://pics.example/ x": 400,
    "https://pics.example/" + "x" * 2048: 400,
}


async def test_pictures(site: Site) -> None:
    """An avatar has to be an https URL without a user, as pictures from providers do; others are not stored."""
    _, token = await site.user("alice")
    for url, status in PICTURES.items():
        problem = await site.call("PUT", "/api/users/me", {"avatarUrl": url}, token=token, status=status)
        assert status == 200 or "avatarUrl" in str(problem), url
    assert (await site.call("GET", "/api/users/me", token=token))["avatarUrl"] == "https://[2001:db8::1]:8443/a"


BLANKS = (
    "\u3164\uffa0\u115f\u1160\u00ad\u034f\u061c\u180e\u200b\u202e\u2060\u2066\u2800\ufeff\ufff0\U000e0041\U0001bca0"
)


async def test_names_that_show_nothing(site: Site) -> None:
    """Names contain no invisible characters; a name of joiners or a message of blanks counts as empty."""
    _, token = await site.user("alice")
    for blank in BLANKS:
        for name in (f"bo{blank}b", f"bob{blank}", blank):
            assert (await site.call("POST", "/api/users", {"username": name}, status=400))["code"] == "invalid_request"
        body = {"displayName": f"Al{blank}ice"}
        assert "displayName" in (await site.call("PUT", "/api/users/me", body, token=token, status=400))["errors"]
        await site.call("POST", "/api/users", {"username": "carl", **body}, status=400)
    for nothing in ("\u200d", "\u200c \ufe0f", " "):
        await site.call("PUT", "/api/users/me", {"displayName": nothing}, token=token, status=400)
    made = await site.call("POST", "/api/users", {"username": "dora", "displayName": "\u200d\ufe0f"}, status=201)
    assert made["displayName"] == "dora"
    for name in ("👩\u200d👩\u200d👧", "❤\ufe0f", "葛\U000e0100城", "می\u200cخواهم"):
        await site.call("PUT", "/api/users/me", {"displayName": name}, token=token)
    group = await site.call("POST", "/api/conversations", {"type": "Group", "name": "g"}, token=token, status=201)
    for content in (BLANKS, "\u200d\ufe0f", "\u2800\n\u3164", "\U00013441"):
        body = {"conversationId": group["id"], "content": content}
        assert (await site.call("POST", "/api/messages", body, token=token, status=400))["code"] == "invalid_content"


async def test_names_that_look_like_another(site: Site) -> None:
    """Full-width letters, other scripts and digits that look like a user's name get 409."""
    await site.user("boss")
    for name in ("ｂｏｓｓ", "bоss", "b0ss", "BOSS"):
        taken = await site.call("POST", "/api/users", {"username": name}, status=409)
        assert taken["code"] == "username_taken", name
