"""The Python client's view and outbox against a hostile transport, without I/O: after quiet the lists are the truth."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_client import events
from parley_client.errors import ParleyError, from_sentence
from parley_client.model import ConversationInfo, Cursor, Message, MessageType, Page, Synced, ThreadState, User
from parley_client.outbox import Draft, Entry, Outbox
from parley_client.replica import STORED, Replica
from parley_client.view import Older

from tests.clients.fake_server import Connection, Truth

ME, OTHER = "me", "other"
PAGE = 3  # messages: small, so that reading anew takes several


class Client:
    """What the engine does, one step at a time, and with every step under the test's control."""

    def __init__(self, truth: Truth, records: dict[str, bytes] | None = None) -> None:
        self.truth = truth
        self.me = User(id=ME, username=ME)
        self.events: list[events.Event] = []
        self.replica = Replica(self, self.hear, lambda: None)  # type: ignore[arg-type] # only `me` and threads are asked for
        self.store = records or {}
        self.replica.restore(self.store, ME, "url")
        self.connection: Connection | None = None
        self.under_way: dict[str, Entry] = {}
        self.calls: dict[str, Any] = {}
        self.last_id = 0
        self.pages: dict[str, tuple[Older, int, Page[Message]]] = {}  # on their way, by conversation
        self.details: list[tuple[ConversationInfo, dict[str, int]]] = []  # the same

    def hear(self, event: events.Event) -> None:
        """What happens in a conversation can be shown: its members are known."""
        assert not isinstance(event, events.InConversation) or event.conversation.members
        self.events.append(event)

    def ask_thread(self, conversation_id: str, root_id: str) -> None:
        self.replica.ask_thread(conversation_id, root_id)

    @property
    def new(self) -> list[Message]:
        return [event.message for event in self.events if isinstance(event, events.MessageReceived)]

    def _call(self, what: Any, target: str, *arguments: Any) -> None:
        assert self.connection is not None
        self.last_id += 1
        self.calls[str(self.last_id)] = what
        plain = msgspec.json.decode(msgspec.json.encode(arguments))
        self.truth.call(self.connection, str(self.last_id), target, plain)

    def connect(self) -> None:
        if self.connection is None:
            self.connection = Connection(ME)
            self.truth.connections.append(self.connection)
            cursors, others = self.replica.begin_sync()
            self._call("sync", "Sync", cursors, {"others": others})

    def cut(self) -> None:
        """Whatever is on its way is lost; what has reached the server was done."""
        if self.connection is not None:
            self.truth.connections.remove(self.connection)
            self.connection = None
            self.under_way.clear()
            self.calls.clear()
            self.replica.lost()

    def hold_up(self) -> None:
        """The next answer comes after everything that is on its way."""
        queue = self.connection.queue if self.connection else ()
        late = next((one for one in queue if one["type"] == 3 and self.calls.get(one["invocationId"]) != "sync"), None)
        if late is not None and self.connection is not None:
            self.connection.queue.remove(late)
            self.connection.queue.append(late)

    def receive(self, count: int = 1, *, twice: bool = False) -> None:
        for _ in range(count):
            if self.connection is None or not self.connection.queue:
                return
            message = self.connection.queue.popleft()
            for _ in range(1 + twice):
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] == 1:
            self.replica.take(message["target"], msgspec.Raw(msgspec.json.encode(message["arguments"])))
            return
        what = self.calls.pop(message["invocationId"], None)
        if what == "sync":
            self.replica.take_synced(msgspec.convert(message["result"], Synced))
            self.replica.end_sync()
            self.ask_details()
            self.give_details()
        elif what is not None:
            entry, attempt = what
            del self.under_way[entry.draft.conversation_id]
            if "error" in message:
                self.replica.refused(entry, attempt, from_sentence(message["error"]))
            else:
                self.replica.answered(entry, attempt, msgspec.convert(message["result"], Message))

    def send(self, conversation: str, content: str) -> Entry:
        entry = self.replica.outbox.add(conversation, content)
        self.replica.touch_outbox()
        return entry

    def work(self) -> bool:
        """Begin to send what waits, and read a page of what is to be read anew. Returns whether there was anything."""
        if self.connection is None or "sync" in self.calls.values():
            return False
        did = False
        for id_ in self.replica.outbox.conversations():
            entry = self.replica.outbox.waiting(id_)
            if entry is not None and id_ not in self.under_way:
                if not self.replica.may_send(entry):
                    did |= self.replica.outbox.waiting(id_) is not entry
                    continue
                did = True
                self.under_way[id_] = entry
                self._call((entry, entry.attempt), "SendMessage", entry.draft.request())
        for found in self.replica.stale():
            did = True
            view = found._view
            generation = view.generation
            if view.read_before > 1:
                page = msgspec.convert(self.truth.page(found.id, view.read_before, PAGE), Page[Message])
                floor = 0 if page.next is None else page.items[-1].seq - 1
                if view.take_anew(generation, page.items, floor):
                    continue
            self.replica.end_anew(found, generation)
        if self.replica.outdated():
            did = True
            self.ask_details()
            self.give_details()
        for found in self.replica.asked():
            did = True
            while (root := self.replica.next_asked(found)) is not None:
                state = self.truth.threads.get(root)
                asked = None if state is None else msgspec.convert(state, ThreadState)
                self.replica.take_asked(found, root, asked, found._round)
        return did

    def older(self, conversation: str) -> None:
        """Read a page further back; what happens meanwhile stays on its way."""
        self.give_page(conversation)
        self.ask_page(conversation)
        self.give_page(conversation)

    def ask_page(self, conversation: str) -> None:
        found = self.replica.conversations.get(conversation)
        if found is None or conversation in self.pages or not self.replica.can_load(found):
            return
        self.replica.attach(found)
        view = found._view
        if not view.is_whole:
            page = msgspec.convert(self.truth.page(conversation, view.floor + 1, PAGE), Page[Message])
            self.pages[conversation] = view.begin_older(), view.floor, page

    def give_page(self, conversation: str) -> None:
        if conversation in self.pages:
            asked, floor, page = self.pages.pop(conversation)
            view = self.replica.conversations[conversation]._view
            if view.floor == floor:
                view.take_older(asked, page.items, 0 if page.next is None else page.items[-1].seq - 1)
            view.end_older(asked)

    def ask_details(self) -> None:
        rounds = self.replica.rounds()
        self.details += [(msgspec.convert(info, ConversationInfo), rounds) for info in self.truth.infos(ME)]

    def give_details(self) -> None:
        details, self.details = self.details, []
        for info, rounds in details:
            self.replica.take_details(info, rounds)

    def settle(self) -> None:
        """Quiet: whatever is on its way arrives, and whatever is to be done is done."""
        self.connect()
        while True:
            self.receive(10_000)
            if not self.work() and not (self.connection and self.connection.queue):
                return

    def again(self) -> "Client":
        """The next process, from what the store has."""
        self.cut()
        kept: dict[str, bytes | None] = {**self.store, **self.replica.records()}
        return Client(self.truth, {name: record for name, record in kept.items() if record is not None})


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("say", "say", "say", "send", "send", "work", "work", "receive", "receive", "receive", "twice"),
                *("cut", "connect", "edit", "react", "create", "back", "again", "older", "ask", "ask", "give", "read"),
                "late",
            ]
        ),
        st.integers(0, 7),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=150)
