"""server.identity.access_tokens and server.identity.jwks: who is let in, and with which keys."""

import gzip
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timezone
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from structlog.testing import capture_logs
from trio.testing import MockClock

from handlers.errors import ChatError
from server.config.loading import load
from server.identity import jwks
from server.identity.access_tokens import LEEWAY, Verifier, mint_token
from server.identity.jwks import MAX_KEYS, MAX_SAME, MIN_INTERVAL, TRUSTED_FOR, KeySet, _parse_all
from server.identity.sign_in_state import Sealer
from store.ids import new_id
from store.signing import SigningKeys
from tests.waiting import wait_until

KEY = "k" * 40
USER = new_id()
SETTINGS = load({}, None, jwt_key=KEY)
ISSUER, AUDIENCE = SETTINGS.jwt_issuer, SETTINGS.jwt_audience
ODD_SIDS: tuple[object, ...] = (5, ["x"], {"a": {}}, True, "x")


def claims(**changes: Any) -> dict[str, Any]:
    found = {"iss": ISSUER, "aud": AUDIENCE, "sub": str(USER), "exp": time.time() + 3600, **changes}
    return {name: value for name, value in found.items() if value is not None}


def verifier(keys: KeySet | None = None) -> Verifier:
    return Verifier(SigningKeys(KEY), issuer=ISSUER, audience=AUDIENCE, keys=keys)


async def test_our_own_tokens() -> None:
    """A token of this service is accepted, with the caller's id, rights and expiry."""
    caller = await verifier().verify(mint_token(SETTINGS, USER, 60, admin=True))
    assert caller.user_id == USER and caller.is_admin
    assert abs(caller.expires_at - LEEWAY - time.time() - 60) < 2
    assert not (await verifier().verify(mint_token(SETTINGS, USER))).is_admin
    for roles in ({"role": "Admin"}, {"roles": ["User", "admin"]}):
        assert (await verifier().verify(jwt.encode(claims(**roles), KEY, "HS256"))).is_admin


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", "malformed"),
        ("a.b.c", "malformed"),
        ("é", "malformed"),
        (jwt.encode(claims(), "x" * 40, "HS256"), "signature"),
        (jwt.encode(claims(), "k" * 64, "HS512"), "signed in a way"),
        (jwt.encode(claims(), "", "none"), "signed in a way"),
        (jwt.encode(claims(exp=time.time() - 60), KEY, "HS256"), "expired"),
        (jwt.encode(claims(exp=None), KEY, "HS256"), "lacks the claim 'exp'"),
        (jwt.encode(claims(sub=None), KEY, "HS256"), "lacks the claim 'sub'"),
        (jwt.encode(claims(nbf=time.time() + 3600), KEY, "HS256"), "not valid yet"),
        (jwt.encode(claims(iss="other"), KEY, "HS256"), "another issuer"),
        (jwt.encode(claims(aud="other"), KEY, "HS256"), "another audience"),
        (jwt.encode(claims(aud=None), KEY, "HS256"), "aud"),
        (jwt.encode(claims(sub="unknown"), KEY, "HS256"), "not acceptable"),
        (jwt.encode(claims(sub=["x"]), KEY, "HS256"), "not acceptable"),
        (jwt.encode(claims(aud=5), KEY, "HS256"), "another audience"),
        (jwt.encode(claims(aud=["other", {"x": 1}]), KEY, "HS256"), "another audience"),
        *((jwt.encode(claims(sid=sid), KEY, "HS256"), "not acceptable") for sid in ODD_SIDS),
        *((jwt.encode(claims(role=role), KEY, "HS256"), "not acceptable") for role in (5, True)),
        (jwt.encode(claims(exp="soon"), KEY, "HS256"), "malformed"),
    ],
)
async def test_refused_tokens(token: str, sentence: str) -> None:
    """Each fault is `unauthenticated`, with the reason."""
    with pytest.raises(ChatError, match=sentence) as caught:
        await verifier().verify(token)
    assert caught.value.code == "unauthenticated"


