"""The oracle on doctored streams of events: what is allowed must pass, what is not must be found, and named."""

import random
import re
from collections.abc import Iterable
from html import escape
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import trio
import trio.abc
from click.testing import CliRunner

from loadtest import results
from loadtest.commands import main
from loadtest.oracle import contents, invariants
from loadtest.oracle.audit import Audit
from loadtest.oracle.client_view import REPLAYED, ClientView
from loadtest.oracle.convergence import CALL, Convergence, differences, low
from loadtest.oracle.edits import Edits
from loadtest.oracle.gaps import Gaps
from loadtest.oracle.ledger import seen_as
from loadtest.oracle.mentions import Mentions
from loadtest.oracle.oracle import Oracle
from loadtest.oracle.pins import Pins
from loadtest.oracle.reactions import Reactions
from loadtest.oracle.reconciliation import Overtaken, Reconciliation
from loadtest.oracle.refusals import Refusals
from loadtest.oracle.threads import Threads
from loadtest.payloads import Cursor, Joined, Message, MessagePage, Reaction, StatusUpdate
from loadtest.plan import Conversation, Person
from loadtest.report.page import render
from loadtest.run_command import summary
from tests.loadtest.runs import run

TALK = "talk"


def compare(oracle: Oracle, stored: Iterable[Message], views: Iterable[ClientView]) -> None:
    """The end of a run. As System messages, which need not say what somebody has sent."""
    everything = [msgspec.structs.replace(one, type="System") for one in stored]
    Reconciliation(oracle, {}).compare(TALK, everything, views)


# What a client is shown: (message's seq, changedSeq); new when it comes as ReceiveMessage.
Shown = list[tuple[int, int, bool]]


def message(seq: int, changed: int | None = None, *, key: str | None = None, content: str = "") -> Message:
    return Message(
        id=f"m{seq}",
        conversation_id=TALK,
        seq=seq,
        changed_seq=changed or seq,
        sender_id="somebody",
        type="Text",
        content=content,
        client_message_id=key,
    )


def judge(shown: Shown, stored: dict[int, int], *, cursor: int | None = 0, head: int | None = None) -> dict[str, int]:
    """What is broken when a client at `cursor` is shown this, and this (changedSeq by seq) is stored."""
    oracle = Oracle("run", lambda: 0.0)
    view = ClientView(oracle, 1, TALK, cursor)
    for seq, changed, new in shown:
        view.take(message(seq, changed), new=new)
    if head is not None:
        view.synced(head)
    everything = [message(seq, changed) for seq, changed in stored.items()]
    view.finish(stored, Overtaken(everything, oracle.ledger(TALK)))
    return dict(oracle.breached)


def new(*seqs: int) -> Shown:
    return [(seq, seq, True) for seq in seqs]


@pytest.mark.parametrize(
    ("shown", "stored", "cursor"),
    [
        pytest.param(new(1, 2, 3), {1: 1, 2: 2, 3: 3}, 0, id="in order"),
        pytest.param([*new(1, 2), (1, 3, False), *new(4)], {1: 3, 2: 2, 4: 4}, 0, id="an edit has its place"),
        pytest.param([(2, 2, True), (1, 3, True)], {1: 3, 2: 2}, 0, id="a replay shows the edited message as new"),
        pytest.param([*new(1, 3), (2, 4, True)], {1: 1, 2: 4, 3: 3}, 0, id="a repair leaves out the first of two"),
        pytest.param([*new(1, 2), (1, 4, False)], {1: 4, 2: 2}, 0, id="of two edits of one message only the last"),
        pytest.param(new(6, 7), {seq: seq for seq in range(1, 8)}, 5, id="what was before the cursor is not missed"),
        pytest.param(new(6, 7), {seq: seq for seq in range(1, 8)}, None, id="the server chose where to begin"),
        pytest.param([(3, 8, False)], {3: 8, 7: 7}, 7, id="an old message changes"),
    ],
)
def test_what_is_promised_passes(shown: Shown, stored: dict[int, int], cursor: int | None) -> None:
    """What the promises allow is no breach: edits, repairs, cursors and starts that the server chose."""
    assert judge(shown, stored, cursor=cursor) == {}


