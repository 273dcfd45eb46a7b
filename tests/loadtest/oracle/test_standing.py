"""loadtest.oracle, of what is each member's own: counts, settings, mentions, pins, finds; each wrong one is named."""

import msgspec
import pytest

from loadtest.oracle import contents, invariants
from loadtest.oracle.edits import Edits
from loadtest.oracle.finds import check_finds
from loadtest.oracle.mentions import NONE, Mentions, Named
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.pins import Pins
from loadtest.oracle.standing import COUNTED, UNSET, Newest, OwnSettings
from loadtest.payloads import Listed, Message, Notifications, Reader, Settings

TALK = "talk"
FOR_EVER = "9999-12-31T23:59:59.999Z"


def message(seq: int, **changes: object) -> Message:
    content = contents.make_content(f"run-0-{seq}", 1.0, 90)
    made = Message(
        id=f"m{seq}",
        conversation_id=TALK,
        seq=seq,
        changed_seq=seq,
        sender_id="u0",
        type="Text",
        content=content,
        client_message_id=f"run-0-{seq}",
    )
    return msgspec.structs.replace(made, **changes)


def make_oracle() -> Oracle:
    return Oracle("run", lambda: 0.0, ("u0", "u1"))


# -- counts -----------------------------------------------------------------------------------------

SAID = [
    message(1),
    message(2, mentions=("u1", "u2")),
    message(3, mention_all=True),
    message(4, mentions=("u1",), deleted_at="then", changed_seq=7),
    message(5, sender_id="u1", mentions=("u1",)),
    message(6, mentions=("u2",)),
]


@pytest.mark.parametrize(
    ("user", "read", "unread", "mentioned"),
    [("u1", 0, 4, 2), ("u1", 2, 2, 1), ("u1", 6, 0, 0), ("u2", 0, 5, 3), ("u2", 5, 1, 1), ("u0", 0, 1, 0)],
)
def test_counts_follow_from_messages_and_receipt(user: str, read: int, unread: int, mentioned: int) -> None:
    """What somebody wrote themselves, what was deleted and what they have read does not count; a mention by name and
    one of all do."""
    newest = Newest(SAID)
    assert (newest.unread(user, read), newest.mentioned(user, read), newest.head) == (unread, mentioned, 7)


@pytest.mark.parametrize(
    ("changes", "unread"),
    [
        ({}, [1, 0, 0]),
        ({"also_in_conversation": True}, [1, 1, 0]),
        ({"mention_all": True}, [1, 1, 0]),
        ({"mentions": ("u2",)}, [1, 1, 0]),
        ({"mention_all": True, "deleted_at": "then"}, [0, 0, 0]),
    ],
)
def test_replies_count_for_some(changes: dict[str, object], unread: list[int]) -> None:
    """A reply counts for who follows its thread, and for others if it is in the conversation, too, or mentions them."""
    newest = Newest([message(1), message(2, thread_id="m1", **changes)])
    assert [newest.unread("u1", 1, {"m1"}), newest.unread("u2", 1), newest.unread("u0", 1)] == unread
    assert newest.mentioned("u2", 1) <= newest.unread("u2", 1)


def test_counts_are_bounded() -> None:
    """Of what is older than the newest thousand none is unread, but it mentions; no count is above a thousand."""
    newest = Newest([message(seq, mention_all=seq == 1) for seq in range(1, COUNTED + 3)])
    assert (newest.unread("u1", 0), newest.mentioned("u1", 0)) == (COUNTED, 1)
    newest = Newest([message(seq, mention_all=True) for seq in range(1, COUNTED + 3)])
    assert newest.mentioned("u1", 0) == COUNTED


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"unread_count": 3}, ["unreadCount"]),
        ({"unread_count": 5, "mention_count": 0}, ["unreadCount", "mentionCount"]),
        ({"mention_count": 3}, ["mentionCount"]),
        ({"mention_count": 3, "last_seq": 8}, []),  # it has gone on
        ({"mention_count": 3, "members": (Reader("u0", 6),)}, []),  # their receipt is not known
    ],
)
def test_a_wrong_count_is_named(changes: dict[str, object], wrong: list[str]) -> None:
    """A count in a list that the stored messages do not make is a difference which says whose it is, and of what."""
    listed = msgspec.structs.replace(Listed(TALK, 7, 4, 2, (Reader("u0", 6), Reader("u1", 0))), **changes)
    found = Newest(SAID).differences("u1", listed)
    assert [text.split()[0] for text in found] == wrong
    assert all("of u1 in talk, read up to 0, is" in text for text in found)


# -- settings ---------------------------------------------------------------------------------------