DEEP = "[" * 100_000


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), float("inf"), float("-inf"), float("nan"), True, "9999999999", [1], {"a": 1}, 2**60, 1e300],
    ids=str,
)
async def test_dates_that_are_none(claim: str, value: Any) -> None:
    """A claim that should be a date is a finite number of sensible size, or the token is refused."""
    with pytest.raises(ChatError) as caught:
        await verifier().verify(jwt.encode(claims(**{claim: value}), KEY, "HS256"))
    assert caught.value.code == "unauthenticated"


async def test_tokens_nested_without_end() -> None:
    """Unbounded numbers and nesting are refused, in the header, which is not signed, and in signed claims."""
    encoded = jwt.utils.base64url_encode(DEEP.encode()).decode()
    for token in (f"{encoded}.{encoded}.x", jwt.api_jws.encode(DEEP.encode(), KEY, "HS256")):
        with pytest.raises(ChatError) as caught:
            await verifier().verify(token)
        assert caught.value.code == "unauthenticated"
        assert Sealer(SigningKeys(KEY)).open(token) is None


async def test_remembered_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was good is not worked on again; it still ends with its time and with its key, and only so many are
    remembered."""
    signing = SigningKeys(KEY)
    checks = Verifier(signing, issuer=ISSUER, audience=AUDIENCE)
    token, short = mint_token(SETTINGS, USER), mint_token(SETTINGS, USER, 60)
    caller = await checks.verify(token)
    assert await checks.verify(token) is caller
    with pytest.raises(ChatError, match="signature"):
        await checks.verify(f"{token[:-2]}{'AA' if token[-2:] != 'AA' else 'BB'}")
    await checks.verify(short)
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr("server.identity.access_tokens.time.time", lambda: now + 60 + LEEWAY + 1)
        assert await checks.verify(token) is caller
        with pytest.raises(ChatError, match="expired"):
            patch.setattr("jwt.api_jwt.datetime", _At(now + 60 + LEEWAY + 1))
            await checks.verify(short)
    signing.replace("n" * 40, KEY)
    assert await checks.verify(token) == caller
    signing.replace("n" * 40)
    with pytest.raises(ChatError, match="signature"):
        await checks.verify(token)
    monkeypatch.setattr("server.identity.access_tokens.VERIFIED_MAX", 2)
    signing.replace(KEY)
    first, *_ = [await checks.verify(one) for one in (token, short, mint_token(SETTINGS, USER))]
    assert await checks.verify(token) == first and await checks.verify(token) is not first


async def test_a_verified_token_is_not_kept() -> None:
    """What is remembered of a token is its digest: neither its length in memory, nor a secret."""
    token = mint_token(SETTINGS, USER)
    checks, before = verifier(), sys.getrefcount(token)
    caller = await checks.verify(token)
    assert await checks.verify(token) is caller and sys.getrefcount(token) == before


class _At:
    """`datetime` for PyJWT at another time."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self, tz: timezone) -> datetime:
        return datetime.fromtimestamp(self._now, tz)


async def test_leeway() -> None:
    """A small difference of clocks is tolerated."""
    await verifier().verify(
        jwt.encode(claims(exp=time.time() - LEEWAY + 3, nbf=time.time() + LEEWAY - 2), KEY, "HS256")
    )


# -- keys behind a URL ---------------------------------------------------------------------------------------------


class Issuer:
    """A JWKS endpoint on loopback, with one key of each kind."""

    def __init__(self) -> None:
        self.asked = 0
        self.keys: dict[str, Any] = {
            "rsa": rsa.generate_private_key(65537, 2048),
            "ec": ec.generate_private_key(ec.SECP256R1()),
            "ed": ed25519.Ed25519PrivateKey.generate(),
        }
        self.algorithms = {"rsa": "RS256", "ec": "ES256", "ed": "EdDSA"}

    def document(self) -> bytes:
        kinds: dict[str, Any] = {
            "rsa": jwt.algorithms.RSAAlgorithm,
            "ec": jwt.algorithms.ECAlgorithm,
            "ed": jwt.algorithms.OKPAlgorithm,
        }
        keys = [
            {**kinds[kid[:3].rstrip("2")].to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}
            for kid, key in self.keys.items()
        ]
        return json.dumps({"keys": keys}).encode()

    def token(self, kid: str, **changes: Any) -> str:
        return jwt.encode(claims(**changes), self.keys[kid], self.algorithms[kid], headers={"kid": kid})

    async def serve(self, stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        self.asked += 1
        body = self.document()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with suppress(trio.BrokenResourceError):  # who asked may not want all of it
            await stream.send_all(head.encode() + body)


@asynccontextmanager
async def issuing() -> AsyncIterator[tuple[Issuer, Verifier]]:
    issuer = Issuer()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, issuer.serve, 0)
        port = listeners[0].socket.getsockname()[1]
        yield issuer, verifier(KeySet(f"http://127.0.0.1:{port}/jwks"))
        nursery.cancel_scope.cancel()


