"""handlers.export: everything one has, and nothing of others', few at a time."""

import io
import json
import zipfile
from collections.abc import AsyncGenerator
from typing import cast

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from handlers import export
from handlers.errors import ChatError
from handlers.export import AT_ONCE, RUNNING, Export
from handlers.model import Caller, Client, UpdateSettings
from store.errors import Unavailable
from store.ids import new_id
from store.model import Role
from tests.handlers.database import EXPIRES
from tests.handlers.memory import Memory, refused
from tests.handlers.test_files import upload


@pytest.fixture
def exports(memory: Memory) -> Export:
    return Export(
        memory.users,
        memory.accounts,
        memory.conversations,
        memory.messages,
        memory.reactions,
        memory.threads,
        memory.files,
        memory.blocks,
        memory.reports,
    )


async def taken(exports: Export, caller: Caller) -> zipfile.ZipFile:
    pieces, done = await exports.begin(caller)
    content = b"".join([piece async for piece in pieces])
    done()
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.testzip() is None
    return archive


async def test_all_that_one_has(memory: Memory, exports: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """The account, each session, conversation, message and file, each once, over any number of pages; none of what
    others have, nor a conversation they are not in."""
    monkeypatch.setattr(export, "PAGE", 2)
    monkeypatch.setattr(export, "CONVERSATIONS", 2)
    caller, other = memory.user("caller"), memory.user("other")
    groups = [memory.group((caller, Role.OWNER), (other, Role.MEMBER)) for _ in range(5)]
    memory.group((other, Role.OWNER))
    said = [memory.say(groups[0], other, f"{number}\nline") for number in range(5)]
    sessions = [await memory.accounts.begin(caller.user_id, Client()) for _ in range(3)]
    mine, _ = await upload(memory, caller, b"mine"), await upload(memory, other, b"theirs")
    await memory.conversations.update_settings(caller, groups[1], UpdateSettings(archived=True))
    for number, one in enumerate(said):
        memory.tables.reactions[one.id, caller.user_id, ":ok:"] = new_id()
        memory.tables.reactions[one.id, other.user_id, f":{number}:"] = new_id()
    for one in said:
        await memory.threads.follow(caller, one.id)
        await memory.threads.follow(other, one.id)
    await memory.threads.unfollow(caller, said[0].id)
    archive = await taken(exports, caller)
    followed = [json.loads(line) for line in archive.read("threads.jsonl").splitlines()]
    assert [(one["threadId"], one["isFollowing"]) for one in followed] == [
        (str(one.id), one is not said[0]) for one in said
    ]
    reacted = [json.loads(line) for line in archive.read("reactions.jsonl").splitlines()]
    assert sorted((one["messageId"], one["emoji"]) for one in reacted) == sorted((str(one.id), ":ok:") for one in said)
    assert json.loads(archive.read("account.json"))["username"] == "caller"
    assert {one["id"] for one in json.loads(archive.read("sessions.json"))} == {str(one.session_id) for one in sessions}
    expected = {
        "README.txt",
        "account.json",
        "privacy.json",
        "sessions.json",
        "blocks.json",
        "reports.json",
        "reactions.jsonl",
        "threads.jsonl",
        f"files/{mine.id}-a.txt",
    }
    expected |= {f"conversations/{group}.json{lines}" for group in groups for lines in ("", "l")}
    assert sorted(archive.namelist()) == sorted(expected)
    assert json.loads(archive.read(f"conversations/{groups[1]}.json"))["settings"]["archived"]
    lines = archive.read(f"conversations/{groups[0]}.jsonl").splitlines()
    assert [json.loads(line)["content"] for line in lines] == [one.content for one in said]
    assert archive.read(f"files/{mine.id}-a.txt") == b"mine"


async def test_a_name_with_a_path(memory: Memory, exports: Export) -> None:
    """A file lands in its directory, whatever its name is."""
    caller = memory.user()
    file = await upload(memory, caller)
    memory.tables.files[file.id] = replace(file, name="../../etc/passwd")
    archive = await taken(exports, caller)
    assert f"files/{file.id}-.._.._etc_passwd" in archive.namelist()


async def test_a_conversation_left_meanwhile(memory: Memory, exports: Export) -> None:
    """What it had until then is in it, and the rest of the export goes on."""
    caller, other = memory.user(), memory.user()
    first, second = (memory.group((caller, Role.MEMBER), (other, Role.OWNER)) for _ in range(2))
    memory.say(first, other)
    pieces, _ = await exports.begin(caller)
    content = await anext(pieces)
    async for piece in pieces:
        content += piece
        memory.tables.members.pop((first, caller.user_id), None)
    names = zipfile.ZipFile(io.BytesIO(content)).namelist()
    assert f"conversations/{first}.json" in names and f"conversations/{second}.json" in names


async def test_one_of_a_user_at_once(memory: Memory, exports: Export) -> None:
    """The next begins when the last one has ended, in whatever way; an error before the first piece ends it too."""
    caller = memory.user()
    _, done = await exports.begin(caller)
    error = await refused(memory, exports.begin(caller))
    assert error.code == "rate_limited" and error.retry_after
    done()
    done()
    memory.database.fails_at, memory.database.blinks = len(memory.database.steps) + 1, True
    with pytest.raises(Unavailable):
        await exports.begin(caller)
    gone = Caller(new_id(), EXPIRES)
    for _ in range(RUNNING + 1):
        assert (await refused(memory, exports.begin(gone))).code == "unauthenticated"
    await exports.begin(caller)


async def test_so_many_at_once(memory: Memory, exports: Export) -> None:
    """Others wait for their turn, and are advised when to ask again; one that ends makes room for one."""
    ends = [(await exports.begin(memory.user()))[1] for _ in range(RUNNING)]
    late = memory.user()
    error = await refused(memory, exports.begin(late))
    assert error.code == "overloaded" and error.retry_after
    ends[0]()
    await exports.begin(late)
    assert (await refused(memory, exports.begin(memory.user()))).code == "overloaded"


async def test_who_reads_slowly_costs_only_themselves(memory: Memory, exports: Export) -> None:
    """Exports whose clients take a piece and no more do not keep others from theirs."""
    slow = [(await exports.begin(memory.user()))[0] for _ in range(AT_ONCE)]
    for pieces in slow:
        await anext(pieces)
    with trio.fail_after(60):
        assert "account.json" in (await taken(exports, memory.user())).namelist()


async def test_few_are_made_at_once(exports: Export, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that are read, a few are worked on; each ends with its client."""
    running, go_on, ended = 0, trio.Event(), list[bool]()

    async def made(*_: object) -> AsyncGenerator[bytes, None]:
        nonlocal running
        running += 1
        await go_on.wait()
        running -= 1
        try:
            yield b"piece"
        finally:
            ended.append(True)

    monkeypatch.setattr(exports, "_pieces", made)
    found = [cast(AsyncGenerator[bytes, None], (await exports.begin(memory.user()))[0]) for _ in range(RUNNING)]
    async with trio.open_nursery() as clients:
        for pieces in found:
            clients.start_soon(anext, pieces)
        await trio.testing.wait_all_tasks_blocked()
        assert running == AT_ONCE
        go_on.set()
    for pieces in found:
        await pieces.aclose()
    assert len(ended) == RUNNING


async def test_very_many_sessions(memory: Memory, exports: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of any length are written item by item, and are JSON: compressing all at once would hold the loop."""
    largest = 0
    write = zipfile.ZipFile.writestr

    def writestr(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(data))
        write(archive, name, data)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", writestr)
    caller = memory.user()
    begun = [await memory.accounts.begin(caller.user_id, Client()) for _ in range(500)]
    archive = await taken(exports, caller)
    assert {one["id"] for one in json.loads(archive.read("sessions.json"))} == {str(one.session_id) for one in begun}
    assert json.loads(archive.read("blocks.json")) == json.loads(archive.read("reports.json")) == []
    assert largest < 16 * 1024


async def test_it_breaks_off(memory: Memory, exports: Export) -> None:
    """Without its end, so that no program takes it for whole."""
    caller = memory.user()
    memory.group((caller, Role.OWNER))
    pieces, _ = await exports.begin(caller)
    content = await anext(pieces)
    memory.database.fails_at = len(memory.database.steps) + 1
    with pytest.raises((Unavailable, ChatError)):
        async for piece in pieces:
            content += piece
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(io.BytesIO(content))