def test_after_quiet_the_lists_are_the_truth(steps: list[tuple[str, int]]) -> None:
    """Cut, doubled, delayed, edited, begun anew from a store, with histories that go back: each list is exactly what is
    committed, as far as it reaches; what was sent is there once, and no message is shown as new twice."""
    truth = Truth()
    talks = [truth.create(OTHER, ME), truth.create(OTHER, ME)]
    client = Client(truth)
    client.settle()
    sent: list[Entry] = []
    shown: Counter[str] = Counter()
    went_back = False
    for number, (step, n) in enumerate(steps):
        talk = talks[n % len(talks)]
        if step == "say":
            truth.send(OTHER, talk, f"other {number}")
        elif step == "send":
            sent.append(client.send(talk, f"mine {number}"))
        elif step == "work":
            client.work()
        elif step in ("receive", "twice"):
            client.receive(n + 1, twice=step == "twice")
        elif step == "cut":
            client.cut()
        elif step == "connect":
            client.connect()
        elif step == "edit":
            truth.edit(truth.talks[talk].in_order()[n % len(truth.talks[talk].messages)]["id"], f"edited {number}")
        elif step == "react":
            messages = truth.talks[talk].in_order()
            truth.react(messages[n % len(messages)]["id"], OTHER, f":{number}:")
        elif step == "create":
            talks.append(truth.create(OTHER, ME))
        elif step == "older":
            client.older(talk)
        elif step == "ask":
            client.ask_page(talk)
            client.ask_details()
        elif step == "give":
            client.give_page(talk)
            client.give_details()
        elif step == "read":
            truth.mark_read(OTHER, talk)
        elif step == "late":
            client.hold_up()
        elif step == "back":
            went_back = True
            truth.go_back(talk, max(1, truth.talks[talk].head - n))
        elif step == "again":
            shown.update(message.id for message in client.new)
            client = client.again()
    client.settle()
    for talk in talks:
        client.give_page(talk)
    client.give_details()
    for talk in talks:
        truth.send(OTHER, talk, "the last")  # a history that went back shows with the next message
    client.settle()
    client.cut()
    client.settle()
    shown.update(message.id for message in client.new)
    for talk in talks:
        found = client.replica.conversations[talk]
        true = [one for one in truth.talks[talk].in_order() if one["seq"] > found._view.floor]
        assert [(m.seq, m.id, m.content) for m in found.messages] == [(m["seq"], m["id"], m["content"]) for m in true]
        assert found.cursor is not None and found.cursor.seq == found.head == truth.talks[talk].head
        assert {one: found._receipts[one].read for one in truth.talks[talk].read} == truth.talks[talk].read
        mine = [one["content"] for one in truth.talks[talk].in_order() if one["senderId"] == ME]
        mine = [content for content in mine if content.startswith("mine")]
        assert len(mine) == len({*mine})
        if not went_back:
            queued = [one.draft.content for one in sent if one.draft.conversation_id == talk]
            assert [one for one in queued if one in mine] == mine  # in the order in which they were sent
    committed = {
        one["clientMessageId"]
        for talk in talks
        for one in truth.talks[talk].messages.values()
        if one.get("clientMessageId")
    }
    assert {entry.draft.id for entry in sent} <= committed
    assert not client.replica.outbox.conversations()
    if not went_back:
        assert max(shown.values(), default=1) == 1


def test_missed_messages_are_new_once() -> None:
    """What was said while the client was away comes as new, once, in order, also what was edited since."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    first = truth.send(OTHER, talk, "one")
    client.settle()
    client.cut()
    second = truth.send(OTHER, talk, "two")
    truth.send(OTHER, talk, "three")
    truth.edit(second["id"], "two, edited")
    truth.edit(first["id"], "one, edited")
    client.settle()
    assert [message.content for message in client.new] == ["one", "two, edited", "three"]
    [changed] = [event for event in client.events if isinstance(event, events.MessageChanged)]
    assert changed.message.content == "one, edited" and changed.previous is not None


def test_an_answer_moves_no_cursor() -> None:
    """The answer to a send comes before what another sender has written before it; the connection is lost then."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    client.send(talk, "mine")
    truth.send(OTHER, talk, "before it")
    client.work()
    assert client.connection is not None
    answer = client.connection.queue.pop()
    client.connection.queue.clear()
    client._take(answer)
    found = client.replica.conversations[talk]
    assert found.cursor is not None and found.cursor.seq == 1
    client.cut()
    client.settle()
    assert [message.content for message in client.new] == ["before it", "mine"]


