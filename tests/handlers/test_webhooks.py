"""handlers.webhooks: only administrators look after endpoints, and a secret is shown once."""

import base64
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest
from msgspec.structs import replace

from handlers.model import Caller, CreateWebhook, NewWebhook, Once, ReplayDeadLetters, UpdateWebhook
from handlers.webhooks import MAX_WEBHOOKS, PURPOSE, sealing_keys
from store.ids import new_id
from store.model import DeadLetter, Role, WebhookEvent, WebhookState
from store.sealing import unseal
from tests.handlers.database import NOW
from tests.handlers.memory import Act, Memory, at_every_step, refused

URL = "https://app.example/in"
ONE, OTHER = Once("a key", b"one request"), Once("a key", b"another")


def administrator(memory: Memory) -> Caller:
    return replace(memory.user(), is_admin=True)


async def make(memory: Memory, caller: Caller | None, once: Once | None = None) -> NewWebhook:
    return await memory.webhooks.create(caller, CreateWebhook(URL), once)


def secrets(memory: Memory, webhook_id: UUID) -> list[str]:
    """As they are shown, of what is kept."""
    keys = sealing_keys(memory.keys)
    opened = [unseal(keys, sealed, PURPOSE)[0] for sealed in memory.tables.webhook_secrets[webhook_id]]
    return ["whsec_" + base64.b64encode(one).decode() for one in opened]


ACTS: list[Callable[[Memory, Caller | None, UUID], Awaitable[object]]] = [
    lambda memory, caller, its: memory.webhooks.create(caller, CreateWebhook(URL)),
    lambda memory, caller, its: memory.webhooks.list(caller, 10, None),
    lambda memory, caller, its: memory.webhooks.get(caller, its),
    lambda memory, caller, its: memory.webhooks.update(caller, its, UpdateWebhook("Paused")),
    lambda memory, caller, its: memory.webhooks.rotate_secret(caller, its),
    lambda memory, caller, its: memory.webhooks.dead_letters(caller, its, 10, None),
    lambda memory, caller, its: memory.webhooks.replay(caller, its, ReplayDeadLetters()),
    lambda memory, caller, its: memory.webhooks.delete(caller, its),
]


@pytest.mark.parametrize("number", range(len(ACTS)))
async def test_who_may(memory: Memory, number: int) -> None:
    """An administrator, and an operator of the machine; each other user is refused, also of what is not there."""
    its = (await make(memory, None)).id
    for webhook_id in (its, new_id()):
        error = await refused(memory, ACTS[number](memory, memory.user(), webhook_id))
        assert error.code == "forbidden"
    await ACTS[number](memory, administrator(memory), its)
    await ACTS[number](memory, None, (await make(memory, None)).id)


@pytest.mark.parametrize("number", range(2, len(ACTS)))
async def test_of_what_is_not_there(memory: Memory, number: int) -> None:
    """An endpoint that never was, or was deleted, is not found."""
    caller = administrator(memory)
    its = (await make(memory, caller)).id
    await memory.webhooks.delete(caller, its)
    for webhook_id in (its, new_id()):
        error = await refused(memory, ACTS[number](memory, caller, webhook_id))
        assert error.code == "not_found"


async def test_an_endpoint(memory: Memory) -> None:
    """It is made with all that was asked for; its secret is in one answer, and kept so that it can be read with the key
    only. Events are taken in any case, once each."""
    caller = administrator(memory)
    group = memory.group((memory.user(), Role.OWNER))
    made = await memory.webhooks.create(
        caller, CreateWebhook(URL, ("Message.Created", "message.created", "member.added"), group)
    )
    assert (made.url, made.events, made.conversation_id) == (URL, ("message.created", "member.added"), group)
    assert secrets(memory, made.id) == [made.secret] and len(made.secret) == 50
    assert made.secret.encode() not in memory.tables.webhook_secrets[made.id][0]
    other = await make(memory, caller)
    assert other.secret != made.secret and other.events == ()
    listed, cursor = await memory.webhooks.list(caller, 1, None)
    rest, end = await memory.webhooks.list(caller, 1, cursor)
    assert [one.id for one in (*listed, *rest)] == [made.id, other.id] and end is None
    assert await memory.webhooks.get(caller, made.id) == listed[0] and not hasattr(listed[0], "secret")
    assert memory.publisher.published == []  # it is no change of any conversation


@pytest.mark.parametrize(
    ("request_", "field", "code"),
    [
        (CreateWebhook("http://app.example/"), "url", "invalid_request"),
        (CreateWebhook("https://10.0.0.1/"), "url", "invalid_request"),
        (CreateWebhook(URL, ("message.created", "nothing")), "events", "invalid_request"),
        (CreateWebhook(URL, (), new_id()), None, "not_found"),
    ],
)
async def test_refused(memory: Memory, request_: CreateWebhook, field: str | None, code: str) -> None:
    """What cannot be an endpoint is refused, with the name of the field."""
    error = await refused(memory, memory.webhooks.create(administrator(memory), request_))
    assert error.code == code and list(error.errors) == ([field] if field else [])
    await memory.webhooks.create(None, CreateWebhook("http://inner.example/"))