@pytest.mark.parametrize(
    ("shown", "stored", "breach"),
    [
        pytest.param(new(1, 3), {1: 1, 2: 2, 3: 3}, invariants.GAP, id="a message is left out"),
        pytest.param(new(1, 2, 4), {1: 1, 2: 2, 4: 4}, invariants.GAP, id="a change is left out that nothing explains"),
        pytest.param([*new(1, 2), *new(4)], {1: 3, 2: 2, 4: 4}, invariants.GAP, id="an edit that stands is left out"),
        pytest.param(new(1, 3, 2), {1: 1, 2: 2, 3: 3}, invariants.ORDER, id="two change places"),
        pytest.param(new(1, 2, 2), {1: 1, 2: 2}, invariants.REPEAT, id="one comes twice"),
        pytest.param([*new(1, 2), (1, 3, True)], {1: 3, 2: 2}, invariants.REPEAT, id="an edit comes as a new message"),
        pytest.param([(1, 1, False)], {1: 1}, invariants.ORDER, id="a new message comes as an edit"),
        pytest.param([*new(2), (1, 3, False)], {1: 3, 2: 2}, invariants.ORDER, id="an edit of what was never shown"),
        pytest.param(new(1), {1: 1, 2: 2}, invariants.UNSEEN, id="the last one never comes"),
        pytest.param(new(1, 2), {1: 3, 2: 2}, invariants.UNSEEN, id="the last edit never comes"),
    ],
)
def test_what_is_not_is_named(shown: Shown, stored: dict[int, int], breach: str) -> None:
    """What the promises forbid is a breach of the promise that it breaks, and of no other."""
    assert set(judge(shown, stored)) == {breach}


def test_a_replay_that_ends_early_is_a_gap() -> None:
    """A replay that ends before the head it was promised has lost something."""
    assert judge(new(1, 2), {1: 1, 2: 2}, head=3) == {invariants.GAP: 1}


def test_two_clients_must_see_the_same_message_at_one_place() -> None:
    """Two clients that see different messages under one seq are a breach that says what each saw."""
    oracle = Oracle("run", lambda: 0.0)
    one, other = ClientView(oracle, 1, TALK), ClientView(oracle, 2, TALK)
    one.take(message(1), new=True)
    other.take(Message("another", TALK, 1, 1, None, "Text", ""), new=True)
    compare(oracle, [message(1)], [one, other])
    assert dict(oracle.breached) == {invariants.DIVERGED: 1}
    assert "p2 saw another" in oracle.breaches[0].text


def other(seq: int, changed: int | None = None) -> Message:
    """What there is in this place after the history went back."""
    return msgspec.structs.replace(message(seq, changed), id=f"n{seq}", content="other")


def gone_back(*, first: int, notified: tuple[int, ...] = ()) -> Oracle:
    """Change 2 was lost and given out again: p1 has seen the old one, p2 the new one, which is stored. `first` is who
    saw it first; those who are `notified` get a Resync in between."""
    oracle = Oracle("run", lambda: 0.0)
    views = {number: ClientView(oracle, number, TALK) for number in (1, 2)}
    for view in views.values():
        view.take(message(1), new=True)
    events = {1: message(2), 2: other(2)}
    for number in (first, 3 - first):
        views[number].take(events[number], new=True)
    for number in notified:
        views[number].resync(1)
        views[number].take(other(2), new=True)
    for view in views.values():
        view.take(other(3), new=True)
    compare(oracle, [message(1), other(2), other(3)], views.values())
    return oracle


@pytest.mark.parametrize("first", [1, 2])
def test_two_histories_without_a_resync_between_them_have_diverged(first: int) -> None:
    """Planted: two clients with different ids for one seq. Whichever saw it first, the one that is wrong is named."""
    oracle = gone_back(first=first)
    assert oracle.breached[invariants.DIVERGED] == 1
    (breach,) = (one for one in oracle.breaches if one.promise == invariants.DIVERGED)
    assert re.search(r"\bp1\b", breach.text)
    assert TALK in breach.text
    assert oracle.breached.keys() <= {invariants.DIVERGED, invariants.PHANTOM}