async def test_keys_of_every_kind() -> None:
    """RS256, ES256 and EdDSA are verified by the JWKS, HS256 by our key beside them; keys are fetched once."""
    async with issuing() as (issuer, check):
        for kid in issuer.keys:
            assert (await check.verify(issuer.token(kid))).user_id == USER
        assert (await check.verify(mint_token(SETTINGS, USER))).user_id == USER
        assert issuer.asked == 1


async def test_another_issuers_tokens_for_others() -> None:
    """A token of the configured issuer is good for us only: not for another audience, nor a minute after its end."""
    async with issuing() as (issuer, check):
        for kid in issuer.keys:
            for changes, sentence in (
                ({"aud": "https://another.example"}, "another audience"),
                ({"aud": ["https://another.example", "https://third.example"]}, "another audience"),
                ({"aud": None}, "aud"),
                ({"iss": "https://another.example"}, "another issuer"),
                ({"exp": time.time() - 60}, "expired"),
                ({"sid": 5, "exp": 10**400}, "not acceptable|malformed"),
            ):
                with pytest.raises(ChatError, match=sentence) as caught:
                    await check.verify(issuer.token(kid, **changes))
                assert caught.value.code == "unauthenticated"
            assert (await check.verify(issuer.token(kid, aud=["another", AUDIENCE]))).user_id == USER