def test_a_history_that_goes_back() -> None:
    """What was sent lately and is lost is sent again as the same message; the application sees one reset, and then
    what is new to it."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    mine = client.send(talk, "mine")
    client.settle()
    truth.send(OTHER, talk, "theirs")
    client.settle()
    truth.go_back(talk, 1)
    truth.send(OTHER, talk, "instead")
    client.events.clear()
    client.settle()
    contents = [message.content for message in client.replica.conversations[talk].messages[1:]]
    assert contents == ["instead", "mine"]
    assert [one["clientMessageId"] for one in truth.talks[talk].in_order()[2:]] == [mine.draft.id]
    kinds = [event.kind for event in client.events if event.kind in ("reset", "message", "sent")]
    assert kinds[0] == "reset" and kinds.count("reset") == 1 and sorted(kinds[1:]) == ["message", "message", "sent"]


def test_what_is_lost_is_said_again_in_its_order() -> None:
    """Several messages that a history has lost go out again in the order in which they were written."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    for content in ("one", "two", "three"):
        client.send(talk, content)
    client.settle()
    truth.go_back(talk, 1)
    truth.send(OTHER, talk, "instead")
    client.settle()
    assert [one["content"] for one in truth.talks[talk].in_order()[1:]] == ["instead", "one", "two", "three"]


@pytest.mark.parametrize("has_synced", [False, True])
def test_what_is_sent_while_it_catches_up_is_kept(has_synced: bool) -> None:
    """That may take as long as PostgreSQL is away. A program that is killed then sends it when it runs again, and has
    missed nothing of what came meanwhile."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    if has_synced:
        client.settle()
        client = client.again()
    truth.send(OTHER, talk, "theirs")
    client.connect()
    client.send(talk, "mine")
    client.receive(int(has_synced))  # the event, but not the answer
    kept = {**client.store, **client.replica.records()}
    assert not any(name.startswith("in ") for name in kept.keys() - client.store.keys())
    client.cut()
    again = Client(truth, {name: record for name, record in kept.items() if record is not None})
    again.settle()
    assert [one["content"] for one in truth.talks[talk].in_order()[1:]] == ["theirs", "mine"]
    assert [one.content for one in again.new] == (["theirs", "mine"] if has_synced else ["mine"])


def test_a_first_catch_up_counts_with_its_conversations() -> None:
    """A program whose first catch-up was answered, and that ends in the next one before it has stored the
    conversations, begins anew: what there was is no news."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    truth.send(OTHER, talk, "old")
    client = Client(truth)
    client.connect()
    while client.replica.is_catching_up:
        client.receive(1)
    client.cut()
    client.connect()  # it is in the next one
    kept = {name: record for name, record in client.replica.records().items() if record is not None}
    assert "meta" in kept and not any(name.startswith("in ") for name in kept)
    client.cut()
    again = Client(truth, kept)
    again.settle()
    assert not again.new


def test_a_first_catch_up_that_could_not_be_kept() -> None:
    """Its conversations are not there: with a part of it the next process would take all of them for news."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    truth.send(OTHER, talk, "of before")
    client = Client(truth)
    client.settle()
    client.replica.not_saved(client.replica.records())
    client.cut()
    client.replica.begin_sync()
    records = {name: record for name, record in client.replica.records().items() if record is not None}
    after = Client(truth, client.store | records)
    after.settle()
    assert not after.replica.conversations[talk].messages


@pytest.mark.parametrize("is_new_process", [False, True])
def test_what_was_deleted_is_not_said_again(is_new_process: bool) -> None:
    """Of what a history has lost that goes out again what was not deleted since, as it was edited last."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    for content in ("regretted", "misspelt", "as it was"):
        client.send(talk, content)
    client.settle()
    regretted, misspelt, _ = [one["id"] for one in truth.talks[talk].in_order()[1:]]
    truth.delete(regretted)
    truth.edit(misspelt, "spelt")
    client.settle()
    if is_new_process:
        client = client.again()
        client.settle()
    truth.go_back(talk, 1)
    truth.send(OTHER, talk, "instead")
    client.settle()
    assert [one["content"] for one in truth.talks[talk].in_order()[1:]] == ["instead", "spelt", "as it was"]


def test_a_list_that_is_longer_than_its_store() -> None:
    """The store has the newest messages; what lies before them can be read again, without a gap between the two."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    for number in range(STORED + 4):
        truth.send(OTHER, talk, str(number))
    client.settle()
    client = client.again()
    found = client.replica.conversations[talk]
    head = STORED + 5
    assert [message.seq for message in found.messages] == list(range(head - STORED + 1, head + 1))
    client.settle()
    for _ in range(4):
        client.older(talk)
    assert [message.seq for message in found.messages] == list(range(1, head + 1)) and client.new == []


def test_a_thousand_behind() -> None:
    """What no replay covers is read anew, page by page, and shown as new all the same."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    client.cut()
    for number in range(1100):
        truth.send(OTHER, talk, str(number))
    client.settle()
    assert [message.content for message in client.new] == [str(number) for number in range(1100)]
    assert sum(isinstance(event, events.ConversationReset) for event in client.events) == 1