def test_a_divergence_is_in_every_report(tmp_path: Path) -> None:
    """On the page, in the summary, and in `audit`, with what it means."""
    result = run(oracle=gone_back(first=2).summary())
    (breach,) = (one for one in result.oracle.breaches if one.promise == invariants.DIVERGED)
    page = render(result)
    assert "diverged (1)" in page
    assert escape(breach.text) in page
    assert "BREACHED  diverged 1" in summary(result)
    results.write(result, tmp_path / "run.json")
    audit = CliRunner().invoke(main, ["audit", str(tmp_path / "run.json")])
    assert audit.exit_code == 1
    assert invariants.PROMISES[invariants.DIVERGED] in audit.output


@pytest.mark.parametrize("first", [1, 2])
def test_a_resync_separates_two_histories(first: int) -> None:
    """Who was notified has not diverged, and the Resync was due, however short it was. What was lost is lost: P1."""
    oracle = gone_back(first=first, notified=(1,))
    assert dict(oracle.breached) in ({}, {invariants.PHANTOM: 1})
    assert first == 2 or oracle.breached[invariants.PHANTOM]


def test_a_resync_of_who_saw_nothing_else_is_not_due() -> None:
    """A Resync to a client that saw nothing of the lost history was not due, which is a gap."""
    oracle = gone_back(first=1, notified=(1, 2))
    assert oracle.breached[invariants.GAP] == 1
    assert "p2" in next(breach.text for breach in oracle.breaches if breach.promise == invariants.GAP)


def test_two_histories_differ_also_where_nothing_is_stored_any_more() -> None:
    """Change 3 was one to the first message, or to the second: both were overtaken since."""
    oracle = Oracle("run", lambda: 0.0)
    views = [ClientView(oracle, number, TALK) for number in (1, 2)]
    for number, view in enumerate(views, 1):
        for seq in (1, 2):
            view.take(message(seq), new=True)
        view.take(message(number, 3), new=False)
        view.take(message(1, 4), new=False)
        view.take(message(2, 5), new=False)
    compare(oracle, [message(1, 4), message(2, 5)], views)
    assert dict(oracle.breached) == {invariants.DIVERGED: 1}


@pytest.mark.parametrize("is_resync", [True, False])
def test_what_is_live_before_the_answer_to_sync(is_resync: bool) -> None:
    """A change that is not after the cursor is the next one of another history, if the answer names it; else it is a
    repetition."""
    oracle = Oracle("run", lambda: 0.0)
    view = ClientView(oracle, 1, TALK)
    for seq in (1, 2, 3):
        view.take(message(seq), new=True)
    view.resuming()
    view.take(other(2), new=True)
    if is_resync:
        view.resync(1, answered=True)
    view.synced(1)
    assert (view.cursor, dict(oracle.breached)) == ((2, {}) if is_resync else (3, {invariants.REPEAT: 1}))


def test_a_resync_that_came_before_the_answer_to_sync() -> None:
    """The event has said it: live changes follow on its head, and what the answer repeats takes nothing back."""
    oracle = Oracle("run", lambda: 0.0)
    view = ClientView(oracle, 1, TALK)
    for seq in (1, 2, 3):
        view.take(message(seq), new=True)
    view.resuming()
    assert view.is_resuming
    view.resync(2000)
    assert not view.is_resuming
    view.take(message(2001), new=True)
    view.synced(2000)
    assert (view.cursor, view.base, dict(oracle.breached)) == (2001, 2000, {})


@pytest.mark.parametrize("is_resync", [True, False])
def test_numbers_that_jump_take_no_memory(is_resync: bool) -> None:
    """`parley restored` lifts them: with a Resync before it nothing is wrong; without, one gap, however long it is."""
    oracle, far = Oracle("run", lambda: 0.0), 10**12
    view = ClientView(oracle, 1, TALK)
    view.take(message(1), new=True)
    if is_resync:
        view.resync(far)
    for seq in (far + 1, far + 2):
        view.take(message(seq), new=True)
    stored = [message(1), message(far + 1), message(far + 2)]
    compare(oracle, stored, [view])
    assert list(oracle.ledger(TALK).places()) == [(one.seq, seen_as(one)) for one in stored]
    assert dict(oracle.breached) == ({} if is_resync else {invariants.GAP: 1})


