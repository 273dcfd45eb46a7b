"""The trace of a message: send, waiting in the lane, commit, publishing, and delivery on each instance.

Owns the spans of the messages under way, by message id. It stands between the handlers and the lanes, and in the place
of the feed, only when tracing is on; so the way of a message is the same few calls when it is off. Span times
are taken where they happen, the spans themselves are made afterwards.
"""

import time
from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from handlers.messages import Queue
from server.cluster.publisher import Publisher
from server.fanout.change_publisher import ChangePublisher
from server.fanout.ephemeral_events import EphemeralEvents
from server.fanout.rooms import Rooms
from store.errors import StoreError
from store.model import Change, Message
from store.postgres.group_commit import Append, AppendError
from store.redis.inbox_entries import Dismissal, Entry, TraceMark

PARENT = "traceparent"  # W3C Trace Context
_propagator = TraceContextTextMapPropagator()


class _Send:
    """A message under way."""

    __slots__ = ("context", "offered_at", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.context = set_span_in_context(span)
        self.offered_at = time.perf_counter()


class Sends:
    """What the traced queue, lanes, feed and publisher of one instance share."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._under_way: dict[UUID, _Send] = {}

    # -- from the send to its commit ----------------------------------------------------------------

    def begin(self, append: Append) -> _Send | None:
        """None when it is not sampled."""
        span = self._tracer.start_span("send", kind=SpanKind.SERVER)
        if not span.is_recording():
            return None
        span.set_attribute("parley.conversation.id", str(append.conversation_id))
        span.set_attribute("parley.message.id", str(append.message_id))
        found = self._under_way[append.message_id] = _Send(span)
        return found

    def forget(self, message_id: UUID) -> None:
        self._under_way.pop(message_id, None)

    def end(self, append: Append, send: _Send, outcome: Message | AppendError | StoreError) -> None:
        """It is answered. What is new is published next; a double or an error goes no further."""
        if isinstance(outcome, Message):
            send.span.set_attribute("parley.message.seq", outcome.seq)
            if outcome.id != append.message_id:
                send.span.set_attribute("parley.message.double_of", str(outcome.id))
                self.forget(append.message_id)
        else:
            code = outcome.code if isinstance(outcome, AppendError) else type(outcome).__name__
            send.span.set_status(Status(StatusCode.ERROR, code))
            self.forget(append.message_id)
        send.span.end()

    def committed(self, appends: Sequence[Append], began: float, ended: float) -> None:
        """From the lanes: a batch, and when its transaction was (`time.perf_counter`)."""
        for append in appends:
            send = self._under_way.get(append.message_id)
            if send is not None:
                self._record("lane", send.context, send.offered_at, began)
                self._record("commit", send.context, began, ended, size=len(appends))

    # -- from the commit to its deliveries ------------------------------------------------------------

    def take(self, changes: Sequence[Change]) -> list[tuple[TraceMark, Context]]:
        """The marks of those that are traced; from here on nobody asks for them."""
        found = []
        for change in changes:
            send = self._under_way.pop(change.message.id, None) if change.created else None
            if send is not None:
                carrier: dict[str, str] = {}
                _propagator.inject(carrier, send.context)
                found.append((TraceMark(change.conversation_id, change.seq, carrier[PARENT]), send.context))
        return found

    def published(self, marks: Collection[TraceMark], began: float, ended: float) -> None:
        """From the publisher: these have gone into the inboxes of others."""
        for mark in marks:
            self._record("publish", _context_of(mark), began, ended, kind=SpanKind.PRODUCER)

    def delivered(self, contexts: Collection[Context], began: float, *, origin: str) -> None:
        """Into the send queues of those who are here."""
        ended = time.perf_counter()
        kind = SpanKind.INTERNAL if origin == "here" else SpanKind.CONSUMER
        for context in contexts:
            self._record("deliver", context, began, ended, kind=kind, origin=origin)

    def received(self, marks: Collection[TraceMark], began: float) -> None:
        """From another instance, and delivered here."""
        self.delivered([_context_of(mark) for mark in marks], began, origin="inbox")

    def _record(
        self,
        name: str,
        context: Context,
        began: float,
        ended: float,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        **attributes: str | int,
    ) -> None:
        """A span of what has been."""
        epoch = time.time_ns() - int(time.perf_counter() * 1e9)
        named = {f"parley.{key}": value for key, value in attributes.items()}
        span = self._tracer.start_span(name, context, kind=kind, attributes=named, start_time=epoch + int(began * 1e9))
        span.end(epoch + int(ended * 1e9))


def _context_of(mark: TraceMark) -> Context:
    return _propagator.extract({PARENT: mark.parent})


class TracedQueue:
    """The lanes, as the handlers see them (`handlers.messages.Queue`)."""

    def __init__(self, lanes: Queue, sends: Sends) -> None:
        self._lanes = lanes
        self._sends = sends

    def offer(self, append: Append) -> None:
        send = self._sends.begin(append)
        if send is None:
            self._lanes.offer(append)
            return

        def done(outcome: Message | AppendError | StoreError) -> None:
            self._sends.end(append, send, outcome)
            append.done(outcome)

        try:
            self._lanes.offer(msgspec.structs.replace(append, done=done))
        except StoreError as error:
            self._sends.end(append, send, error)
            raise


class TracedPublisher(ChangePublisher):
    """The feed, with a span for each delivery."""

    def __init__(self, rooms: Rooms, ephemeral_events: EphemeralEvents, publisher: Publisher, sends: Sends) -> None:
        super().__init__(rooms, ephemeral_events, publisher)
        self._publisher = publisher
        self._sends = sends

    def publish(self, changes: Sequence[Change], dismissed: Dismissal | None = None) -> None:
        began = time.perf_counter()
        taken = self._sends.take(changes)
        super().publish(changes, dismissed)
        if taken:
            self._publisher.send([mark for mark, _ in taken])
            self._sends.delivered([context for _, context in taken], began, origin="here")

    def receive(self, entry: Entry) -> None:
        began = time.perf_counter()
        super().receive(entry)
        if entry.traces:
            self._sends.received(entry.traces, began)