def test_a_refused_message_does_not_hold_up_the_next() -> None:
    """It fails with its reason; a retry puts it behind what waits, as the same message."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    first, second = client.send(talk, "first"), client.send(talk, "second")
    client.replica.refused(first, first.attempt, ParleyError("invalid_content", "it is empty"))
    client.settle()
    assert (first.stage, second.stage) == ("failed", "sent") and first.error is not None
    assert [entry.draft.content for entry in client.replica.outbox.shown(talk)] == ["first"]
    client.replica.outbox.retry(first)
    client.settle()
    assert first.stage == "sent"
    assert first.error is None
    assert [one["content"] for one in truth.talks[talk].in_order()[1:]] == ["second", "first"]


def test_a_program_that_sends_again_after_its_own_crash() -> None:
    """With its own id for the message it is that one: while it is known here, and for a new process that knows nothing
    of it, for which it is the message that was committed."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    add = client.replica.outbox.add
    first = add(talk, "order 7", client_message_id="order-7")
    assert add(talk, "order 7", client_message_id="order-7") is first
    client.settle()
    assert first.stage == "sent" and add(talk, "order 7", client_message_id="order-7") is first
    after = Client(truth)
    after.settle()
    again = after.replica.outbox.add(talk, "order 7", client_message_id="order-7")
    after.settle()
    assert again.stage == "sent" and again.message is not None and first.message is not None
    assert again.message.id == first.message.id
    assert [one["content"] for one in truth.talks[talk].in_order()[1:]] == ["order 7"]


DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def kept(client: Client) -> dict[str, bytes]:
    """What a store has of it."""
    return client.store | {name: record for name, record in client.replica.records().items() if record is not None}


def left(truth: Truth, clock: Clock, talk: str, *, arrives: bool = False) -> dict[str, bytes]:
    """What a store has of a client that ended after it had sent a message, before the answer."""
    before = Client(truth)
    before.replica.outbox._clock = clock
    before.settle()
    entry = before.send(talk, "on its way")
    records = kept(before)
    assert before.replica.may_send(entry)
    if arrives:
        truth.send(ME, talk, "on its way", entry.draft.id)
        truth._sent.clear()  # the keys are kept for a limited time
    records |= kept(before)
    before.cut()
    return records


def texts(truth: Truth, talk: str) -> list[str]:
    return [one["content"] for one in truth.talks[talk].in_order()[1:]]


def again(truth: Truth, clock: Clock, records: dict[str, bytes]) -> Client:
    client = Client.__new__(Client)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("parley_client.replica.Outbox", lambda: Outbox(clock=clock))
        Client.__init__(client, truth, records)
    client.settle()
    return client


@pytest.mark.parametrize("does", ["retry", "discard"])
def test_what_was_sent_too_long_ago_is_not_sent_by_itself(does: str) -> None:
    """When the server may not know its key any more it fails, also after another start, until the user decides."""
    truth, clock = Truth(), Clock()
    talk = truth.create(OTHER, ME)
    records = left(truth, clock, talk)
    clock.now += 6.5 * DAY
    client = again(truth, clock, records)
    client = again(truth, clock, records | kept(client))
    [entry] = client.replica.outbox.shown(talk)
    assert entry.stage == "failed" and entry.error is not None
    assert (entry.error.code, entry.error.is_retryable) == ("outcome_unknown", False)
    assert texts(truth, talk) == []
    getattr(client.replica.outbox, does)(entry)
    client.settle()
    assert texts(truth, talk) == (["on its way"] if does == "retry" else [])
    assert client.replica.outbox.shown(talk) == []
    client.replica.outbox.drafts()
    assert client.replica.outbox.attempts() == {}


def test_what_was_sent_long_ago_and_is_in_the_history_is_sent() -> None:
    """Catching up shows it: nothing fails, and it is there once."""
    truth, clock = Truth(), Clock()
    talk = truth.create(OTHER, ME)
    records = left(truth, clock, talk, arrives=True)
    clock.now += 30 * DAY
    client = again(truth, clock, records)
    assert client.replica.outbox.shown(talk) == [] and texts(truth, talk) == ["on its way"]
    assert not [event for event in client.events if isinstance(event, events.MessageFailed)]


def test_what_has_failed_for_its_age_and_shows_up_is_sent() -> None:
    """The history has it after all, further back: it has not failed."""
    clock = Clock()
    outbox = Outbox(clock=clock)
    entry = outbox.add("talk", "on its way")
    outbox.begin(entry)
    outbox.failed(entry, ParleyError("outcome_unknown", "it was sent long ago"))
    message = Message(id="m", conversation_id="talk", seq=2, changed_seq=2, sender_id=ME, created_at="")
    assert outbox.sent(entry, message)
    assert (entry.stage, entry.error, entry.draft.error_code) == ("sent", None, None)


def test_what_was_sent_long_ago_waits_while_its_history_is_read() -> None:
    """Only then it is known whether the history has it."""
    truth, clock = Truth(), Clock()
    talk = truth.create(OTHER, ME)
    client = Client(truth, left(truth, clock, talk))
    client.replica.outbox._clock = clock
    clock.now += 30 * DAY
    found = client.replica.conversations[talk]
    assert found.cursor is not None
    found._view.begin_anew(found.cursor)
    entry = client.replica.outbox.waiting(talk)
    assert entry is not None and not client.replica.may_send(entry) and entry.stage == "pending"


def test_the_age_is_that_of_the_first_attempt() -> None:
    """The server may have had the message since then, however often it was sent again."""
    clock = Clock()
    outbox = Outbox(clock=clock)
    entry = outbox.add("talk", "one")
    outbox.begin(entry)
    first = outbox.attempts()
    clock.now += 4 * DAY
    outbox.begin(entry)
    assert outbox.attempts() == first and not outbox.is_uncertain(entry)
    clock.now += 2.5 * DAY
    assert outbox.is_uncertain(entry)


def test_an_attempt_is_kept_as_long_as_the_store_says_that_the_message_waits() -> None:
    """The record of attempts is written more often than what waits."""
    outbox = Outbox(clock=Clock())
    entry = outbox.add("talk", "one")
    outbox.drafts()
    outbox.begin(entry)
    message = Message(id="m", conversation_id="talk", seq=2, changed_seq=2, sender_id=ME, created_at="")
    assert outbox.sent(entry, message)
    assert entry.draft.id in outbox.attempts()
    outbox.drafts()
    assert not outbox.attempts()