def test_gaps_are_what_a_set_would_be() -> None:
    """`Gaps` answers as a set of all its numbers would, whatever is added and discarded."""
    rng = random.Random(5)
    for _ in range(50):
        gaps, plain, last = Gaps(), set[int](), 0
        for _ in range(30):
            first = last + rng.randint(2, 4)
            last = first + rng.randint(0, 5)
            gaps.add(first, last)
            plain.update(range(first, last + 1))
            for _ in range(3):
                change = rng.randint(0, last + 1)
                gaps.discard(change)
                plain.discard(change)
        head = rng.randint(0, last + 1)
        assert {change for change in range(last + 2) if change in gaps} == plain == {*chain.from_iterable(gaps)}
        assert {*chain.from_iterable(gaps.above(head))} == {change for change in plain if change > head}


def test_views_of_other_clients_distinguish_a_gap_from_an_overtaken_change() -> None:
    """Change 2 was message 2, says another client's view; that an older message was edited later excuses nothing."""
    oracle = Oracle("run", lambda: 0.0)
    one, other = ClientView(oracle, 1, TALK), ClientView(oracle, 2, TALK)
    for seq in (1, 2, 3):
        other.take(message(seq), new=True)
    one.take(message(1), new=True)
    one.take(message(3), new=True)
    one.take(message(1, 4), new=False)
    stored = [message(1, 4), message(3)]  # and message 2 is gone
    one.finish({1: 4, 3: 3}, Overtaken(stored, oracle.ledger(TALK)))
    assert dict(oracle.breached) == {invariants.GAP: 1}


def test_resync_excuses_what_lies_between_and_nothing_else() -> None:
    """After a resync the changes up to its head are not missed; those after it are."""
    oracle = Oracle("run", lambda: 0.0)
    view = ClientView(oracle, 1, TALK)
    view.take(message(1), new=True)
    far = 2 + REPLAYED
    view.resync(far)
    view.take(message(far + 1), new=True)
    view.finish({seq: seq for seq in range(1, far + 3)}, lambda change: False)
    assert dict(oracle.breached) == {invariants.UNSEEN: 1}  # the last


@pytest.mark.parametrize("head", [0, 1, 1 + REPLAYED])
def test_resync_is_no_excuse_for_who_is_not_far_behind(head: int) -> None:
    """A replay was due; or, without a head, the server does not know its own conversation."""
    oracle = Oracle("run", lambda: 0.0)
    view = ClientView(oracle, 1, TALK)
    view.take(message(1), new=True)
    view.resync(head)
    compare(oracle, [message(1)], [view])
    assert oracle.breached[invariants.GAP] == 1


def test_two_clients_must_read_the_same_there() -> None:
    """Also when each content is a good one: an edit that comes with what was said before it is no edit."""
    oracle = Oracle("run", lambda: 0.0)
    one, other = ClientView(oracle, 1, TALK), ClientView(oracle, 2, TALK)
    for view, content in ((one, "after"), (other, "before")):
        view.take(message(1, content="before"), new=True)
        view.take(message(1, 2, content=content), new=False)
    compare(oracle, [message(1, 2, content="before")], [one, other])
    assert dict(oracle.breached) == {invariants.DIVERGED: 1}
    assert "by p1" in oracle.breaches[0].text


def test_a_receipt_may_not_fall() -> None:
    """A receipt that is lower than one of its kind before it is a breach; one of the other kind is not compared."""
    oracle = Oracle("run", lambda: 0.0)
    view = ClientView(oracle, 1, TALK)
    for status, seq in (("Read", 3), ("Delivered", 2), ("Read", 3), ("Read", 5)):
        view.receipt(StatusUpdate(TALK, "somebody", status, seq))
    assert not oracle.breached
    view.receipt(StatusUpdate(TALK, "somebody", "Read", 4))
    assert dict(oracle.breached) == {invariants.RECEIPT: 1}


class Reader:
    """As much of a virtual user as the oracle needs."""

    number = 1
    person = Person(1, "u", "")

    def __init__(self, marked: int) -> None:
        self.marked = {TALK: marked}


@pytest.mark.parametrize(("stored", "fine"), [(4, True), (6, True), (3, False), (7, False)])
def test_a_stored_receipt_is_between_what_was_acknowledged_and_the_head(stored: int, fine: bool) -> None:
    """What is stored of a receipt is neither below what was acknowledged nor above the conversation's head."""
    joined = Joined(last_seq=6, cursors=(Cursor("u", stored, stored),))
    assert (low(joined, TALK, [Reader(4)]) == []) == fine  # type: ignore[list-item]  # as much as is asked for


