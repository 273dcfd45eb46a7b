"""handlers.files: what may be uploaded, who may have it, and that what breaks off is not seen and is cleared up."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from msgspec.structs import replace

from handlers import file_types, files
from handlers.errors import ChatError
from handlers.files import HOLDERS, OPEN_UPLOADS, ORPHAN_AGE, PURGE_PAGE, Files
from handlers.model import Caller, Once, PresignFile
from store.errors import Unavailable
from store.ids import id_floor, new_id
from store.model import Role
from store.postgres.files import File
from tests.handlers.fakes.files import info
from tests.handlers.memory import Act, Memory, at_every_step, refused

MAX, QUOTA = 1000, 10_000  # what Memory allows
TEXT = b"hello"


async def chunks(*content: bytes) -> AsyncIterator[bytes]:
    for one in content:
        yield one


async def upload(memory: Memory, caller: Caller, content: bytes = TEXT, once: Once | None = None) -> File:
    return await memory.files.upload(caller, "a.txt", chunks(content), once, announced=len(content))


async def put(memory: Memory, caller: Caller, content: bytes = TEXT) -> File:
    """A file whose content was put to its link, and is not completed."""
    pending, _ = await memory.files.presign(caller, PresignFile("a.txt", "text/plain", len(content)))
    memory.objects.kept[pending.key] = content
    return pending


def nothing_left(memory: Memory) -> bool:
    return not memory.objects.kept and not memory.tables.files


# -- uploading through us ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MAX - 1, MAX])
async def test_uploaded(memory: Memory, size: int) -> None:
    """What may be is kept whole, to the last byte of the bound, and is its owner's."""
    caller = memory.user()
    file = await upload(memory, caller, b"a" * size)
    assert (file.state, file.size, file.content_type, file.owner_id) == ("Ready", size, "text/plain", caller.user_id)
    assert memory.objects.kept == {file.key: b"a" * size}


@pytest.mark.parametrize("announced", [None, 1, MAX, MAX + 1])
async def test_too_large(memory: Memory, announced: int | None) -> None:
    """One byte more than allowed is refused, whatever was announced, and leaves nothing."""
    content = chunks(b"a" * 600, b"a" * 400, b"a")
    with pytest.raises(ChatError, match="too_large"):
        await memory.files.upload(memory.user(), "a", content, announced=announced)
    assert nothing_left(memory)


async def test_other_types(memory: Memory) -> None:
    """Judged by the content, whatever its name; the error names the types there are, and nothing is written."""
    call = memory.files.upload(memory.user(), "a.txt", chunks(b"\x7fELF\x02\x01\x01"))
    error = await refused(memory, call)
    assert error.code == "unsupported_media_type" and "text/plain, image/png" in error.sentence
    assert memory.database.steps == []


async def test_without_a_store(memory: Memory) -> None:
    """The error says what is not configured; the purge has nothing to do."""
    without = Files(memory.database, memory.transactions, None, max_bytes=MAX, quota=QUOTA, types=("text/plain",))
    error = await refused(memory, without.upload(memory.user(), "a", chunks(TEXT)))
    assert error.code == "unavailable" and "OBJECTS" in error.sentence
    assert await without.purge(datetime.now(UTC)) == (0, 0, 0)


