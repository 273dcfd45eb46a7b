"""An identity provider whose answers a test controls. It checks the requests, and none of its answers."""

import base64
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import jwt
import trio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import redirect, request
from quart_trio import QuartTrio

from tests.running import free_port

CLIENT, SECRET = "parley client", "s3cret/+"  # quoting them is part of the test
CODE = "a-code"


class FakeProvider:
    """Tests change `claims` and `header`; `key` signs, and `published` is the JWKS."""

    def __init__(self, port: int) -> None:
        self.issuer = f"http://localhost:{port}"
        self.named = self.issuer
        self.authorization_endpoint = f"{self.issuer}/authorize?prompt=login"
        self.key: Any = rsa.generate_private_key(65537, 2048)
        self.kid = "one"
        self.algorithm = "RS256"
        self.kind = "JWT"
        self.published = [(self.kid, self.key)]
        self.claims: dict[str, Any] = {}
        self.nonce = ""
        self.verifier_of = ""  # the challenge of the sign-in that is under way
        self.fetches = 0
        self.declines = False
        self.status = 200
        self.gives_id_token = True
        self.user: Any = {"id": 4711, "login": "octo", "name": "Octo Cat", "avatar_url": "https://x.example/cat.png"}

    def rotate(self) -> None:
        self.key, self.kid = rsa.generate_private_key(65537, 2048), self.kid + "+"
        self.published = [(self.kid, self.key)]

    def elliptic(self) -> None:
        self.key, self.kid, self.algorithm = ec.generate_private_key(ec.SECP256R1()), "ec", "ES256"
        self.published = [(self.kid, self.key)]

    def id_token(self) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "sub": "subject-1", "iat": now, "exp": now + 60,
                  "nonce": self.nonce, **self.claims}  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(
            claims, self.key, self.algorithm, headers={"typ": self.kind, **({"kid": self.kid} if self.kid else {})}
        )

    def jwks(self) -> dict[str, Any]:
        keys = []
        for kid, key in self.published:
            kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
            keys.append({**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"})
        return {"keys": keys}

    def app(self) -> QuartTrio:
        app = QuartTrio("provider")

        @app.get("/.well-known/openid-configuration")
        async def discovery() -> Any:
            return {
                "issuer": self.named,
                "authorization_endpoint": self.authorization_endpoint,
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
            }

        @app.get("/jwks")
        async def jwks() -> Any:
            self.fetches += 1
            return self.jwks()

        @app.get("/authorize")
        async def authorize() -> Any:
            """What a person does there: they consent at once, or they do not."""
            asked = request.args
            self.verifier_of, self.nonce = asked["code_challenge"], asked.get("nonce", "")
            answer = {"error": "access_denied"} if self.declines else {"code": CODE}
            return redirect(f"{asked['redirect_uri']}?{urlencode({**answer, 'state': asked['state']})}")

        @app.post("/token")
        async def token() -> Any:
            form = await request.form
            challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode()
            if form["code"] != CODE or challenge.rstrip("=") != self.verifier_of:
                return {"error": "invalid_grant"}, 400
            if self.status != 200:
                return {"error": "server_error"}, self.status
            return {"access_token": "opaque", **({"id_token": self.id_token()} if self.gives_id_token else {})}

        @app.get("/user")
        async def user() -> Any:
            return self.user if request.headers["Authorization"] == "Bearer opaque" else ({}, 401)

        return app


@asynccontextmanager
async def open_provider(nursery: trio.Nursery) -> AsyncIterator[FakeProvider]:
    port = free_port()
    provider = FakeProvider(port)
    config = Config()
    config.bind = [f"localhost:{port}"]
    config.errorlog = None
    with trio.CancelScope() as scope:
        done = trio.Event()
        await nursery.start(_serve, provider, config, done)
        yield provider
        done.set()
        scope.cancel()


async def _serve(
    provider: FakeProvider, config: Config, done: trio.Event, *, task_status: trio.TaskStatus[None]
) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve(provider.app(), config, task_status=task_status))
        task_status.started()
        await done.wait()
        nursery.cancel_scope.cancel()
