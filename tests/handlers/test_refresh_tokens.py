"""handlers.refresh_tokens: only our seal makes a token, and each has one that follows."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.refresh_tokens import RefreshTokens
from store.ids import new_id
from store.signing import SigningKeys

KEYS = SigningKeys("a key")
TOKENS = RefreshTokens(KEYS)
LENGTH = 64  # bytes: 16 of the session, 28 of chance, 4 of the number, 16 of the seal


def test_issued() -> None:
    """It is of its session, sealed, known by its hash, and never the same twice."""
    session_id = new_id()
    made = [TOKENS.issue(session_id) for _ in range(10)]
    for token, token_hash in made:
        found = TOKENS.read(token)
        assert found is not None and found.is_sealed and found.number == 0
        assert (found.session_id, found.hash) == (session_id, token_hash)
        assert token_hash == hashlib.sha256(base64.urlsafe_b64decode(token)).digest()
    assert len({token for token, _ in made}) == 10


@given(position=st.integers(0, LENGTH - 1), bit=st.integers(0, 7))
def test_one_bit_of_another(position: int, bit: int) -> None:
    """A token changed in any one bit has no seal: it is not taken for a token that was spent."""
    raw = bytearray(base64.urlsafe_b64decode(TOKENS.issue(new_id())[0]))
    raw[position] ^= 1 << bit
    found = TOKENS.read(base64.urlsafe_b64encode(raw).decode())
    assert found is not None and not found.is_sealed


@given(st.text(max_size=100) | st.binary(max_size=100).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_what_is_no_token(text: str) -> None:
    """Of another length or none of base64's signs: None. Of ours: without a seal."""
    found = TOKENS.read(text)
    assert found is None or not found.is_sealed


@pytest.mark.parametrize("length", [0, LENGTH - 1, LENGTH + 1])
def test_lengths(length: int) -> None:
    """One byte less or more is no token."""
    assert TOKENS.read(base64.urlsafe_b64encode(b"a" * length).decode()) is None


def test_what_follows() -> None:
    """Always the same, sealed, of the same session; of each token another."""
    session_id = new_id()
    one, other = (TOKENS.read(TOKENS.issue(session_id)[0]) for _ in range(2))
    assert one is not None and other is not None
    token, token_hash = TOKENS.follow(one, 1)
    assert TOKENS.follow(one, 1) == (token, token_hash) != TOKENS.follow(other, 1)
    assert TOKENS.follow(one, 2) != (token, token_hash)
    found = TOKENS.read(token)
    assert found is not None and found.is_sealed and found.number == 1
    assert (found.session_id, found.hash) == (session_id, token_hash)


def test_a_token_of_a_version_before() -> None:
    """It has no number; what follows it has one."""
    key, session_id = KEYS.derive(b"parley refresh token v1").current, new_id()
    body = session_id.bytes + b"s" * 32
    raw = body + hmac.digest(key, body, "sha256")[:16]
    found = TOKENS.read(base64.urlsafe_b64encode(raw).decode())
    assert found is not None and found.is_sealed and found.number is None and found.session_id == session_id
    following = TOKENS.read(TOKENS.follow(found, 7)[0])
    assert following is not None and following.is_sealed and following.number == 7


def test_a_refresh_repeated_at_another_version() -> None:
    """An instance of the version before has answered, and that was lost: the token that it gave is found again."""
    key, session_id = KEYS.derive(b"parley refresh token v1").current, new_id()
    found = TOKENS.read(TOKENS.issue(session_id)[0])
    assert found is not None
    body = session_id.bytes + hmac.digest(key, b"next" + found.raw, "sha256")
    raw = body + hmac.digest(key, body, "sha256")[:16]
    given = base64.urlsafe_b64encode(raw).decode(), hashlib.sha256(raw).digest()
    assert TOKENS.follow(found, 0, given[1]) == given != TOKENS.follow(found, 0)


def test_keys_are_exchanged() -> None:
    """A token of the key before is good, and what followed it then is found again; of a key no longer accepted it has
    no seal."""
    keys = SigningKeys("old")
    tokens = RefreshTokens(keys)
    token, _ = tokens.issue(new_id())
    before = tokens.read(token)
    assert before is not None
    followed = tokens.follow(before, 1)
    keys.replace("new", "old")
    found = tokens.read(token)
    assert found is not None and found.is_sealed
    assert tokens.follow(found, 1, followed[1]) == followed != tokens.follow(found, 1)
    assert tokens.follow(found, 1, b"of none") == tokens.follow(found, 1)
    keys.replace("new")
    found = tokens.read(token)
    assert found is not None and not found.is_sealed


def test_no_key_but_ours() -> None:
    """The same key signs other things too: a seal made with it directly is none."""
    other = RefreshTokens(SigningKeys("another key"))
    found = TOKENS.read(other.issue(new_id())[0])
    assert found is not None and not found.is_sealed