def test_presence_that_is_not_the_truth_is_named() -> None:
    """Each user whose presence differs from the truth, or who is missing, is one difference."""
    assert differences({"a": "Online"}, {"a": "Online"}) == []
    assert len(differences({"a": "Online"}, {"a": "Offline", "b": "Online"})) == 2


async def test_presence_without_an_answer_does_not_hold(autojump_clock: trio.abc.Clock) -> None:
    """A server that never answers the question is not believed; all who ask share one patience."""
    oracle = Oracle("run", lambda: 0.0)
    world = SimpleNamespace(oracle=oracle, rng=random.Random(1), conversations={TALK: Conversation(TALK, (0, 1), 0)})
    people = [
        SimpleNamespace(
            number=number,
            person=Person(number, f"u{number}", ""),
            online=True,
            marked={TALK: 3},
            peers={},
            conversations=[TALK],
            call=lambda *_: None,
        )
        for number in (0, 1)
    ]
    world.virtual_users = dict(enumerate(people))
    world.searched = False
    await Convergence(world, 5.0, {}).run()  # type: ignore[arg-type]  # as much as is asked for
    assert dict(oracle.breached) == {invariants.PRESENCE: 2, invariants.RECEIPT: 1}
    assert trio.current_time() <= 5.0 + 3 * CALL


async def test_all_sends_of_one_user_lost_is_a_breach() -> None:
    """Every acknowledged send of somebody is gone, or the only one is: nothing stored is theirs, and each is missed."""
    oracle = Oracle("run", lambda: 0.0, ("u0", "u1", "u2"))
    said = msgspec.structs.replace(
        message(1, key="run-0-0", content=contents.make_content("run-0-0", 1.0, 60)), sender_id="u0"
    )
    acknowledged = ([hash(said.id)], [hash("m8"), 0, hash("m9")], [hash("m7")])
    people = {
        number: SimpleNamespace(
            number=number,
            user_id=f"u{number}",
            acknowledged=sent,
            edits=Edits(oracle, number),
            mentions=Mentions(oracle, number),
            refusals=Refusals(oracle, number),
        )
        for number, sent in enumerate(acknowledged)
    }
    reconciliation = Reconciliation(oracle, people)
    reconciliation.compare(TALK, [said], [])
    reconciliation.missing()
    assert dict(oracle.breached) == {invariants.MISSING: 3}
    assert {breach.text.split(" of ")[1].split()[0] for breach in oracle.breaches} == {"p1", "p2"}


@pytest.mark.parametrize(("wait", "fine"), [(2.0, True), (9.0, False)])
async def test_who_has_nothing_yet_is_waited_for(wait: float, fine: bool, autojump_clock: trio.abc.Clock) -> None:
    """What is stored may be on its way to somebody whose cursor is still 0: within the patience it is not lost."""
    oracle = Oracle("run", lambda: 0.0, ("u0",))
    said = message(1, key="run-0-0", content=contents.make_content("run-0-0", 1.0, 60))
    said = msgspec.structs.replace(said, sender_id="u0")
    view = ClientView(oracle, 0, TALK)
    virtual_user = SimpleNamespace(
        number=0,
        person=Person(0, "u0", ""),
        online=True,
        views={TALK: view},
        acknowledged=[hash(said.id)],
        edits=Edits(oracle, 0),
        mentions=Mentions(oracle, 0),
        refusals=Refusals(oracle, 0),
        removed={},
        user_id="u0",
    )

    async def page(*_: object, after: int, **__: object) -> MessagePage:
        return MessagePage((said,) if after == 0 else ())

    world = SimpleNamespace(
        oracle=oracle, run="run", conversations={TALK: Conversation(TALK, (0,), 0)}, virtual_users={0: virtual_user},
        rest=SimpleNamespace(get=page), under_way=0, recording=None, reactions=Reactions(oracle),
        pins=Pins(oracle), threads=Threads(oracle),
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Audit(world, 5.0)._conversation, TALK, trio.CapacityLimiter(1))  # type: ignore[arg-type]  # as much as is asked for
        await trio.sleep(wait)
        view.take(said, new=True)
    assert dict(oracle.breached) == ({} if fine else {invariants.UNSEEN: 1})


