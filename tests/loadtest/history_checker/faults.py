"""Faults, planted in the record of a correct run: what a server that breaks a promise would have left there."""

import random
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

import msgspec

from loadtest.history_checker import records, violations
from loadtest.history_checker.records import State
from tests.loadtest.history_checker.simulator import TALK, Run

replace = msgspec.structs.replace


class Story:
    """What is written, to be changed."""

    def __init__(self, run: Run, rng: random.Random) -> None:
        self.clients = [list(events) for events in run.events]
        self.stored = list(run.stored)
        self.rng = rng

    def find(self, kind: type, where: Callable[[records.Event], bool] = lambda _: True) -> Iterator[tuple[int, int]]:
        """The places of these events, in any order."""
        places = [
            (client, index)
            for client, events in enumerate(self.clients)
            for index, event in enumerate(events)
            if isinstance(event, kind) and where(event)
        ]
        self.rng.shuffle(places)
        yield from places

    def live(self, client: int, index: int) -> bool:
        """Whether this event came while its client was attached, and the next is the next change."""
        before = [type(event) for event in self.clients[client][:index]]
        for kind in reversed(before):
            if kind in (records.Attached, records.Resuming, records.Resynced):
                return kind is records.Attached
        return False

    def settled(self, client: int) -> bool:
        return any(isinstance(event, records.Settled) for event in self.clients[client])

    def received(self, client: int, index: int) -> State:
        event = self.clients[client][index]
        assert isinstance(event, records.Received)
        return event.message

    def before(self, now: State) -> State | None:
        """The message as it was before, if a client was shown that."""
        for client, index in self.find(records.Received):
            found = self.received(client, index)
            if found.id == now.id and found.changed_seq < now.changed_seq:
                return found
        return None

    def following(self, client: int, index: int) -> int | None:
        """The place of the next event that this client received, if nothing but calls is between."""
        events = self.clients[client]
        for place in range(index + 1, len(events)):
            if isinstance(events[place], records.Received):
                return place
            if isinstance(events[place], records.Resuming | records.Resynced | records.Attached):
                return None
        return None

    def drop_message(self, message: str) -> None:
        """No client has it, and it is not stored."""
        self.stored = [state for state in self.stored if state.id != message]
        for events in self.clients:
            kept = [
                event for event in events if not (isinstance(event, records.Received) and event.message.id == message)
            ]
            events[:] = [
                replace(event, messages=tuple(one for one in event.messages if one.id != message))
                if isinstance(event, records.Page)
                else event
                for event in kept
            ]

    def rewrite(self, one: State, **fields: object) -> None:
        """Wherever this state of a message was shown or is stored, it is another one."""

        def read(state: State) -> State:
            same = (state.id, state.changed_seq) == (one.id, one.changed_seq)
            return replace(state, **fields) if same else state

        self.stored = [read(state) for state in self.stored]
        for events in self.clients:
            for index, event in enumerate(events):
                if isinstance(event, records.Received | records.Acknowledged):
                    events[index] = replace(event, message=read(event.message))
                elif isinstance(event, records.Page):
                    events[index] = replace(event, messages=tuple(map(read, event.messages)))

    def is_edited(self, client: int, index: int) -> bool:
        """Whether this is the answer to an edit, which is not a deletion."""
        call = self.clients[client][index].call  # type: ignore[union-attr]  # of an answer
        asked = (one for one in self.clients[client] if isinstance(one, records.Edited) and one.call == call)
        return any(not one.deleted for one in asked)


Plant = Callable[[Story], bool]


class Fault(NamedTuple):
    """`plant` returns False when this story has no place for it."""

    plant: Plant
    found: str
    goes_back: bool = False


def lose_acknowledged(story: Story) -> bool:
    for client, index in story.find(records.Acknowledged):
        event = story.clients[client][index]
        assert isinstance(event, records.Acknowledged)
        story.drop_message(event.message.id)
        return True
    return False


def store_twice(story: Story) -> bool:
    for state in story.stored:
        if state.key is not None:
            head = max(one.changed_seq for one in story.stored) + 1
            story.stored.append(replace(state, id="again", seq=head, changed_seq=head, deleted=False))
            return True
    return False


def store_without_key(story: Story) -> bool:
    """The second one of a send that was repeated has lost its clientMessageId."""
    return store_twice(story) and _lose_key(story)


def _lose_key(story: Story) -> bool:
    story.stored[-1] = replace(story.stored[-1], key=None)
    return True


def lose_edit(story: Story) -> bool:
    """An edit is acknowledged, stored and shown to all, with the content that was there before."""
    for client, index in story.find(records.Acknowledged):
        event = story.clients[client][index]
        assert isinstance(event, records.Acknowledged)
        before = story.before(event.message)
        if story.is_edited(client, index) and before is not None and not before.deleted:
            story.rewrite(event.message, content=before.content)
            return True
    return False


