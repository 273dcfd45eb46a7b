"""loadtest.oracle.threads: what roots show, who follows, and what a client knows of it; each wrong one is named."""

import msgspec
import pytest

from loadtest.oracle import invariants
from loadtest.oracle.mentions import NONE, Named
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.standing import Newest
from loadtest.oracle.threads import PARTICIPANTS, OwnThreads, Replies, Threads, behind, replies_of
from loadtest.payloads import Message, Thread, ThreadState, ThreadSummary

TALK, ROOT = "talk", "m01"


def message(seq: int, **changes: object) -> Message:
    made = Message(
        id=f"m{seq:02}",
        conversation_id=TALK,
        seq=seq,
        changed_seq=seq,
        sender_id="u0",
        type="Text",
        content="hello",
        client_message_id=f"run-0-{seq}",
        created_at=f"at {seq}",
    )
    return msgspec.structs.replace(made, **changes)


def reply(seq: int, sender: str, *, deleted: int = 0, **changes: object) -> Message:
    if deleted:
        changes |= {"deleted_at": "then", "changed_seq": deleted, "content": "", "mentions": ()}
    return message(seq, sender_id=sender, thread_id=ROOT, **changes)


def make_oracle() -> Oracle:
    return Oracle("run", lambda: 0.0, ("u0", "u1", "u2"))


def state(*, following: bool, version: int = 5, last: int = 3, read: int = 0) -> ThreadState:
    return ThreadState(ROOT, TALK, following, read, 0, last, version)


# -- what roots show --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "summary"),
    [
        ([], None),
        ([reply(2, "u1"), reply(3, "u0"), reply(4, "u1")], (3, "at 4", ("u1", "u0"))),
        ([reply(2, "u1"), reply(3, "u0"), reply(4, "u1", deleted=5)], (2, "at 3", ("u1", "u0"))),
        ([reply(2, "u1", deleted=5), reply(3, "u0"), reply(4, "u1")], (2, "at 4", ("u1", "u0"))),  # never away
        ([reply(2, "u1", deleted=4), reply(3, "u0"), reply(5, "u1")], (2, "at 5", ("u0", "u1"))),  # away in between
        ([reply(2, "u1", deleted=3)], None),
    ],
)
def test_what_a_root_has_to_show(replies: list[Message], summary: tuple[int, str, tuple[str, ...]] | None) -> None:
    """How many replies are there, when the last of them was made, and who has replied, in the order in which each
    became a participant."""
    assert Replies(replies).summary == (None if summary is None else ThreadSummary(*summary))


def test_a_root_shows_the_first_ten() -> None:
    """Of more participants the first ones."""
    summary = Replies([reply(seq, f"u{seq:02}") for seq in range(2, 20)]).summary
    assert summary is not None
    assert summary.participant_ids == tuple(f"u{seq:02}" for seq in range(2, 2 + PARTICIPANTS))


@pytest.mark.parametrize(
    ("shown", "is_right"),
    [
        (ThreadSummary(2, "at 3", ("u1", "u2")), True),
        (ThreadSummary(3, "at 3", ("u1", "u2")), False),
        (ThreadSummary(2, "at 2", ("u1", "u2")), False),
        (ThreadSummary(2, "at 3", ("u2", "u1")), False),
        (None, False),
    ],
)
def test_a_root_that_shows_something_else(shown: ThreadSummary | None, is_right: bool) -> None:
    """It is behind, and a breach at the end; so is a message that shows replies and has none."""
    stored = [message(1, thread=shown), reply(2, "u1"), reply(3, "u2")]
    oracle = make_oracle()
    Threads(oracle).check_roots(stored)
    assert (behind(stored) == []) is is_right
    assert dict(oracle.breached) == ({} if is_right else {invariants.THREAD: 1})
    assert behind([message(4, thread=ThreadSummary(1, "at 5", ("u1",)))]) != []


@pytest.mark.parametrize(
    ("shown", "is_right"),
    [
        ({"thread_id": ROOT}, True),
        ({}, False),
        ({"thread_id": "m09"}, False),
        ({"thread_id": ROOT, "also_in_conversation": True}, False),
    ],
)
def test_a_reply_is_where_it_was_sent_to(shown: dict[str, object], is_right: bool) -> None:
    """In the thread of its root, and in the conversation as well only if it was asked for; what was sent to no thread
    is in none."""
    oracle = make_oracle()
    threads = Threads(oracle)
    threads.send("run-0-2", ROOT, NONE)
    threads.check(message(2, **shown))
    assert dict(oracle.breached) == ({} if is_right else {invariants.THREAD: 1})
    threads = Threads(oracle)
    before = oracle.breached[invariants.THREAD]
    threads.check(message(3, thread_id=ROOT))
    assert oracle.breached[invariants.THREAD] == before + 1