@pytest.mark.parametrize(
    ("key", "sender", "fine"),
    [("run-0-0", "u0", True), ("run-0-0", "u1", False), ("run-7-0", "u0", False), (None, "u0", False)],
)
def test_who_sent_it_is_checked_as_it_comes(key: str | None, sender: str, fine: bool) -> None:
    """At every client, and again when the same content comes with another name; a lost key is noticed, too."""
    oracle = Oracle("run", lambda: 0.0, ("u0", "u1"))
    first = Message("m", TALK, 1, 1, "u0", "Text", contents.make_content("run-0-0", 1.0, 90), "run-0-0")
    oracle.read(first, 1)
    assert not oracle.breached
    content = contents.make_content(key or "run-0-0", 1.0, 90)
    oracle.read(Message("m", TALK, 1, 1, sender, "Text", content, key), 1)
    assert dict(oracle.breached) == ({} if fine else {invariants.ALTERED: 1})


@pytest.mark.parametrize("size", [1, 60, 5000])
def test_contents_are_known_again_to_the_byte(size: int) -> None:
    """Who reads a message knows when it was due; a byte more, less or other, or another's key, is noticed."""
    key = contents.make_key("run", 3, 14)
    text = contents.make_content(key, 12.345678, size)
    assert contents.read_content(key, text) == pytest.approx(12.345678)
    assert contents.parse_key("run", key) == (3, 14)
    assert contents.parse_key("other", key) is None
    assert contents.read_content(contents.make_key("run", 3, 15), text) is None
    assert contents.read_content(key, text + "x") is None
    assert contents.read_content(key, text[:-2]) is None
    if size > contents.SMALLEST:
        assert contents.read_content(key, text.replace("quick", "quack")) is None


def test_a_breach_has_the_trace_of_its_client() -> None:
    """A breach carries what its own client did, and nothing of others."""
    oracle = Oracle("run", lambda: 1.5)
    oracle.note(1, "opened")
    oracle.note(2, "opened")
    oracle.note(1, "ReceiveMessage", TALK, 7, "m7")
    oracle.breach(invariants.GAP, "something", virtual_user=1)
    (breach,) = oracle.breaches
    assert [line.split()[1:3] for line in breach.trace] == [["p1", "opened"], ["p1", "ReceiveMessage"]]


@pytest.mark.parametrize(
    ("shown", "is_right"),
    [
        ((Reaction("x", 2, ("a", "b")),), True),
        ((Reaction("x", 3, ("a", "b", "c")),), True),  # of one it is not known
        ((Reaction("x", 1, ("a",)),), False),
        ((Reaction("x", 4, ("a", "b", "c", "d")),), False),
        ((Reaction("x", 2, ("a", "d")),), False),  # who has taken it back
        ((Reaction("x", 2, ("a",)),), False),
        ((Reaction("x", 2, ("a", "b")), Reaction("y", 1, ("a",))), False),
        ((), False),
    ],
)
def test_reactions_that_are_stored(shown: tuple[Reaction, ...], is_right: bool) -> None:
    """Two are acknowledged, one was taken back, and of one it is not known: exactly that is shown, of each by name."""
    oracle = Oracle("run", lambda: 0.0)
    reactions = Reactions(oracle)
    for user in ("a", "b", "c", "d"):
        assert reactions.holds("m1", "x", user) is False
        reactions.ask("m1", "x", user)
        assert reactions.holds("m1", "x", user) is None
        if user != "c":
            reactions.answer("m1", "x", user, is_there=True)
    reactions.answer("m1", "x", "d", is_there=False)
    reactions.check(msgspec.structs.replace(message(1), reactions=shown))
    assert dict(oracle.breached) == ({} if is_right else {invariants.MISCOUNTED: 1})
    assert oracle.checked[invariants.MISCOUNTED] == 1


def test_reactions_that_two_clients_see() -> None:
    """The same change with other reactions is another state: two who see that have diverged."""
    oracle = Oracle("run", lambda: 0.0)
    one, two = ClientView(oracle, 1, TALK, 0), ClientView(oracle, 2, TALK, 0)
    counted = [msgspec.structs.replace(message(1, 2), reactions=(Reaction("x", n, ("a", "b")[:n]),)) for n in (1, 2)]
    for view, state in zip((one, two), counted, strict=True):
        view.take(message(1), new=True)
        view.take(state, new=False)
    compare(oracle, [counted[0]], [one, two])
    assert set(oracle.breached) == {invariants.DIVERGED}
