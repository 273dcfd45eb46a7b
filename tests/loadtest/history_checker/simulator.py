"""Correct histories, made by a simulator: one conversation, a server that keeps its promises, and clients to which
everything happens that may happen.

Commits and answers come late or never, clients lose their connection and retry with the same clientMessageId, replays
and repairs leave out what was overtaken, some clients get a Resync, the server crashes; and, where `goes_back` is asked
for, the database comes back with less than it had acknowledged.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from loadtest.history_checker import records
from loadtest.history_checker.records import State

TALK = "talk"
REPLAYED = 6  # changes; further behind there is a Resync

Queued = tuple[str, State | int, bool]  # "event", "attached" or "resync"; what it shows; whether as new


class Server:
    """One conversation. `log` has each change's outcome: what is there is what the log says."""

    def __init__(self) -> None:
        self.log: list[State] = []

    @property
    def head(self) -> int:
        return len(self.log)

    def messages(self) -> dict[str, State]:
        return {state.id: state for state in self.log}

    def send(self, key: str, content: int, sender: str, number: int) -> State:
        for state in reversed(self.log):
            if state.key == key:
                return state
        seq = self.head + 1
        self.log.append(State(f"m{number}", seq, seq, content, False, key, sender))
        return self.log[-1]

    def announce(self, number: int) -> State:
        """A message of the server's own."""
        seq = self.head + 1
        self.log.append(State(f"m{number}", seq, seq, number, system=True))
        return self.log[-1]

    def change(self, message: str, content: int, *, deleted: bool) -> State | None:
        now = self.messages().get(message)
        if now is None or now.deleted:
            return None
        changed = msgspec.structs.replace(now, changed_seq=self.head + 1, content=content, deleted=deleted)
        self.log.append(changed)
        return changed

    def replay(self, cursor: int) -> list[Queued]:
        """Everything after the cursor in its final state."""
        last = self.messages().values()
        late = sorted((state for state in last if state.changed_seq > cursor), key=lambda state: state.changed_seq)
        return [("event", state, state.seq > cursor) for state in late]


class Call:
    """A call under way, until it is answered or lost."""

    def __init__(self, client: "Client", number: int, event: records.Sent | records.Edited) -> None:
        self.client = client
        self.number = number
        self.event = event
        self.connection = client.connection
        self.outcome: State | None = None
        self.is_done = False


class Client:
    def __init__(self, run: "Run", number: int) -> None:
        self.run = run
        self.name = f"p{number}"
        self.events: list[records.Event] = []
        self.cursor = self.shown = 0
        self.is_unanswered = False
        self.queue: list[Queued] = []
        self.live: list[int] = []  # changes that came over this connection
        self.skipped: set[int] = set()  # changes that were left out, as overtaken
        self.online = False
        self.connection = 0
        self.calls = 0
        self.unsent: list[records.Sent] = []  # not acknowledged
        self.mine: list[str] = []

    def note(self, kind: Callable[..., records.Event], **fields: object) -> None:
        self.events.append(kind(client=self.name, at=self.run.tick(), **fields))

    def connect(self) -> None:
        self.online, self.connection, self.live = True, self.connection + 1, []
        self.shown, self.is_unanswered = self.cursor, False
        self.note(records.Connected)
        self.note(records.Resuming, conversation=TALK, cursor=self.cursor)
        server, rng = self.run.server, self.run.rng
        if self.name in self.run.forked:  # before anything that is live, not only in the answer
            self.queue = [("resync", server.head, False), ("attached", server.head, False)]
        elif server.head - self.cursor > REPLAYED or rng.random() < 0.1:
            self.queue = [("answer", server.head, True)]
            self.is_unanswered = True
        else:
            self.queue = [*server.replay(self.cursor), ("attached", server.head, False)]

    @property
    def is_live(self) -> bool:
        """Whether what waits for it is each change after its cursor, none left out."""
        expected = self.run.server.log[self.cursor :]
        return self.online and self.queue == [("event", one, one.seq == one.changed_seq) for one in expected]

    def disconnect(self) -> None:
        if self.online:
            self.online = False
            if self.is_unanswered:
                self.cursor = self.shown  # what came before the answer is not known to follow it
            self.queue = []
            self.note(records.Disconnected)

    def take(self) -> None:
        """The next thing that the connection has for it."""
        if len(self.queue) > 1 and self.queue[0][0] == "answer" and self.queue[1][0] == "event":
            self.queue[:2] = self.queue[1::-1]  # what is live comes before the answer that covers several conversations
        what, shown, new = self.queue.pop(0)
        if isinstance(shown, State):
            self.skipped.update(range(self.cursor + 1, shown.changed_seq))
            self.cursor = shown.changed_seq
            self.live.append(self.cursor)
            self.note(records.Received, conversation=TALK, new=new, message=shown)
        elif what == "attached":
            self.note(records.Attached, conversation=TALK, head=shown)
        else:
            self.cursor = max([shown, *self.live]) if new else shown
            self.is_unanswered = False
            self.run.forked.discard(self.name)
            self.skipped.clear()
            self.note(records.Resynced, conversation=TALK, head=shown, answered=new)
            self.read(0)

    def read(self, after: int) -> None:
        """A page from there to the end."""
        called = self.run.tick()
        shown = sorted((one for one in self.run.server.messages().values() if one.seq > after), key=lambda one: one.seq)
        self.note(records.Page, conversation=TALK, called=called, after=after, messages=tuple(shown))

    def call(self, kind: Callable[..., records.Event], **fields: object) -> None:
        self.calls += 1
        self.note(kind, conversation=TALK, call=self.calls, **fields)
        event = self.events[-1]
        assert isinstance(event, records.Sent | records.Edited)
        self.run.calls.append(Call(self, self.calls, event))
        if isinstance(event, records.Sent) and event.key not in {one.key for one in self.unsent}:
            self.unsent.append(event)


