"""The whole sign-in against a real OpenID provider, that enforces PKCE and signs with RS256."""

import datetime
from typing import Any

import httpx
import pytest
import trio

from loadtest.client import connect
from tests.site import open_site

SECRET = "the client's secret"


def add_client(iam_server: Any, redirect_uri: str) -> Any:
    """Register the service with the provider."""
    with iam_server.app.app_context():
        client = iam_server.models.Client(
            client_id="parley",
            client_name="Parley",
            client_secret=SECRET,
            client_id_issued_at=datetime.datetime.now(datetime.UTC),
            redirect_uris=[redirect_uri],
            grant_types=["authorization_code"],
            response_types=["code"],
            scope=["openid", "profile", "email"],
            token_endpoint_auth_method="client_secret_basic",
            id_token_signed_response_alg="RS256",
        )
        iam_server.backend.save(client)
        client.audience = [client]
        iam_server.backend.save(client)
    return client


async def test_sign_in(
    iam_server: Any, database: str, redis_url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user signs in through the provider's own pages and connects; the code is valid once."""
    monkeypatch.setenv("AUTHLIB_INSECURE_TRANSPORT", "1")
    config = {"issuer": iam_server.url.rstrip("/"), "client_id": "parley", "client_secret": SECRET}
    async with open_site(database, redis_url, nursery, registration="oauth", oauth={"iam": config}) as site:
        client = add_client(iam_server, f"{site.url}/auth/callback/iam")
        user = iam_server.random_user(user_name="alice", emails=["alice@example.org"])
        iam_server.login(user)
        iam_server.consent(user, client)
        async with httpx.AsyncClient(base_url=site.url, timeout=60) as browser:
            login = await browser.get("/auth/login/iam")
            back = await browser.get(login.headers["Location"])
            assert back.status_code == 302 and back.headers["Location"].startswith(f"{site.url}/auth/callback/iam?")
            cookies = dict(browser.cookies)
            done = await browser.get(back.headers["Location"])
            assert done.status_code == 200, done.text
            tokens = done.json()
            browser.cookies.update(cookies)
            assert (await browser.get(back.headers["Location"])).status_code == 400
            # A verifier of another sign-in: the provider refuses the code.
            login = await browser.get("/auth/login/iam")
            back = await browser.get(login.headers["Location"])
            code = httpx.URL(back.headers["Location"]).params["code"]
            other = await browser.get("/auth/login/iam")
            state = httpx.URL(other.headers["Location"]).params["state"]
            wrong = await browser.get("/auth/callback/iam", params={"code": code, "state": state})
            assert wrong.status_code == 400 and wrong.json()["code"] == "sign_in_failed"
        me = await site.call("GET", "/api/users/me", token=tokens["accessToken"])
        assert me["displayName"] and me["id"]
        async with connect(f"{site.url}/hubs/chat", tokens["accessToken"]) as hub:
            assert await hub.invoke("Ping") == {}
        iam_server.logout()