def test_what_is_sent_again_by_hand_has_the_age_of_what_is_new() -> None:
    """Whichever record the store is given first, the next process does not take it for what may have arrived."""
    clock = Clock()
    outbox = Outbox(clock=clock)
    entry = outbox.add("talk", "one")
    outbox.drafts()
    outbox.begin(entry)
    clock.now += 7 * DAY
    outbox.failed(entry, ParleyError("outcome_unknown", "it was sent long ago"))
    outbox.retry(entry)
    assert outbox.attempts() == {}


def test_what_was_never_sent_to_a_server_is_sent_whatever_its_age() -> None:
    """Nothing can be there twice."""
    truth, clock = Truth(), Clock()
    talk = truth.create(OTHER, ME)
    before = Client(truth)
    before.replica.outbox._clock = clock
    before.settle()
    records = kept(before)
    before.send(talk, "waits")
    records |= kept(before)
    clock.now += 30 * DAY
    client = again(truth, clock, records)
    assert client.replica.outbox.shown(talk) == [] and texts(truth, talk) == ["waits"]


@pytest.mark.parametrize(
    ("attempted", "created", "is_sent"),
    [
        (-5.0, -5.0, True),
        (0.1, 0.1, True),  # clocks differ a little
        (2.0, 2.0, False),  # the clock was set back
        (None, -8.0, False),  # a store of a version that kept no attempts
        (None, -1.0, True),
        (None, None, True),
    ],
)
def test_the_age_is_as_far_as_clock_and_store_say_it(
    attempted: float | None, created: float | None, is_sent: bool
) -> None:
    """A store of before, and a clock that was set, may not lead to a second message."""
    clock = Clock()
    outbox = Outbox(clock=clock)
    draft = Draft(
        id="x", conversation_id="talk", content="", created=0.0 if created is None else clock.now + created * DAY
    )
    outbox.take_over([draft], None if attempted is None else {"x": clock.now + attempted * DAY})
    entry = outbox.get("x")
    assert entry is not None and outbox.is_uncertain(entry) is not is_sent


@pytest.mark.parametrize(("user", "url"), [("eve", "url"), (ME, "another url")])
def test_a_store_of_somebody_else_is_not_used(user: str, url: str) -> None:
    """Of another user, or another server: nothing of it is shown, nothing of it is sent."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    client.send(talk, "mine")
    records = {name: record for name, record in client.replica.records().items() if record is not None}
    replica = Replica(client, client.events.append, lambda: None)  # type: ignore[arg-type] # only `me` and threads are asked for
    assert not replica.restore(records, user, url)
    assert not replica.conversations and not replica.outbox.drafts()


@pytest.mark.parametrize("is_there", [True, False])
def test_joining_while_away(is_there: bool) -> None:
    """Of a group that the user was added to, what was said before is no news; it can be read."""
    truth = Truth()
    group = truth.create(OTHER, "third")
    client = Client(truth)
    client.settle()
    if not is_there:
        client.cut()
    truth.send(OTHER, group, "before")
    truth.add(group, ME)
    truth.send(OTHER, group, "after")
    client.settle()
    assert [message.content for message in client.new if message.type != "System"] == ["after"]
    assert client.replica.conversations[group].messages[-1].content == "after"


@pytest.mark.parametrize("comes", ["after", "before", "meanwhile", "cut"])
def test_pages_of_a_conversation_of_which_no_event_has_come(comes: str) -> None:
    """Pages can be read as soon as the details are known; what follows comes after them, once."""
    truth = Truth()
    client = Client(truth)
    client.settle()
    talk = truth.create(OTHER, ME)
    if comes == "before":
        truth.send(OTHER, talk, "one")
    truth.say_details(talk, "named")
    client.receive(2)
    client.ask_page(talk)
    if comes == "cut":
        client.cut()
    if comes != "before":
        truth.send(OTHER, talk, "one")
    if comes == "meanwhile":
        client.receive()
    client.give_page(talk)
    client.settle()
    client.older(talk)
    found = client.replica.conversations[talk]
    assert [message.seq for message in found.messages] == [1, 2]
    assert [message.content for message in client.new] == ["one"]
    assert found._view.is_whole and not any(isinstance(event, events.ConversationReset) for event in client.events)


def test_the_cursor_is_a_proof() -> None:
    """It names the message of the last change, and when that was changed."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    message = truth.send(OTHER, talk, "one")
    truth.edit(message["id"], "edited")
    client.settle()
    changed_at = truth.talks[talk].messages[message["id"]]["editedAt"]
    cursor = Cursor(seq=3, message_id=message["id"], changed_at=changed_at)
    assert client.replica.conversations[talk].cursor == cursor
    truth.react(message["id"], OTHER, ":ok:")
    client.settle()
    changed_at = truth.talks[talk].messages[message["id"]]["changedAt"]
    found = client.replica.conversations[talk]
    assert found.cursor == Cursor(seq=4, message_id=message["id"], changed_at=changed_at)
    [kind] = found.messages[-1].reactions
    assert (kind.emoji, kind.count, kind.user_ids) == (":ok:", 1, (OTHER,))
    change = [event for event in client.events if isinstance(event, events.MessageChanged)][-1]
    assert change.previous is not None and change.previous.reactions == ()


@pytest.mark.parametrize("comes_with_resync", [True, False])
def test_a_page_of_a_lost_history_is_not_taken(comes_with_resync: bool) -> None:
    """It was asked for before the history went back and comes after the Resync; or after Sync, when the cursor, which
    was good, has passed it."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    first = truth.send(OTHER, talk, "one")
    client = Client(truth)
    client.settle()
    found = client.replica.conversations[talk]
    if not comes_with_resync:
        client.cut()
    truth.edit(first["id"], "lost")
    client.ask_page(talk)
    truth.go_back(talk, 2)
    truth.send(OTHER, talk, "instead")
    client.settle()
    client.give_page(talk)
    assert "lost" not in [message.content for message in found.messages]
    client.older(talk)
    assert [message.content for message in found.messages][1:] == ["one", "instead"]


@pytest.mark.parametrize("others", [1, 3])
def test_an_answer_of_a_lost_history(others: int) -> None:
    """It comes after the Resync and says that a message is sent. The list, which reaches so far by then or later, does
    not have it: it is sent again."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    for number in range(3 - others):
        truth.send(OTHER, talk, f"lost {number}")
    mine = client.send(talk, "mine")
    client.work()
    assert client.connection is not None
    answer = client.connection.queue.pop()
    client.connection.queue.clear()  # its event does not come any more
    truth.go_back(talk, 1)
    truth.send(OTHER, talk, "instead")
    client.settle()
    client._take(answer)
    client.settle()
    for number in range(2):
        truth.send(OTHER, talk, f"more {number}")
    client.settle()
    assert "mine" in [message.content for message in client.replica.conversations[talk].messages]
    assert [one["content"] for one in truth.talks[talk].in_order()].count("mine") == 1
    assert (mine.stage, len(client.replica.outbox.conversations())) == ("sent", 0)