def test_pages() -> None:
    """A main history with a reply, without one that belongs there, or out of order is a breach; so are other replies
    in a thread than those that are there."""
    stored = [message(1), reply(2, "u1"), reply(3, "u1", also_in_conversation=True), message(4)]
    threads, right = replies_of(stored), [stored[0], *stored[2:]]
    for main, is_right in ((right, True), (stored, False), (right[:2], False), (right[::-1], False)):
        oracle = make_oracle()
        Threads(oracle).check_main(TALK, main, stored)
        assert dict(oracle.breached) == ({} if is_right else {invariants.THREAD: 1})
    for listed, is_right in ((stored[1:3], True), (stored[2:3], False), ([stored[2], stored[1]], False)):
        oracle = make_oracle()
        Threads(oracle).check_replies(ROOT, listed, threads[ROOT])
        assert dict(oracle.breached) == ({} if is_right else {invariants.THREAD: 1})


def test_unread_messages_of_threads() -> None:
    """A reply that is in its thread only is unread in the conversation for those alone who follow the thread."""
    newest = Newest([message(1), reply(2, "u1"), reply(3, "u1", also_in_conversation=True), reply(4, "u1", deleted=5)])
    assert (newest.unread("u2", 0), newest.unread("u2", 0, {ROOT}), newest.unread("u1", 0, {ROOT})) == (2, 3, 1)


# -- who follows ------------------------------------------------------------------------------------

TO_U2: Named = (("u2",), False)


@pytest.mark.parametrize(
    ("user", "replies", "known", "follows"),
    [
        ("u0", [reply(2, "u1")], None, True),  # the author of the root
        ("u0", [], None, False),
        ("u1", [reply(2, "u1")], None, True),
        ("u1", [reply(2, "u1", deleted=3)], None, True),
        ("u2", [reply(2, "u1")], None, False),
        ("u2", [reply(4, "u1", client_message_id="to u2")], None, True),
        ("u2", [reply(4, "u1", client_message_id="to u2", deleted=5)], None, True),
        ("u3", [reply(2, "u1")], None, True),  # named in the root
        ("u4", [reply(2, "u1")], None, None),  # by an edit of it
        ("u1", [reply(2, "u1")], state(following=False), False),
        ("u1", [reply(2, "u1"), reply(4, "u1")], state(following=False), True),
        ("u1", [reply(2, "u1"), reply(4, "u1", deleted=5)], state(following=False), None),
        ("u0", [reply(4, "u1")], state(following=False), False),
        ("u2", [reply(2, "u1")], state(following=True), True),
        ("u2", [reply(2, "u1")], state(following=False, version=0), False),
    ],
)
def test_who_follows(user: str, replies: list[Message], known: ThreadState | None, follows: bool | None) -> None:
    """Who replied, who was named, and the author of the root, unless they have set something else since."""
    threads = Threads(make_oracle())
    root = message(1, mentions=("u3", "u4"), client_message_id="root")
    threads.send("root", None, (("u3",), False))
    threads.edit("root", (("u3", "u4"), False))
    threads.send("to u2", ROOT, TO_U2)
    threads.edit("to u2", NONE)
    assert threads.follows(user, root, Replies(replies), known) is follows


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"unread_count": 2}, ["unreadCount"]),
        ({"last_reply_seq": 2}, ["lastReplySeq"]),
        ({"root": message(1, content="something else")}, ["root"]),
        (None, ["u0"]),
    ],
)
def test_a_wrong_list_of_threads_is_named(changes: dict[str, object] | None, wrong: list[str]) -> None:
    """A thread that is not listed, or with other numbers than its replies make."""
    stored = [message(1), reply(2, "u1"), reply(3, "u1")]
    right = Thread(ROOT, TALK, True, 2, 1, 3, 0, root=stored[0])
    listed = [] if changes is None else [msgspec.structs.replace(right, **changes)]
    threads = Threads(make_oracle())
    found = threads.standing("u0", {ROOT: stored[0]}, replies_of(stored), listed, OwnThreads())
    assert [text.split()[0] for text in found] == wrong


def test_what_a_client_knows_of_its_threads() -> None:
    """What is stored is of the version that was answered or notified last, unless events may have been lost; and as far
    read as was acknowledged."""
    own = OwnThreads()
    assert not own.is_used and own.is_sure(ROOT)
    own.ask(ROOT)
    assert own.is_used and not own.is_sure(ROOT)
    own.mark(state(following=True, version=6, read=3), 3)
    own.see(state(following=False, version=5))  # it comes late
    assert own.known(ROOT) == state(following=True, version=6, read=3)
    assert own.differences([state(following=True, version=6, read=4)]) == []
    assert len(own.differences([state(following=True, version=6, read=2)])) == 1
    assert len(own.differences([state(following=False, version=5, read=3)])) == 1
    later = [state(following=False, version=7, read=3)]
    assert len(own.differences(later)) == 1
    own.unsure("elsewhere")
    assert len(own.differences(later)) == 1
    own.unsure(TALK)
    assert own.differences(later) == []
    own.see(later[0])
    own.ask(ROOT)
    own.refuse(ROOT)
    assert own.is_sure(ROOT)