class Run:
    """A run of so many steps; `events` are those of each client, `stored` what the database has at the end."""

    def __init__(self, rng: random.Random, *, clients: int = 3, steps: int = 80, goes_back: bool = False) -> None:
        self.rng = rng
        self.server = Server()
        self.now = 0
        self.made = 0
        self.calls: list[Call] = []
        self.forked: set[str] = set()  # clients that have seen what is lost, and have not been notified
        self.clients = [Client(self, number) for number in range(clients)]
        for client in self.clients:
            client.connect()
        actions = [self._send] * 6 + [self._commit] * 8 + [self._answer] * 7 + [self._deliver] * 14
        actions += [self._edit, self._edit, self._delete, self._page, self._repair, self._lag, self._lose, self._retry]
        actions += [self._cut, self._come, self._come, self._crash, self._announce]
        for step in range(steps):
            rng.choice(actions)()
            if goes_back and step in (steps // 3, 2 * steps // 3):
                self._go_back()
        self._settle()
        self.stored = tuple(sorted(self.server.messages().values(), key=lambda one: one.seq))

    def tick(self) -> int:
        self.now += self.rng.randint(1, 5)
        return self.now

    def _some(self, *, online: bool) -> Client | None:
        found = [client for client in self.clients if client.online == online]
        return self.rng.choice(found) if found else None

    # -- what happens ----------------------------------------------------------------------------

    def _send(self) -> None:
        client = self._some(online=True)
        if client is not None:
            self.made += 1
            client.call(records.Sent, key=f"k{self.made}", content=self.made)

    def _retry(self) -> None:
        client = self._some(online=True)
        if client is not None and client.unsent:
            sent = self.rng.choice(client.unsent)
            client.call(records.Sent, key=sent.key, content=sent.content)

    def _edit(self, *, deleted: bool = False) -> None:
        client = self._some(online=True)
        if client is not None and client.mine:
            self.made += 1
            client.call(records.Edited, id=self.rng.choice(client.mine), content=self.made, deleted=deleted)

    def _delete(self) -> None:
        self._edit(deleted=True)

    def _commit(self) -> None:
        """One of the calls under way; those of one client in their order."""
        waiting = [call for call in self.calls if not call.is_done]
        if not waiting:
            return
        client = self.rng.choice(waiting).client
        call = next(one for one in waiting if one.client is client)
        call.is_done = True
        before = self.server.head
        if isinstance(call.event, records.Sent):
            self.made += 1
            call.outcome = self.server.send(call.event.key, call.event.content, call.client.name, self.made)
        else:
            call.outcome = self.server.change(call.event.id, call.event.content, deleted=call.event.deleted)
        if self.server.head > before:
            self._show(self.server.log[-1])

    def _announce(self) -> None:
        self.made += 1
        self._show(self.server.announce(self.made))

    def _show(self, shown: State) -> None:
        for client in self.clients:
            if client.online:
                client.queue.append(("event", shown, shown.seq == shown.changed_seq))

    def _answer(self) -> None:
        done = [call for call in self.calls if call.is_done]
        if not done:
            return
        call = self.rng.choice(done)
        self.calls.remove(call)
        client = call.client
        if call.connection != client.connection or not client.online:
            return
        if call.outcome is None:
            client.note(records.Refused, conversation=TALK, call=call.number, code="gone", unknown=False)
            return
        client.note(records.Acknowledged, conversation=TALK, call=call.number, message=call.outcome)
        if isinstance(call.event, records.Sent):
            client.unsent = [one for one in client.unsent if one.key != call.outcome.key]
            client.mine.append(call.outcome.id)

    def _deliver(self) -> None:
        waiting = [client for client in self.clients if client.queue]
        if waiting:
            self.rng.choice(waiting).take()

    def _page(self) -> None:
        client = self._some(online=True)
        if client is not None and client.name not in self.forked:
            client.read(self.rng.randint(0, client.cursor))

    def _repair(self) -> None:
        """What an attached client waits for comes as a small replay."""
        client = self._some(online=True)
        if client is not None and client.is_live:
            client.queue = self.server.replay(client.cursor)

    def _lag(self) -> None:
        """A slow reader is notified that it will not be caught up."""
        client = self._some(online=True)
        if client is not None and all(what == "event" for what, _, _ in client.queue):
            client.queue = [("resync", self.server.head, False)]

    def _lose(self) -> None:
        """A call that never arrives."""
        waiting = [call for call in self.calls if not call.is_done]
        if waiting:
            self.calls.remove(self.rng.choice(waiting))

    def _cut(self) -> None:
        client = self._some(online=True)
        if client is not None:
            client.disconnect()

    def _come(self) -> None:
        client = self._some(online=False)
        if client is not None:
            client.connect()

    def _crash(self) -> None:
        """What is committed stays, and is answered to none."""
        if self.rng.random() < 0.3:
            for client in self.clients:
                client.disconnect()
            self.calls = [call for call in self.calls if call.is_done]

    def _go_back(self) -> None:
        """The last changes are gone; who has seen one of them is notified before anything else, and so is who has
        not seen an earlier one because one of them had overtaken it."""
        head = self.server.head
        fork = self.rng.randint(max(0, head - 4), head)
        self.calls = [call for call in self.calls if not call.is_done]
        standing = {one.changed_seq for one in {state.id: state for state in self.server.log[:fork]}.values()}
        for client in self.clients:
            if client.cursor > fork or client.name in self.forked or client.skipped & standing:
                self.forked.add(client.name)
                client.queue = [("resync", fork, False)] if client.online else []
                if client.online and self.rng.random() < 0.5:
                    client.disconnect()
            elif client.is_live:
                client.queue = client.queue[: fork - client.cursor]
            else:
                client.disconnect()
        del self.server.log[fork:]

    def _settle(self) -> None:
        while any(not call.is_done for call in self.calls):
            self._commit()
        absent = self._some(online=False)
        for client in self.clients:
            if client is absent:
                continue
            if not client.online:
                client.connect()
            while client.queue:
                client.take()
            client.note(records.Settled, conversation=TALK)

    # -- the record ------------------------------------------------------------------------------

    @property
    def events(self) -> list[list[records.Event]]:
        return [client.events for client in self.clients]


def write(directory: Path, clients: Sequence[Sequence[records.Event]], stored: Sequence[State] | None) -> None:
    """The record of these clients; every other one in a file of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    shared, own = [*clients[::2]], clients[1::2]
    together = sorted((event for events in shared for event in events), key=lambda event: getattr(event, "at", 0))
    files = [together, *own]
    if stored is not None:
        files.append([records.Stored(conversation=TALK, messages=tuple(stored))])
    for number, events in enumerate(files):
        begun = records.Begun(format=records.FORMAT, clock="simulated")
        lines = b"".join(records.encode(event) + b"\n" for event in (begun, *events))
        (directory / f"{number}.jsonl").write_bytes(lines)