def test_settings_are_those_with_the_highest_version() -> None:
    """Whichever comes first of an answer and an event: what is stored is that, and a later or an earlier one is
    not."""
    oracle = make_oracle()
    settings = OwnSettings(oracle, 1)
    assert not settings.are_used
    later = Settings(archived=True, favourite=True, version=9)
    settings.ask(TALK)
    assert settings.are_used
    settings.see(TALK, later)
    settings.answer(TALK, {"archived": True}, Settings(archived=True, version=8))
    assert settings.known(TALK) == later
    assert settings.differences(TALK, later) == []
    for stored in (Settings(archived=True, version=8), Settings(archived=True, favourite=True, version=10)):
        assert len(settings.differences(TALK, stored)) == 1
    assert not oracle.breached


def test_settings_that_were_never_set() -> None:
    """A client that has heard nothing takes them for unset, whatever their version is."""
    settings = OwnSettings(make_oracle(), 1)
    assert settings.differences(TALK, Settings(version=17)) == []
    assert len(settings.differences(TALK, Settings(favourite=True, version=17))) == 1
    assert settings.known(TALK) == UNSET


@pytest.mark.parametrize(
    ("change", "answer", "is_right"),
    [
        ({"archived": True}, Settings(archived=True, favourite=True, version=3), True),
        ({"archived": True}, Settings(version=3), False),
        ({"notifications": {"mutedUntil": FOR_EVER}}, Settings(notifications=Notifications(FOR_EVER)), True),
        ({"notifications": {"mutedUntil": FOR_EVER}}, Settings(), False),
        ({"notifications": {}}, Settings(notifications=Notifications(FOR_EVER)), False),
    ],
)
def test_an_answer_has_what_was_set(change: dict[str, object], answer: Settings, is_right: bool) -> None:
    """An answer without what it was asked for is a breach; what else is in it is not."""
    oracle = make_oracle()
    settings = OwnSettings(oracle, 1)
    settings.ask(TALK)
    settings.answer(TALK, change, answer)
    assert dict(oracle.breached) == ({} if is_right else {invariants.SETTINGS: 1})


def test_one_version_is_one_state() -> None:
    """Two states of one version are a breach: of two devices none could say which is the later one."""
    oracle = make_oracle()
    settings = OwnSettings(oracle, 1)
    settings.see(TALK, Settings(archived=True, version=3))
    settings.see(TALK, Settings(archived=True, version=3))
    assert not oracle.breached
    settings.see(TALK, Settings(favourite=True, version=3))
    assert dict(oracle.breached) == {invariants.SETTINGS: 1}


def test_what_sync_says_of_settings() -> None:
    """A conversation is asked for where its version is not the one that the client has, or began with."""
    settings = OwnSettings(make_oracle(), 1)
    assert not settings.synced(TALK, 4)
    assert not settings.synced(TALK, 4)
    assert settings.synced(TALK, 5)
    settings.see(TALK, Settings(version=5))
    assert not settings.synced(TALK, 5)
    assert settings.synced(TALK, 6)
    settings.ask("other")
    assert settings.synced("other", 1)  # the answer was lost: the version may be that of what was asked for
    settings.refuse("other")
    assert not settings.synced("other", 1)


# -- mentions ---------------------------------------------------------------------------------------

BY_NAME, TO_ALL = (("u1",), False), ((), True)


@pytest.mark.parametrize(
    ("shown", "is_right"),
    [
        ({"mentions": ("u1",)}, True),
        ({}, False),
        ({"mentions": ("u1", "u2")}, False),
        ({"mentions": ("u1",), "mention_all": True}, False),
        ({"deleted_at": "then"}, True),
        ({"deleted_at": "then", "mentions": ("u1",)}, False),
    ],
)
def test_mentions_that_are_stored(shown: dict[str, object], is_right: bool) -> None:
    """A message mentions whom it was sent to mention, and none once it is deleted."""
    oracle = make_oracle()
    mentions = Mentions(oracle, 0)
    mentions.send(1, BY_NAME)
    mentions.send(2, NONE)
    mentions.check(1, message(1, **shown))
    mentions.check(2, message(2))
    assert dict(oracle.breached) == ({} if is_right else {invariants.MENTION: 1})
    assert oracle.checked[invariants.MENTION] == ("deleted_at" not in shown or not is_right)


@pytest.mark.parametrize(("shown", "is_right"), [(NONE, True), (TO_ALL, True), (BY_NAME, False)])
def test_mentions_after_edits(shown: Named, is_right: bool) -> None:
    """Those of the last edit that was answered, or of one that was not; what was before is over."""
    oracle = make_oracle()
    mentions = Mentions(oracle, 0)
    mentions.send(1, BY_NAME)
    for asked, change in ((NONE, 5), (BY_NAME, 3)):  # the answer of the later one came first
        mentions.ask(1, asked)
        mentions.answer(1, asked, message(1, changed_seq=change, mentions=asked[0], mention_all=asked[1]))
    mentions.ask(1, TO_ALL)
    mentions.ask(1, BY_NAME)
    mentions.refuse(1, BY_NAME)
    mentions.check(1, message(1, changed_seq=6, mentions=shown[0], mention_all=shown[1]))
    assert dict(oracle.breached) == ({} if is_right else {invariants.MENTION: 1})