async def test_how_many(memory: Memory) -> None:
    """So many; one that is deleted makes room."""
    made = [await make(memory, None) for _ in range(MAX_WEBHOOKS)]
    assert (await refused(memory, make(memory, None))).code == "conflict"
    await memory.webhooks.delete(None, made[0].id)
    await make(memory, None)


async def test_made_once(memory: Memory) -> None:
    """The repeated request has the same endpoint, with another secret in place of the first."""
    caller = administrator(memory)
    first, again = await make(memory, caller, ONE), await make(memory, caller, ONE)
    assert again.id == first.id and secrets(memory, first.id)[0] == again.secret != first.secret
    assert again.old_secret_until is None
    assert (await refused(memory, make(memory, caller, OTHER))).code == "idempotency_mismatch"
    await memory.webhooks.delete(caller, first.id)
    assert (await refused(memory, make(memory, caller, ONE))).code == "not_found"


async def test_secrets_in_turn(memory: Memory) -> None:
    """A new secret is shown, and the one before signs, too, for a time."""
    made = await make(memory, None)
    changed = await memory.webhooks.rotate_secret(None, made.id)
    assert secrets(memory, made.id) == [changed.secret, made.secret] and changed.old_secret_until is not None


async def test_states(memory: Memory) -> None:
    """It is paused and active again, in any case; no request disables it; nothing asked is nothing changed."""
    made = await make(memory, None)

    async def update(state: str | None) -> WebhookState:
        return (await memory.webhooks.update(None, made.id, UpdateWebhook(state))).state

    assert await update("paused") is WebhookState.PAUSED and await update(None) is WebhookState.PAUSED
    assert await update("Active") is WebhookState.ACTIVE and await update("Active") is WebhookState.ACTIVE
    for state in ("Disabled", "Deleted", ""):
        error = await refused(memory, memory.webhooks.update(None, made.id, UpdateWebhook(state)))
        assert (error.code, list(error.errors)) == ("invalid_request", ["state"])


async def test_dead_letters(memory: Memory) -> None:
    """They come by pages, the last one first; those named are replayed, or all; a wrong cursor is refused."""
    made = await make(memory, None)
    kind = WebhookEvent.MESSAGE_CREATED.value
    letters = [DeadLetter(f"evt_{n}", kind, new_id(), n, new_id(), None, 1, NOW, "HTTP 500", False) for n in range(3)]
    memory.tables.letters[made.id] = tuple(letters)
    first, cursor = await memory.webhooks.dead_letters(None, made.id, 2, None)
    rest, end = await memory.webhooks.dead_letters(None, made.id, 2, cursor)
    assert [*first, *rest] == letters[::-1] and end is None
    assert await memory.webhooks.replay(None, made.id, ReplayDeadLetters(("evt_1", "evt_9"))) == 1
    assert await memory.webhooks.replay(None, made.id, ReplayDeadLetters()) == 3
    for wrong in ("x", "LTE", "YWJj", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5"):
        error = await refused(memory, memory.webhooks.dead_letters(None, made.id, 2, wrong))
        assert error.code == "invalid_cursor"


async def test_the_audit_log(memory: Memory) -> None:
    """Each act is in it, with who did it and nothing secret; what is only looked at is not, nor what is refused."""
    caller = administrator(memory)
    made = await memory.webhooks.create(caller, CreateWebhook("https://app.example:8443/in?key=hidden"))
    await memory.webhooks.get(caller, made.id)
    await memory.webhooks.update(caller, made.id, UpdateWebhook("Paused"))
    await memory.webhooks.update(caller, made.id, UpdateWebhook("Paused"))
    await memory.webhooks.rotate_secret(caller, made.id)
    await memory.webhooks.replay(caller, made.id, ReplayDeadLetters())
    await memory.webhooks.delete(None, made.id)
    await refused(memory, memory.webhooks.delete(caller, made.id))
    entries = [one for one in memory.tables.audit.values() if one.object_id == made.id]
    assert [(one.act, one.detail) for one in entries] == [
        ("webhookCreated", "app.example:8443"),
        ("webhookChanged", "Paused"),
        ("webhookChanged", "secret"),
        ("webhookChanged", "replay"),
        ("webhookDeleted", None),
    ]
    assert [one.actor_id for one in entries] == [caller.user_id] * 4 + [None]


async def test_nothing_half_made(memory: Memory) -> None:
    """The database goes away at any step: nothing is there, and the request that is repeated makes the endpoint."""

    async def arrange(memory: Memory) -> Act:
        caller = administrator(memory)
        return lambda: make(memory, caller, ONE)

    for step, failed, before, act in await at_every_step(arrange):
        assert failed.tables.copy() == before, step
        failed.database.fails_at = 0
        await act()
        assert len(failed.tables.webhooks) == 1, step