def test_a_page_that_fails_leaves_the_changes_for_the_other() -> None:
    """Two pages are asked for at once, a message in them is edited, and the first of them does not come."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    first = truth.send(OTHER, talk, "one")
    client = Client(truth)
    client.settle()
    found = client.replica.conversations[talk]
    client.ask_page(talk)
    fails = found._view.begin_older()
    truth.edit(first["id"], "edited")
    client.settle()
    found._view.end_older(fails)
    client.give_page(talk)
    assert [message.content for message in found.messages][1:] == ["edited"]


@pytest.mark.parametrize("is_new_process", [True, False])
def test_receipts_of_a_lost_history(is_new_process: bool) -> None:
    """They count no more when the server has said them anew, though the cursor is good, nor come back from a store."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    client.send(talk, "mine")
    client.settle()
    truth.mark_read(OTHER, talk)
    truth.mark_read(ME, talk)
    client.settle()
    client.ask_details()
    client.give_details()  # a store keeps them as they were said last
    [mine] = client.new
    assert client.replica.conversations[talk].status(mine) == "read"
    client = client.again() if is_new_process else client
    client.cut()
    truth.talks[talk].read = {OTHER: 1, ME: 1}
    client.settle()
    found = client.replica.conversations[talk]
    assert (found.status(mine), found.read_seq) == ("sent", 1)


def test_a_receipt_is_not_undone_by_older_details() -> None:
    """What an event has said on this connection is newer than a list that was asked for before."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    truth.send("third", talk, "one")
    client.settle()
    client.ask_details()
    truth.mark_read(OTHER, talk)
    client.settle()
    client.give_details()
    assert client.replica.conversations[talk]._receipts[OTHER].read == 2


def test_what_was_read_of_a_lost_history_is_not_said() -> None:
    """Nor is it taken for read when the answer comes after the Resync: the numbers are other messages' now."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    for number in range(5):
        truth.send(OTHER, talk, str(number))
    client.settle()
    found = client.replica.conversations[talk]
    found._mark_read, asked = 6, found._round
    truth.go_back(talk, 1)
    truth.send(OTHER, talk, "instead")
    client.settle()
    client.replica.marked(found, 6, 0, asked)
    assert (found.read_seq, found.head, found.unread_count) == (0, 2, 2)


def test_what_has_arrived_is_said_of_the_history_that_is_there() -> None:
    """Neither the number of a lost message, nor its late answer, stands for one that has come in its place."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    found = client.replica.conversations[talk]
    for number in range(5):
        truth.send(OTHER, talk, str(number))
    client.settle()
    assert found._mark_delivered == 6
    asked = found._round
    truth.go_back(talk, 1)
    truth.send(OTHER, talk, "instead")
    client.settle()
    assert found._mark_delivered == 2
    client.replica.marked(found, 0, 6, asked)
    assert client.replica.marks() == [found]
    client.replica.marked(found, 0, 2, found._round)
    assert client.replica.marks() == []


def test_nothing_is_read_that_is_not_there_or_not_shown() -> None:
    """Nothing beyond what has come; and nothing while the history is read anew."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    found = client.replica.conversations[talk]
    client.replica.mark_read(found, 100)
    assert found.read_seq == 1
    client.replica.marked(found, 1, 0, found._round)
    for number in range(5):
        truth.send(OTHER, talk, str(number))
    client.settle()
    truth.go_back(talk, 1)
    truth.send(OTHER, talk, "not yet seen")
    client.receive(10)
    assert found._view.is_stale
    for seq in (6, found.head):
        client.replica.mark_read(found, seq)
    client.settle()
    assert (found._mark_read, found.unread_count) == (0, 2)
    client.replica.mark_read(found, found.head)
    assert (found._mark_read, found.unread_count) == (2, 0)


@pytest.mark.parametrize("is_new_process", [False, True])
def test_what_a_broken_replay_has_passed_over_is_there_though_what_hid_it_is_lost(is_new_process: bool) -> None:
    """A replay shows a message where it was changed last. If it breaks off before, and PostgreSQL loses that change,
    the message is where it was, below what has come since."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    client.cut()
    first = truth.send(OTHER, talk, "1")["id"]
    truth.send(OTHER, talk, "2")
    truth.edit(first, "lost")
    client.connect()
    client.receive()
    assert client.replica.conversations[talk].cursor == Cursor(seq=3, message_id=truth.talks[talk].in_order()[-1]["id"])
    client.cut()
    assert [message.content for message in client.new] == ["2"]
    truth.go_back(talk, 3)
    if is_new_process:
        client = client.again()
    client.settle()
    texts = [one.content for one in client.replica.conversations[talk].messages if one.type is MessageType.TEXT]
    assert texts == ["1", "2"]


def test_what_has_come_of_a_broken_replay_and_is_lost_is_shown_no_more() -> None:
    """Though the cursor is good from which the next one goes on."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    client.cut()
    first = truth.send(OTHER, talk, "1")["id"]
    truth.send(OTHER, talk, "lost")
    truth.edit(first, "1 edited")
    client.connect()
    client.receive()
    client.cut()
    truth.go_back(talk, 2)
    for number in range(3):
        truth.send(OTHER, talk, str(number))
    client.settle()
    assert [one.id for one in client.replica.conversations[talk].messages][-4:] == [
        one["id"] for one in truth.talks[talk].in_order()
    ][-4:]