def test_an_edit_is_answered_with_its_mentions() -> None:
    """An answer that mentions others than the edit asked for is a breach."""
    oracle = make_oracle()
    mentions = Mentions(oracle, 0)
    mentions.ask(1, BY_NAME)
    mentions.answer(1, BY_NAME, message(1, changed_seq=2))
    assert dict(oracle.breached) == {invariants.MENTION: 1}


def test_a_deletion_that_was_acknowledged() -> None:
    """What was deleted stays so; the answer is the message without its content."""
    oracle = make_oracle()
    edits = Edits(oracle, 0)
    gone = message(1, changed_seq=2, content="", deleted_at="then")
    edits.delete("m1", gone)
    edits.check(gone)
    assert not oracle.breached
    edits.check(message(1))
    assert dict(oracle.breached) == {invariants.MISSING: 1}
    edits.delete("m2", message(2))
    assert oracle.breached[invariants.ALTERED] == 1


# -- pins -------------------------------------------------------------------------------------------

PINNED = {"changed_seq": 5, "pinned_at": "2026-11-29T10:00:00.000Z", "pinned_by": "u1"}


@pytest.mark.parametrize(
    ("acts", "shown", "is_right"),
    [
        ("pin", PINNED, True),
        ("pin", {}, False),
        ("pin", PINNED | {"pinned_by": "u0"}, False),
        ("pin", {"deleted_at": "then"}, True),
        ("pin", PINNED | {"deleted_at": "then"}, False),
        ("pin unpin", {}, True),
        ("pin unpin", PINNED, False),
        ("unpin pin", {}, True),  # the answers came in another order than the acts were done
        ("pin ask", {}, True),  # it may have been done
        ("pin ask refuse", {}, False),
        ("", PINNED, False),
    ],
)
def test_pins_that_are_stored(acts: str, shown: dict[str, object], is_right: bool) -> None:
    """A message is pinned by whom the last act that was answered pinned it, by the order of changes; where an act was
    not answered it may be either."""
    oracle = make_oracle()
    pins = Pins(oracle)
    for act in acts.split():
        if act == "refuse":
            pins.refuse("m1")
            continue
        pins.ask("m1", TALK)
        if act == "pin":
            pins.answer(message(1, **PINNED), is_pinned=True)
        elif act == "unpin":
            pins.answer(message(1, changed_seq=6), is_pinned=False)
    pins.check(message(1, **shown))
    assert dict(oracle.breached) == ({} if is_right else {invariants.PIN: 1})


def test_the_list_of_pins() -> None:
    """It has the stored messages that are pinned, as they are, the last one to be pinned first."""
    first = message(1, **PINNED)
    later = message(2, **PINNED | {"pinned_at": "2026-11-29T10:00:00.001Z"})
    stored = [first, later, message(3)]
    for listed, is_right in (
        ([later, first], True),
        ([first, later], False),
        ([later], False),
        ([later, first, message(3)], False),
        ([later, message(1, **PINNED | {"pinned_by": "u0"})], False),
    ):
        oracle = make_oracle()
        Pins(oracle).check_list(TALK, listed, stored)
        assert dict(oracle.breached) == ({} if is_right else {invariants.PIN: 1})


def test_a_pin_is_answered_as_one() -> None:
    """The answer to a pin that shows none, and the other way round, is a breach."""
    oracle = make_oracle()
    pins = Pins(oracle)
    pins.ask("m1", TALK)
    pins.answer(message(1), is_pinned=True)
    pins.ask("m2", TALK)
    pins.answer(message(2, **PINNED), is_pinned=False)
    assert dict(oracle.breached) == {invariants.PIN: 2}
    assert pins.conversations == {TALK}


# -- finds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "breach"),
    [
        ([message(3), message(1)], ""),
        ([message(1), message(3)], invariants.SEARCH),  # the newest first
        ([message(1), message(1)], invariants.SEARCH),
        ([message(2)], invariants.SEARCH),  # it was deleted before
        ([message(3, deleted_at="then", content="")], invariants.SEARCH),
        ([message(3, content="slow ox")], invariants.SEARCH),
        ([message(3, conversation_id="x")], invariants.STRANGER),
    ],
)
def test_what_a_search_may_find(found: list[Message], breach: str) -> None:
    """Only what is there, has the words and is in a conversation of the user, the newest first."""
    oracle = make_oracle()
    check_finds(oracle, 1, found, words=["quick", "fox"], conversations=[TALK], gone={"m2"})
    assert set(oracle.breached) == ({breach} if breach else set())