async def test_a_document_with_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Invalid keys are skipped; after an invalid or endless document the issuer counts as unreachable."""
    async with issuing() as (issuer, check):
        good = json.loads(issuer.document())["keys"]
        values: tuple[Any, ...] = (5, [], "=", "")
        broken = [
            {**one, "kid": None, field: value}
            for one in good
            for field in ("n", "e", "x", "y", "crv")
            for value in values
        ]
        for document in (b"[]", b'{"keys": 5}', b"\xff", b" " * (2 * 1024 * 1024), b'{"keys":' + b"[" * 100_000):
            monkeypatch.setattr(issuer, "document", lambda document=document: document)
            keys = KeySet(check._keys._url)  # type: ignore[union-attr]  # it has them
            with pytest.raises(ChatError, match="out of reach"):
                await keys.find("rsa")
        monkeypatch.setattr(
            issuer, "document", lambda: json.dumps({"keys": ["x", None, 1, {}, *broken, *good]}).encode()
        )
        assert (await check.verify(issuer.token("rsa"))).user_id == USER


async def test_a_document_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work for a key set is bounded: no private keys, no decompression, a limited number of keys."""
    async with issuing() as (issuer, check):
        good = json.loads(issuer.document())["keys"]
        rsa_key = jwt.algorithms.RSAAlgorithm
        private = rsa_key.to_jwk(rsa.generate_private_key(65537, 2048), as_dict=True)
        small = rsa_key.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)
        huge = {"kty": "RSA", "e": "AQAB", "n": "_" * 5000 + "Q"}
        wrong: tuple[Any, ...] = ([], {}, 5)
        passed_over: list[Any] = [{**good[1], "kid": value} for value in wrong]
        passed_over += [{**one, "kid": "rsa"} for one in (private, small, huge)]
        monkeypatch.setattr(issuer, "document", lambda: json.dumps({"keys": [*good, *passed_over]}).encode())
        for kid in issuer.keys:
            assert (await check.verify(issuer.token(kid))).user_id == USER
        assert len(check._keys._keys) == 3  # type: ignore[union-attr]  # it has them

        turns, is_over = 0, False

        async def other() -> None:
            nonlocal turns
            while not is_over:
                turns += 1
                await trio.lowlevel.checkpoint()

        many = [{**good[1], "kid": str(number)} for number in range(MAX_KEYS + 20)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            assert len(await _parse_all(many)) == MAX_KEYS
            is_over = True
        assert turns > MAX_KEYS // 2


async def test_a_compressed_document() -> None:
    """A compressed document is refused: it could expand a thousandfold before its size is known."""

    async def serve(stream: trio.SocketStream) -> None:
        asked = await stream.receive_some(65536)
        assert b"accept-encoding: identity" in asked.lower()
        body = gzip.compress(Issuer().document())
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)

    async with trio.open_nursery() as nursery:
        listener, *_ = await nursery.start(trio.serve_tcp, serve, 0)
        with capture_logs() as lines, pytest.raises(ChatError, match="out of reach"):
            await KeySet(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/jwks").find("rsa")
        assert "compressed" in lines[0]["reason"]
        nursery.cancel_scope.cancel()


async def test_keys_that_are_away_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are asked for again soon, without a token that needs them, until they are there; what comes
    before is answered with how long to wait."""
    async with issuing() as (issuer, check), trio.open_nursery() as nursery:
        good, keys = issuer.document(), check._keys
        assert keys is not None
        is_back = False
        monkeypatch.setattr(issuer, "document", lambda: good if is_back else b"[]")
        with pytest.raises(ChatError, match="out of reach") as caught:
            await check.verify(issuer.token("rsa"))
        assert caught.value.code == "unavailable" and 1 <= (caught.value.retry_after or 0) <= MIN_INTERVAL
        monkeypatch.setattr(jwks, "MIN_INTERVAL", 0.01)
        await nursery.start(keys.run)
        await wait_until(lambda: issuer.asked > 3)
        is_back = True
        await wait_until(lambda: keys._keys)
        assert (await check.verify(issuer.token("rsa"))).user_id == USER
        nursery.cancel_scope.cancel()


async def test_two_keys_of_one_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that share an id are all good: one of each type, and a key beside its successor, whichever comes first.

    Past `MAX_SAME` the last ones are kept, and one line says so.
    """
    algorithm = jwt.algorithms.RSAAlgorithm
    async with issuing() as (issuer, check):
        rsa_key, ec_key, _ = json.loads(issuer.document())["keys"]
        successor = rsa.generate_private_key(65537, 2048)
        second = {**algorithm.to_jwk(successor.public_key(), as_dict=True), "kid": "one"}
        tokens = [
            jwt.encode(claims(), key, alg, headers={"kid": "one"})
            for key, alg in ((issuer.keys["rsa"], "RS256"), (issuer.keys["ec"], "ES256"), (successor, "RS256"))
        ]
        both = [{**rsa_key, "kid": "one"}, {**ec_key, "kid": "one"}, second]
        for document in (both, both[::-1]):
            monkeypatch.setattr(issuer, "document", lambda keys=document: json.dumps({"keys": keys}).encode())
            fresh = verifier(KeySet(check._keys._url))  # type: ignore[union-attr]  # it has them
            for token in tokens:
                assert (await fresh.verify(token)).user_id == USER
            forged = jwt.encode(claims(), rsa.generate_private_key(65537, 2048), "RS256", headers={"kid": "one"})
            with pytest.raises(ChatError, match="signature"):
                await fresh.verify(forged)
        many = [both[0], *[second] * MAX_SAME]
        monkeypatch.setattr(issuer, "document", lambda: json.dumps({"keys": many}).encode())
        fresh = verifier(KeySet(check._keys._url))  # type: ignore[union-attr]
        with capture_logs() as lines:
            assert (await fresh.verify(tokens[2])).user_id == USER
        assert [line["event"] for line in lines] == ["jwks_keys_left_out"]
        with pytest.raises(ChatError, match="signature"):
            await fresh.verify(tokens[0])


async def test_tokens_of_another_kind() -> None:
    """A token whose header says that it is no access token is refused, from any issuer (RFC 8725, 3.11)."""
    async with issuing() as (issuer, check):
        for key, algorithm, kid in ((KEY, "HS256", None), (issuer.keys["rsa"], "RS256", "rsa")):
            named = {"kid": kid} if kid else {}
            for kind in (None, "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"):
                token = jwt.encode(claims(), key, algorithm, headers={**named, "typ": kind})
                assert (await check.verify(token)).user_id == USER
            for other in ("logout+jwt", "application/logout+jwt", "secevent+jwt", "dpop+jwt", "id_token", "at"):
                token = jwt.encode(claims(), key, algorithm, headers={**named, "typ": other})
                with pytest.raises(ChatError, match="another kind") as caught:
                    await check.verify(token)
                assert caught.value.code == "unauthenticated"


async def test_algorithm_confusion() -> None:
    """A public key is not accepted as an HMAC secret, nor a key for another algorithm (RFC 8725, 3.1)."""
    async with issuing() as (issuer, check):
        public = (
            issuer.keys["rsa"]
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        header = jwt.utils.base64url_encode(b'{"alg":"HS256","kid":"rsa","typ":"JWT"}')
        body = jwt.utils.base64url_encode(json.dumps(claims()).encode())
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(header + b"." + body, public)
        forged = b".".join((header, body, jwt.utils.base64url_encode(signature))).decode()
        with pytest.raises(ChatError, match="signature"):
            await check.verify(forged)
        swapped = jwt.encode(claims(), issuer.keys["rsa"], "RS256", headers={"kid": "ec"})
        with pytest.raises(ChatError):
            await check.verify(swapped)


async def test_unknown_kid_is_fetched_once() -> None:
    """A new key is found by one refetch; many invented key ids do not cause many fetches."""
    async with issuing() as (issuer, check):
        await check.verify(issuer.token("ec"))
        for number in range(20):
            token = jwt.encode(claims(), issuer.keys["ec"], "ES256", headers={"kid": f"invented{number}"})
            with pytest.raises(ChatError, match="unknown key"):
                await check.verify(token)
        assert issuer.asked <= 3


async def test_who_asked_for_the_keys_leaves(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that leaves while the keys are fetched does not make the next one wait for the next interval."""
    async with issuing() as (issuer, check):
        scope, asked, whole = trio.CancelScope(), trio.Event(), KeySet._read

        async def read(keys: KeySet) -> bytes:
            if not asked.is_set():
                asked.set()
                await trio.sleep_forever()
            return await whole(keys)

        monkeypatch.setattr(KeySet, "_read", read)

        async def leave() -> None:
            with scope:
                await check.verify(issuer.token("ec"))

        nursery.start_soon(leave)
        await asked.wait()
        scope.cancel()
        await check.verify(issuer.token("ec"))


async def test_keys_of_an_issuer_that_is_away_end(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of an unreachable issuer are valid for `TRUSTED_FOR`; outage, expiry and return are logged once each."""
    async with issuing() as (issuer, check):
        token, document = issuer.token("ec", exp=time.time() + 9e5), issuer.document
        await check.verify(token)
        monkeypatch.setattr(issuer, "document", lambda: b"nonsense")
        with capture_logs() as lines:
            for _ in range(23):
                mock_clock.jump(TRUSTED_FOR / 24)
                await check.verify(token)
            mock_clock.jump(TRUSTED_FOR / 24 + 1)
            for _ in range(2):
                with pytest.raises(ChatError) as caught:
                    await check.verify(token)
                assert caught.value.code == "unavailable"
            monkeypatch.setattr(issuer, "document", document)
            mock_clock.jump(MIN_INTERVAL)
            await check.verify(token)
        assert [line["event"] for line in lines] == ["jwks_unreachable", "jwks_expired", "jwks_reachable"]


async def test_keys_that_never_came(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the keys are unreachable, an unknown key id is `unavailable` with a time to wait, not a wrong token."""
    async with issuing() as (issuer, check):
        monkeypatch.setattr(issuer, "document", lambda: b"nonsense")
        for _ in range(2):  # the second one while no fetch is due
            with pytest.raises(ChatError) as caught:
                await check.verify(issuer.token("ec"))
            assert caught.value.code == "unavailable" and caught.value.retry_after == MIN_INTERVAL
        assert issuer.asked == 1
        monkeypatch.undo()
        mock_clock.jump(MIN_INTERVAL)
        await check.verify(issuer.token("ec"))