def test_mentions_are_counted_apart() -> None:
    """By name or as one of all, until they are read, edited away or deleted; one's own never."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    mentions: dict[str, Any] = {"mentions": [ME]}
    first = truth.send(OTHER, talk, "you", **mentions)
    truth.send(OTHER, talk, "all", mentionAll=True)
    truth.send(OTHER, talk, "another", mentions=["third"])
    client.settle()
    found = client.replica.conversations[talk]
    assert (found.unread_count, found.mention_count) == (3, 2)
    truth.edit(first["id"], "you, edited")
    client.settle()
    assert found.mention_count == 2
    truth.mark_read(ME, talk)
    client.settle()
    assert (found.unread_count, found.mention_count) == (0, 0)
    entry = client.replica.outbox.add(talk, "all of you", mentions=[OTHER], mention_all=True)
    assert entry.draft.request().items() >= {"mentions": (OTHER,), "mentionAll": True}.items()


def test_threads_are_apart() -> None:
    """The list has what the main history shows, a thread its replies; what is unread has those of threads that one
    follows, by what was written, and by what the server says of it; of two states the later one counts."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    entry = client.replica.outbox.add(talk, "mine")
    client.replica.touch_outbox()
    client.settle()
    assert entry.message is not None
    mine = entry.message.id
    theirs = truth.send(OTHER, talk, "theirs")["id"]
    client.settle()
    found = client.replica.conversations[talk]
    truth.mark_read(ME, talk)
    client.settle()
    for number in range(3):
        truth.send(OTHER, talk, f"to mine {number}", threadId=mine)
        truth.send(OTHER, talk, f"to theirs {number}", threadId=theirs, alsoInConversation=number == 1)
    client.settle()
    assert [one.content for one in found.messages][-2:] == ["theirs", "to theirs 1"]
    assert [one.content for one in found.replies(mine)] == [f"to mine {number}" for number in range(3)]
    assert len(found.all_messages) == len(found.messages) + 5
    assert found.is_following(mine) and not found.is_following(theirs) and found.unread_count == 4
    last = found.head

    def said(root: str, is_following: bool, version: int, seq: int = last) -> dict[str, Any]:
        return {
            "threadId": root, "conversationId": talk, "isFollowing": is_following,
            "lastReplySeq": seq, "version": version,
        }  # fmt: skip

    for state, unread in (
        (said(mine, False, 2), 1),
        (said(mine, True, 1), 1),
        (said(theirs, True, 3), 3),
        (said(mine, True, 4), 6),
        (said(mine, False, 5), 3),
    ):
        client.replica.take("ThreadChanged", msgspec.Raw(msgspec.json.encode([state])))
        assert found.unread_count == unread, state
    changes = [one for one in client.events if isinstance(one, events.ThreadChanged)]
    assert [one.thread.version for one in changes] == [2, 3, 4, 5]
    truth.send(OTHER, talk, "you there", threadId=mine, mentions=[ME])
    client.settle()
    assert found.is_following(mine) and found.unread_count == 7
    draft = client.replica.outbox.add(talk, "x", thread_id=mine, also_in_conversation=True).draft
    assert draft.request().items() >= {"threadId": mine, "alsoInConversation": True}.items()
    again = client.again()
    again.settle()
    kept = again.replica.conversations[talk]
    assert [one.id for one in kept.all_messages[:-1]] == [one.id for one in found.all_messages]
    assert kept.messages[-1].content == "x" and kept.messages[-1].thread_id == mine


@pytest.mark.parametrize("is_lost", [False, True])
def test_threads_while_it_was_away(is_lost: bool) -> None:
    """What another device has done with a thread meanwhile counts, as does what PostgreSQL has lost; a process that has
    heard of none asks, too."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    root = truth.send(ME, talk, "mine")["id"]
    client = Client(truth)
    client.settle()
    client.older(talk)
    truth.mark_read(ME, talk)
    truth.send(OTHER, talk, "reply", threadId=root)
    for _ in range(3):
        truth.set_thread(talk, root, is_following=True)
    client.settle()
    found = client.replica.conversations[talk]
    assert (found.is_following(root), found.unread_count) == (True, 1)
    client.cut()
    truth.set_thread(talk, root, is_following=False, version=1 if is_lost else None)
    client.settle()
    assert found.is_following(root)  # as far as it is known
    client.settle()
    assert (found.is_following(root), found.unread_count) == (False, 0)
    assert [one.thread.is_following for one in client.events if isinstance(one, events.ThreadChanged)][-1] is False
    again = client.again()
    again.settle()
    kept = again.replica.conversations[talk]
    assert kept.unread_count == 1
    again.settle()
    assert (kept.is_following(root), kept.unread_count) == (False, 0)


def test_an_answer_about_a_thread_of_a_lost_history() -> None:
    """What was asked for on a connection before is asked for again; what comes as an event meanwhile is later."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    root = truth.send(OTHER, talk, "theirs")["id"]
    client = Client(truth)
    client.settle()
    found = client.replica.conversations[talk]
    assert not found.is_following(root)
    before = found._round
    client.cut()
    client.connect()
    client.receive(10)
    state = ThreadState(thread_id=root, conversation_id=talk, is_following=True, version=9)
    client.replica.take_asked(found, root, state, before)
    assert not found.is_following(root) and client.replica.next_asked(found) == root
    truth.set_thread(talk, root, is_following=True, version=3)
    client.receive(10)
    assert found.is_following(root)
    stale = msgspec.structs.replace(state, is_following=False, version=2)
    client.replica.take_asked(found, root, stale, found._round)
    assert found.is_following(root) and client.replica.next_asked(found) is None