def edit_otherwise(story: Story) -> bool:
    """An edit without an answer is done, and writes something else."""
    answered = {
        story.clients[client][index].message.changed_seq  # type: ignore[union-attr]
        for client, index in story.find(records.Acknowledged)
    }
    for state in story.stored:
        if state.changed_seq > state.seq and not state.deleted and state.changed_seq not in answered:
            story.rewrite(state, content=state.content + 100_000)
            return True
    return False


def change_key(story: Story) -> bool:
    """A message has lost its clientMessageId with an edit."""
    for state in story.stored:
        if state.changed_seq > state.seq and state.key is not None:
            made = (one for one in story.find(records.Received) if story.received(*one).changed_seq == state.seq)
            if next(made, None) is not None:
                story.rewrite(state, key=None, system=True)
                return True
    return False


def swap_live(story: Story) -> bool:
    for client, index in story.find(records.Received):
        other = story.following(client, index)
        if other is not None and story.live(client, index):
            return _swap(story, client, index, other)
    return False


def swap_replayed(story: Story) -> bool:
    for client, index in story.find(records.Received):
        other = story.following(client, index)
        if other is not None and not story.live(client, index) and _answered(story, client, other):
            return _swap(story, client, index, other)
    return False


def _swap(story: Story, client: int, one: int, other: int) -> bool:
    events = story.clients[client]
    first, second = events[one], events[other]
    assert isinstance(first, records.Received) and isinstance(second, records.Received)
    events[one], events[other] = replace(second, at=first.at), replace(first, at=second.at)
    return True


def _answered(story: Story, client: int, index: int) -> bool:
    """Whether the client was attached after this."""
    for event in story.clients[client][index + 1 :]:
        if isinstance(event, records.Attached):
            return True
        if isinstance(event, records.Resuming | records.Resynced):
            return False
    return False


def leave_out(story: Story) -> bool:
    standing = {(state.id, state.changed_seq) for state in story.stored}
    for client, index in story.find(records.Received):
        message = story.received(client, index)
        is_final = (message.id, message.changed_seq) in standing
        if is_final and story.live(client, index) and story.following(client, index) is not None:
            del story.clients[client][index]
            return True
    return False


def repeat(story: Story) -> bool:
    for client, index in story.find(records.Received):
        if story.live(client, index):
            event = story.clients[client][index]
            story.clients[client].insert(index + 1, event)
            return True
    return False


def never_deliver(story: Story) -> bool:
    """The last that was to come to a client that was there to the end."""
    head = max((state.changed_seq for state in story.stored), default=0)
    for client, index in story.find(records.Received):
        rest = {type(event) for event in story.clients[client][index + 1 :]}
        is_last = story.received(client, index).changed_seq == head and records.Settled in rest
        if is_last and not rest & {records.Resuming, records.Resynced, records.Attached}:
            del story.clients[client][index]
            return True
    return False


def resurrect(story: Story) -> bool:
    for client, index in story.find(records.Received):
        now = story.received(client, index)
        before = story.before(now)
        if now.deleted and before is not None and not before.deleted:
            return _page(story, client, index, before)
    return False


def show_stale(story: Story) -> bool:
    for client, index in story.find(records.Received):
        now = story.received(client, index)
        before = story.before(now)
        if before is not None and not any(state.id == now.id and state.deleted for state in story.stored):
            return _page(story, client, index, before)
    return False


def _page(story: Story, client: int, index: int, state: State) -> bool:
    """A page with this message alone, right after what the client received."""
    event = story.clients[client][index]
    at = event.at + 1  # type: ignore[union-attr]  # it was received
    page = records.Page(
        client=f"p{client}",
        conversation=TALK,
        at=at,
        called=at,
        after=state.seq - 1,
        before=state.seq + 1,
        messages=(state,),
    )
    story.clients[client].insert(index + 1, page)
    return True


def page_behind(story: Story) -> bool:
    for client, index in story.find(records.Page, lambda event: bool(event.messages)):  # type: ignore[union-attr]
        page = story.clients[client][index]
        assert isinstance(page, records.Page)
        known = {
            event.message.id
            for event in story.clients[client][:index]
            if isinstance(event, records.Received) and event.at < page.called
        }
        for state in page.messages:
            if state.id in known:
                left = tuple(one for one in page.messages if one is not state)
                story.clients[client][index] = replace(page, messages=left)
                return True
    return False


def diverge(story: Story) -> bool:
    """One client is shown another message in one place, all others the one that is stored."""
    stored = {state.id for state in story.stored}
    for client, index in story.find(records.Received):
        event, message = story.clients[client][index], story.received(client, index)
        is_separated = any(isinstance(later, records.Resynced) for later in story.clients[client][index + 1 :])
        if message.seq == message.changed_seq and message.id in stored and not is_separated:
            story.clients[client][index] = replace(event, message=replace(message, id="other", key=None))
            return True
    return False