@pytest.mark.parametrize("how", ["upload", "presign"])
@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
async def test_the_quota(memory: Memory, how: str, more: int, fits: bool) -> None:
    """All files of a user may take the whole of it, and not a byte more; others' files do not count."""
    caller = memory.user()
    await upload(memory, memory.user(), b"a" * MAX)
    for _ in range(QUOTA // MAX - 1):
        await upload(memory, caller, b"a" * (MAX - 1))
    size = QUOTA - (QUOTA // MAX - 1) * (MAX - 1) + more
    large = Files(
        memory.database, memory.transactions, memory.objects, max_bytes=2 * MAX, quota=QUOTA, types=("text/plain",)
    )
    if how == "presign":
        call = large.presign(caller, PresignFile("a", "text/plain", size))
    else:
        call = large.upload(caller, "a", chunks(b"a" * size), announced=size)  # type: ignore[assignment]
    if fits:
        await call
    else:
        assert (await refused(memory, call)).code == "too_large"


@pytest.mark.parametrize("how", ["upload", "presign"])
async def test_an_upload_of_who_is_gone(memory: Memory, how: str) -> None:
    """Who was erased since they asked for it begins none: nothing of it would go with them."""
    caller = memory.user()
    del memory.tables.users[caller.user_id]
    if how == "presign":
        call = memory.files.presign(caller, PresignFile("a", "text/plain", 1))
    else:
        call = memory.files.upload(caller, "a", chunks(TEXT))  # type: ignore[assignment]
    assert (await refused(memory, call)).code == "unauthenticated" and nothing_left(memory)


async def test_open_uploads_are_bounded(memory: Memory) -> None:
    """So many links at once; the next is refused with the time after which the first has expired."""
    caller, request = memory.user(), PresignFile("a", "text/plain", 1)
    for _ in range(OPEN_UPLOADS):
        await memory.files.presign(caller, request)
    error = await refused(memory, memory.files.presign(caller, request))
    assert error.code == "rate_limited" and error.retry_after == files.UPLOAD_SECONDS
    await memory.files.presign(memory.user(), request)


async def test_uploaded_once(memory: Memory) -> None:
    """The same content and name with the same key is the same file, kept once; other content with it is refused and
    leaves nothing."""
    caller, once = memory.user(), Once("a key", b"")
    first = await upload(memory, caller, TEXT, once)
    assert await upload(memory, caller, TEXT, once) == first
    with pytest.raises(ChatError, match="idempotency_mismatch"):
        await upload(memory, caller, b"other", once)
    assert set(memory.objects.kept) == {first.key} and set(memory.tables.files) == {first.id}


async def test_a_client_that_hangs_up(memory: Memory) -> None:
    """What ends the upload early is raised as it is, and nothing is left."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"a" * file_types.HEAD
        raise ConnectionError("gone")

    large = Files(
        memory.database, memory.transactions, memory.objects, max_bytes=10**6, quota=10**6, types=("text/plain",)
    )
    with pytest.raises(ConnectionError):
        await large.upload(memory.user(), "a", broken())
    assert nothing_left(memory)


async def test_an_upload_that_breaks_off(memory: Memory) -> None:
    """Wherever: no ready file without its object, and the purge clears what is left."""

    async def arrange(world: Memory) -> Act:
        caller = world.user()
        return lambda: upload(world, caller, TEXT, Once("k", b""))

    for step, world, _, act in await at_every_step(arrange):
        assert all(file.state != "Ready" for file in world.tables.files.values()), step
        world.database.fails_at = 0
        await world.files.purge(datetime.now(UTC) + 2 * ORPHAN_AGE)
        assert nothing_left(world) and world.tables.creations == {}, step
        await act()


# -- uploading directly -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (PresignFile("a", "text/plain", MAX + 1), "too_large"),
        (PresignFile("a", "text/plain", 2**63), "too_large"),
        (PresignFile("a", "text/html", 1), "unsupported_media_type"),
        (PresignFile("a", "", 1), "unsupported_media_type"),
        (PresignFile("a", "\ud800", 1), "unsupported_media_type"),
    ],
)
async def test_what_gets_no_link(memory: Memory, request_: PresignFile, code: str) -> None:
    """What could not become a file gets no link, and no row."""
    assert (await refused(memory, memory.files.presign(memory.user(), request_))).code == code
    assert memory.database.steps == []


async def test_completed(memory: Memory) -> None:
    """What was put there is the file from then on, under a key that no link names; completed again it is the same."""
    caller = memory.user()
    pending = await put(memory, caller)
    done = await memory.files.complete(caller, pending.id)
    assert done.state == "Ready" and done.key != pending.key
    assert memory.objects.kept == {done.key: TEXT} and memory.objects.used_up == [pending.key]
    assert await memory.files.complete(caller, pending.id) == done
    assert memory.objects.kept == {done.key: TEXT}


async def test_who_may_complete(memory: Memory) -> None:
    """Its owner only: for others it is not there, before and after."""
    caller, other = memory.user(), memory.user()
    pending = await put(memory, caller)
    for _ in range(2):
        assert (await refused(memory, memory.files.complete(other, pending.id))).code == "not_found"
        await memory.files.complete(caller, pending.id)
    assert (await refused(memory, memory.files.complete(caller, new_id()))).code == "not_found"


async def test_nothing_put_yet(memory: Memory) -> None:
    """Conflict, and it can be put and completed later."""
    caller = memory.user()
    pending, _ = await memory.files.presign(caller, PresignFile("a.txt", "text/plain", len(TEXT)))
    assert (await refused(memory, memory.files.complete(caller, pending.id))).code == "conflict"
    memory.objects.kept[pending.key] = TEXT
    assert (await memory.files.complete(caller, pending.id)).state == "Ready"


@pytest.mark.parametrize(
    ("content", "code"), [(b"hell", "invalid_request"), (b"\x7fELF\x02", "unsupported_media_type")]
)
async def test_not_what_was_announced(memory: Memory, content: bytes, code: str) -> None:
    """Another size or type is refused, and is gone: the link is used up."""
    caller = memory.user()
    pending = await put(memory, caller)
    memory.objects.kept[pending.key] = content
    with pytest.raises(ChatError, match=code):
        await memory.files.complete(caller, pending.id)
    assert nothing_left(memory) and memory.objects.used_up == [pending.key]
    assert (await refused(memory, memory.files.complete(caller, pending.id))).code == "not_found"


async def test_a_link_once(memory: Memory) -> None:
    """The repeated request has the same file; when that is complete, conflict says so; when it is gone, gone."""
    caller, request, once = memory.user(), PresignFile("a.txt", "text/plain", len(TEXT)), Once("k", b"")
    pending, _ = await memory.files.presign(caller, request, once)
    assert (await memory.files.presign(caller, request, once))[0] == pending
    memory.objects.kept[pending.key] = TEXT
    await memory.files.complete(caller, pending.id)
    assert (await refused(memory, memory.files.presign(caller, request, once))).code == "conflict"
    del memory.tables.files[pending.id]
    assert (await refused(memory, memory.files.presign(caller, request, once))).code == "gone"


async def test_a_completion_that_breaks_off(memory: Memory) -> None:
    """Wherever: it is not shown, or whole; completed again it is whole, with one object once the purge was there."""

    async def arrange(world: Memory) -> Act:
        caller = world.user()
        pending = await put(world, caller)
        return lambda: world.files.complete(caller, pending.id)

    for step, world, _, act in await at_every_step(arrange):
        [file] = world.tables.files.values()
        assert file.state == "Pending" or world.objects.kept[file.key] == TEXT, step
        world.database.fails_at = 0
        await act()
        [file] = world.tables.files.values()
        await world.files.purge(datetime.now(UTC))
        assert file.state == "Ready" and world.objects.kept == {file.key: TEXT}, step


# -- having them ------------------------------------------------------------------------------


async def shared(memory: Memory) -> tuple[Caller, Caller, File, UUID]:
    """(owner, another member, the file, the message that holds it)"""
    owner, member = memory.user(), memory.user()
    file = await upload(memory, owner)
    said = memory.say(memory.group((owner, Role.OWNER), (member, Role.ADMIN)), owner)
    memory.tables.messages[said.id] = replace(said, file=info(file))
    return owner, member, file, said.id


async def test_who_may_have_it(memory: Memory) -> None:
    """Its owner and members of a conversation that holds it; for others, and once they left, it is not there."""
    owner, member, file, message = await shared(memory)
    for caller in (owner, member):
        assert await memory.files.download_url(caller, file.key) == (f"/get/{file.key}", files.URL_SECONDS)
    conversation_id = memory.tables.messages[message].conversation_id
    del memory.tables.members[conversation_id, member.user_id]
    for caller in (member, memory.user()):
        for key in (file.key, "no key", "", "\ud800"):
            assert (await refused(memory, memory.files.download_url(caller, key))).code == "not_found"


async def test_a_pending_file_is_not_to_be_had(memory: Memory) -> None:
    """Not even by its owner."""
    caller = memory.user()
    pending = await put(memory, caller)
    assert (await refused(memory, memory.files.download_url(caller, pending.key))).code == "not_found"
    assert (await refused(memory, memory.files.delete(caller, pending.key))).code == "not_found"


async def test_who_may_delete(memory: Memory) -> None:
    """Its owner; who may see it and is not, is refused; who may not see it learns nothing."""
    owner, member, file, message = await shared(memory)
    for caller, code in ((member, "forbidden"), (memory.user(), "not_found")):
        assert (await refused(memory, memory.files.delete(caller, file.key))).code == code
    await memory.files.delete(owner, file.key)
    assert memory.tables.messages[message].file is None and nothing_left(memory)
    assert [change.message.id for change in memory.publisher.changes] == [message]
    memory.publisher.published.clear()
    assert (await refused(memory, memory.files.delete(owner, file.key))).code == "not_found"


@pytest.mark.parametrize("holders", [0, 1, HOLDERS, HOLDERS + 1])
async def test_taken_out_of_every_message(memory: Memory, holders: int) -> None:
    """However many hold it: each is changed once, few in one transaction, then the file is gone."""
    owner = memory.user()
    file = await upload(memory, owner)
    group = memory.group((owner, Role.OWNER))
    for _ in range(holders):
        said = memory.say(group, owner)
        memory.tables.messages[said.id] = replace(said, file=info(file))
    await memory.files.delete(owner, file.key)
    assert len(memory.publisher.changes) == holders and nothing_left(memory)
    assert all(len(changes) <= HOLDERS for changes, _ in memory.publisher.published)


async def test_a_deletion_that_breaks_off(memory: Memory) -> None:
    """Wherever: no message holds a file that is not there, each change is published, and the purge does the rest."""

    async def arrange(world: Memory) -> Act:
        owner, _, file, _ = await shared(world)
        return lambda: world.files.delete(owner, file.key)

    for step, world, _, act in await at_every_step(arrange):
        held = [said.file for said in world.tables.messages.values() if said.file]
        assert all(one.key in world.objects.kept for one in held), step
        assert world.tables.outbox == tuple(world.publisher.published), step
        world.database.fails_at = 0
        if held:
            await act()
        await world.files.purge(datetime.now(UTC) + 2 * ORPHAN_AGE)
        assert nothing_left(world), step


async def test_the_store_is_away_for_a_deletion(memory: Memory) -> None:
    """The user need not know: the file is gone for all users, and the purge deletes the object."""
    owner, _, file, _ = await shared(memory)
    memory.database.steps.clear()
    await memory.files.delete(owner, file.key)
    where = memory.database.steps.index("delete")
    again = Memory()
    owner, member, file, _ = await shared(again)
    again.database.steps.clear()
    again.database.fails_at = where + 1
    await again.files.delete(owner, file.key)
    again.database.fails_at = 0
    for caller in (owner, member):
        assert (await caught(again.files.download_url(caller, file.key))).code == "not_found"
    assert await again.files.purge(datetime.now(UTC)) == (0, 1, 0) and nothing_left(again)


async def caught(call: object) -> ChatError:
    with pytest.raises(ChatError) as found:
        await call  # type: ignore[misc]
    return found.value


async def test_the_content_for_the_process(memory: Memory) -> None:
    """An export reads what is there; a file whose object is lost is empty, and does not end it."""
    file = await upload(memory, memory.user())
    assert [piece async for piece in memory.files.read(file)] == [TEXT]
    memory.objects.kept.clear()
    assert [piece async for piece in memory.files.read(file)] == []


@pytest.mark.parametrize("count", [0, 1, PURGE_PAGE, PURGE_PAGE + 1])
async def test_every_file_of_a_user(memory: Memory, count: int) -> None:
    """Each once, whatever the size of a page, and none of others."""
    caller = memory.user()
    ready = await upload(memory, caller)
    del memory.tables.files[ready.id]
    mine = [replace(ready, id=new_id(), key=f"{number}") for number in range(count)]
    theirs = replace(ready, id=new_id(), owner_id=new_id())
    memory.tables.files |= {one.id: one for one in (*mine, theirs, replace(ready, id=new_id(), state="Pending"))}
    found = [one.id async for one in memory.files.owned(caller.user_id)]
    assert found == sorted(one.id for one in mine)


# -- clearing up ------------------------------------------------------------------------------


def aged(memory: Memory, file: File, age: timedelta) -> File:
    """The same file, as if it had been made so long ago."""
    made = id_floor(int((datetime.now(UTC) - age).timestamp() * 1000))
    old = replace(file, id=UUID(int=made.int | (new_id().int & (1 << 62) - 1)))
    del memory.tables.files[file.id]
    memory.tables.files[old.id] = old
    return old


@pytest.mark.parametrize(("age", "goes"), [(ORPHAN_AGE - timedelta(minutes=1), False), (ORPHAN_AGE, True)])
async def test_what_no_message_took(memory: Memory, age: timedelta, goes: bool) -> None:
    """A file in no message, an upload that stopped, goes when it is old enough, not before; one in a message stays."""
    owner, _, held, message = await shared(memory)
    kept = aged(memory, held, 10 * ORPHAN_AGE)
    memory.tables.messages[message] = replace(memory.tables.messages[message], file=info(kept))
    loose = aged(memory, await upload(memory, owner), age)
    stopped = aged(memory, await put(memory, owner), age)
    purged = await memory.files.purge(datetime.now(UTC) + timedelta(seconds=1))
    assert purged == ((1, 2, 0) if goes else (0, 0, 0))
    expected = {kept.id} if goes else {kept.id, loose.id, stopped.id}
    assert set(memory.tables.files) == expected
    assert set(memory.objects.kept) == {file.key for file in memory.tables.files.values()}


@pytest.mark.parametrize("count", [1, PURGE_PAGE, PURGE_PAGE + 1])
async def test_objects_without_a_row(memory: Memory, count: int) -> None:
    """Go, however many; those with a row stay."""
    file = await upload(memory, memory.user())
    memory.objects.kept |= {f"stray {number}": b"" for number in range(count)}
    assert await memory.files.purge(datetime.now(UTC)) == (0, 0, count)
    assert set(memory.objects.kept) == {file.key}


async def test_a_store_that_does_not_delete(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole page of which nothing could be deleted ends the purge with an error, rather than never."""

    async def away(self: object, key: str) -> None:
        raise Unavailable("away")

    caller = memory.user()
    pending = await put(memory, caller)
    rows: Sequence[File] = [replace(pending, id=new_id(), state="Deleted") for _ in range(PURGE_PAGE)]
    memory.tables.files = {row.id: row for row in rows}
    monkeypatch.setattr(type(memory.objects), "delete", away)
    with pytest.raises(Unavailable):
        await memory.files.purge(datetime.now(UTC))
    assert len(memory.tables.files) == PURGE_PAGE