def test_a_late_answer_to_what_one_does_with_a_thread() -> None:
    """It may be of a lost history as well: what the thread is by now is asked."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    root = truth.send(OTHER, talk, "theirs")["id"]
    client = Client(truth)
    client.settle()
    found = client.replica.conversations[talk]
    asked = client.replica.rounds()
    truth.send(OTHER, talk, "lost")
    client.settle()
    truth.go_back(talk, 2)
    truth.send(OTHER, talk, "of now")
    client.settle()
    state = ThreadState(thread_id=root, conversation_id=talk, is_following=True, version=9)
    client.replica.set_thread(state, asked)
    assert not client.replica.take_thread(state, asked)
    assert client.replica.next_asked(found) == root and not found.is_following(root)
    client.replica.set_thread(state, client.replica.rounds())
    assert found.is_following(root)


def test_a_resync_before_the_first_answer() -> None:
    """It says from where on a conversation is attached: nothing after it is missing, nothing before it is news."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    truth.send(OTHER, talk, "old")
    truth.send(OTHER, talk, "lost")
    client = Client(truth)
    client.connect()
    truth.go_back(talk, 2)
    truth.send(OTHER, talk, "instead")
    assert client.connection is not None
    answer = client.connection.queue.popleft()
    client.connection.queue.append(answer)
    client.settle()
    found = client.replica.conversations[talk]
    assert [message.content for message in client.new] == ["instead"]
    assert [message.content for message in found.messages] == ["instead"]
    client.older(talk)
    assert [message.content for message in found.messages][1:] == ["old", "instead"]


def test_details_that_events_have_overtaken() -> None:
    """They are not taken, and are asked for again."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    client.ask_details()
    older = client.details
    client.details = []
    truth.send(OTHER, talk, "one")
    truth.say_details(talk, "renamed")
    client.settle()
    found = client.replica.conversations[talk]
    client.details = older
    client.give_details()
    assert (found.name, client.replica.outdated()) == ("renamed", [found])
    client.settle()
    assert (found.name, client.replica.outdated()) == ("renamed", [])


def test_settings_are_not_undone_by_older_details() -> None:
    """What was set on another device stays, whatever answer comes that was asked for before."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    client.ask_details()
    truth.set_settings(talk, archived=True, notifications={"mutedUntil": "9999-12-31T23:59:59.999Z"})
    client.settle()
    client.give_details()
    found = client.replica.conversations[talk]
    assert found.is_archived and found.is_muted and not found.is_favourite
    truth.set_settings(talk, notifications={"mutedUntil": "2020-01-01T00:00:00.000Z"})
    client.settle()
    assert not found.is_muted and found.muted_until is not None and found.muted_until.year == 2020


@pytest.mark.parametrize("is_lost", [False, True])
def test_settings_of_while_it_was_away(is_lost: bool) -> None:
    """What was set meanwhile is asked for, as its version is another one; so is what PostgreSQL has lost."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    truth.set_settings(talk, favourite=True)
    client.settle()
    found = client.replica.conversations[talk]
    assert found.is_favourite
    client.cut()
    version = 1 if is_lost else 7
    truth.set_settings(talk, favourite=False, archived=True, version=version)
    client.connect()
    client.settle()
    assert (found.is_favourite, found.is_archived, found.info.settings.version) == (False, True, version)


@pytest.mark.parametrize("comes", ["answer", "event", "again"])
def test_events_wait_for_the_details(comes: str) -> None:
    """What happens in a conversation that is new to the client is heard of when its members are known: by an answer
    to what the client asks at once, by an event, or by the next process, for which the store then has nothing yet."""
    truth = Truth()
    client = Client(truth)
    client.settle()
    talk = truth.create(OTHER, ME)
    truth.send(OTHER, talk, "one")
    client.receive()
    found = client.replica.conversations[talk]
    assert ([one.seq for one in found.messages], client.events) == ([2], [])
    assert client.replica.outdated() == [found]
    if comes == "again":
        client = client.again()
    elif comes == "event":
        truth.say_details(talk, "named")
        client.receive()
        assert client.replica.outdated() == []
    client.settle()
    assert client.new[-1].seq == 2
    assert client.replica.outdated() == []
    assert client.again().replica.conversations[talk].messages[-1].seq == 2


def test_nothing_is_heard_of_a_conversation_that_is_gone_before_its_details_come() -> None:
    """A conversation that is removed before its details were loaded is only removed: it is not announced, and not asked
    for."""
    truth = Truth()
    client = Client(truth)
    client.settle()
    talk = truth.create(OTHER, ME)
    truth.send(OTHER, talk, "one")
    client.receive()
    client.replica.conversation_gone(talk)
    assert [type(event) for event in client.events] == [events.ConversationRemoved]
    assert client.replica.outdated() == []


@pytest.mark.parametrize("comes_with_resync", [True, False])
def test_details_of_a_lost_history(comes_with_resync: bool) -> None:
    """An answer that was asked for before a Resync, or before a Sync, is not taken after it, but asked for again."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    if not comes_with_resync:
        client.cut()
    truth.talks[talk].read[OTHER] = truth.talks[talk].head = 5
    client.ask_details()
    late, client.details = client.details, []
    truth.go_back(talk, 1)
    truth.send("third", talk, "instead")
    client.settle()
    client.details = late
    client.give_details()
    found = client.replica.conversations[talk]
    assert client.replica.outdated() == [found]
    client.settle()
    assert (found._receipts[OTHER].read, found.head) == (1, 2)


def test_an_answer_does_not_bring_back_what_was_removed() -> None:
    """The answer was on its way when the conversation was."""
    truth = Truth()
    talk = truth.create(OTHER, ME)
    client = Client(truth)
    client.settle()
    client.ask_details()
    client.replica.take("ConversationRemoved", msgspec.Raw(msgspec.json.encode([talk, "removed"])))
    client.give_details()
    assert not client.replica.conversations