def alter(story: Story) -> bool:
    """One client reads something else than what is stored."""
    stored = {(state.id, state.changed_seq) for state in story.stored}
    for client, index in story.find(records.Received):
        event, message = story.clients[client][index], story.received(client, index)
        if (message.id, message.changed_seq) in stored:
            story.clients[client][index] = replace(event, message=replace(message, content=message.content + 1))
            return True
    return False


def begin_late(story: Story) -> bool:
    """A send is begun after a later message was known."""
    for client, index in story.find(records.Sent):
        sent = story.clients[client][index]
        assert isinstance(sent, records.Sent)
        attempts = list(story.find(records.Sent, lambda event, key=sent.key: event.key == key))  # type: ignore[misc]
        made = next((state for state in story.stored if state.key == sent.key), None)
        if made is None or len(attempts) > 1:
            continue
        for other, place in story.find(records.Received):
            known = story.clients[other][place]
            assert isinstance(known, records.Received)
            if known.message.seq > made.seq and any(one.id == known.message.id for one in story.stored):
                story.clients[client][index] = replace(sent, at=known.at + 1)
                return True
    return False


def miss_resync(story: Story) -> bool:
    """Of a history that went back: a client that was to be notified goes on."""
    stored = {(state.id, state.seq) for state in story.stored}
    places = {state.seq for state in story.stored}
    for client, index in story.find(records.Resynced):
        events = story.clients[client]
        seen = [event.message for event in events[:index] if isinstance(event, records.Received)]
        lost = [one for one in seen if (one.id, one.seq) not in stored and one.seq in places]
        later = any(isinstance(event, records.Resynced | records.Resuming) for event in events[index + 1 :])
        earlier = any(isinstance(event, records.Resynced | records.Disconnected) for event in events[:index])
        if lost and not later and not earlier and story.settled(client):
            page = index + 1 if isinstance(events[index + 1], records.Page) else index
            del events[index : page + 1]
            return True
    return False


def make_up(story: Story) -> bool:
    """A message that no client has sent."""
    for client, index in story.find(records.Sent):
        sent = story.clients[client][index]
        assert isinstance(sent, records.Sent)
        if any(state.key == sent.key for state in story.stored):
            for events in story.clients:
                calls = {one.call for one in events if isinstance(one, records.Sent) and one.key == sent.key}
                events[:] = [
                    one
                    for one in events
                    if not isinstance(one, records.Sent | records.Acknowledged | records.Refused)
                    or one.call not in calls
                ]
            return True
    return False


def not_store(story: Story) -> bool:
    for client, index in story.find(records.Received):
        message = story.received(client, index)
        if any(state.id == message.id for state in story.stored):
            story.stored = [state for state in story.stored if state.id != message.id]
            return True
    return False


def refuse(story: Story) -> bool:
    """The message is there, and its only send was refused."""
    for client, index in story.find(records.Acknowledged):
        event = story.clients[client][index]
        assert isinstance(event, records.Acknowledged)
        key = event.message.key
        calls = [one.call for one in chain(*story.clients) if isinstance(one, records.Sent) and one.key == key]
        if calls == [event.call]:
            refused = records.Refused(
                client=event.client, conversation=TALK, at=event.at, call=event.call, code="forbidden", unknown=False
            )
            story.clients[client][index] = refused
            return True
    return False


FAULTS: dict[str, Fault] = {
    "a send that was acknowledged is lost": Fault(lose_acknowledged, violations.MISSING),
    "a send is stored twice": Fault(store_twice, violations.DUPLICATED),
    "a send is stored again without a key": Fault(store_without_key, violations.UNKNOWN),
    "an edit is lost": Fault(lose_edit, violations.ALTERED),
    "an edit writes something else": Fault(edit_otherwise, violations.ALTERED),
    "an edit takes the key away": Fault(change_key, violations.ALTERED),
    "two live events change places": Fault(swap_live, violations.ORDER),
    "two events of a replay change places": Fault(swap_replayed, violations.ORDER),
    "a live event is left out": Fault(leave_out, violations.GAP),
    "an event comes twice": Fault(repeat, violations.REPEAT),
    "the last event never comes": Fault(never_deliver, violations.UNSEEN),
    "a deleted message is shown again": Fault(resurrect, violations.RESURRECTED),
    "an edit is taken back": Fault(show_stale, violations.STALE),
    "a page lacks a message": Fault(page_behind, violations.BEHIND),
    "a client is shown another message": Fault(diverge, violations.DIVERGED),
    "a client is shown another content": Fault(alter, violations.ALTERED),
    "a send is begun after a later one was known": Fault(begin_late, violations.REAL_TIME),
    "a Resync is missed": Fault(miss_resync, violations.DIVERGED, goes_back=True),
    "a message is made up": Fault(make_up, violations.UNKNOWN),
    "a message that was seen is not stored": Fault(not_store, violations.PHANTOM),
    "a send that was refused is there": Fault(refuse, violations.PHANTOM),
}
