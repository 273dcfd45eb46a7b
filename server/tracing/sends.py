"""The trace of a message: send, waiting in the lane, commit, publishing, and delivery on each instance.

Owns the spans of messages that are being sent, by message id. If tracing is on, its parts wrap the lanes and replace
the change publisher; if it is off, none of this is in the path of a message. Times are taken when things happen, and
the spans are created afterwards.
"""

import time
from collections.abc import Callable, Collection, Sequence
from uuid import UUID

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from handlers.messages import Queue
from server.cluster.publisher import Publisher
from server.fanout.change_publisher import ChangePublisher, ThreadUpdates
from server.fanout.ephemeral_events import EphemeralEvents
from server.fanout.rooms import Rooms
from store.errors import StoreError
from store.model import Change, Message
from store.postgres.appends import Append, AppendError
from store.redis.inbox_entries import Entry, Personal, TraceMark

PARENT = "traceparent"  # W3C Trace Context
CLOCK_STEP = 100_000  # ns: a larger difference means that the wall clock was set
_propagator = TraceContextTextMapPropagator()


class _Send:
    """A message that is being sent."""

    __slots__ = ("context", "offered_at", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.context = set_span_in_context(span)
        self.offered_at = time.perf_counter()


class Sends:
    """The spans of messages on their way, shared by the traced queue, lanes and publishers of one instance.

    A sampled message is entered by `begin` and removed exactly once: by `end` if it fails or is a duplicate, else by
    `take` when its change is published. So the table holds no more than what waits in the lanes. `take` turns the
    message's context into a TraceMark, which travels to other instances beside the change; from then on, each instance
    adds spans to that context. Not guaranteed: the trace of a message whose publisher died after the commit has no
    publish and deliver spans, as the outbox relay does not know its context.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._zero = 0
        self._under_way: dict[UUID, _Send] = {}

    # -- from the send to its commit ----------------------------------------------------------------

    def begin(self, append: Append) -> _Send | None:
        """Start the span of a send. Returns None if it is not sampled."""
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
        """End the span of a send with its outcome. Forget duplicates and errors, as they are not published."""
        if isinstance(outcome, Message):
            send.span.set_attribute("parley.message.seq", outcome.seq)
            if outcome.id != append.message_id:
                send.span.set_attribute("parley.message.duplicate_of", str(outcome.id))
                self.forget(append.message_id)
        else:
            code = outcome.code if isinstance(outcome, AppendError) else type(outcome).__name__
            send.span.set_status(Status(StatusCode.ERROR, code))
            self.forget(append.message_id)
        send.span.end()

    def committed(self, appends: Sequence[Append], began: float, ended: float) -> None:
        """Record lane and commit spans of a batch. The lanes call this with the times of the transaction.

        Times are those of `time.perf_counter`.
        """
        for append in appends:
            send = self._under_way.get(append.message_id)
            if send is not None:
                self._record("lane", send.context, send.offered_at, began)
                self._record("commit", send.context, began, ended, size=len(appends))

    # -- from the commit to its deliveries ------------------------------------------------------------

    def take(self, changes: Sequence[Change]) -> list[tuple[TraceMark, Context]]:
        """Remove the messages of these changes from the table; return marks and contexts of those that are traced."""
        found = []
        for change in changes:
            send = self._under_way.pop(change.message.id, None) if change.created else None
            if send is not None:
                injected: dict[str, str] = {}
                _propagator.inject(injected, send.context)
                found.append((TraceMark(change.conversation_id, change.seq, injected[PARENT]), send.context))
        return found

    def published(self, marks: Collection[TraceMark], began: float, ended: float) -> None:
        """Record that the publisher has written these changes into the inboxes of other instances."""
        for mark in marks:
            self._record("publish", _context_of(mark), began, ended, kind=SpanKind.PRODUCER)

    def delivered(self, contexts: Collection[Context], began: float, *, origin: str) -> None:
        """Record that changes were put into the send queues of local connections."""
        ended = time.perf_counter()
        kind = SpanKind.INTERNAL if origin == "here" else SpanKind.CONSUMER
        for context in contexts:
            self._record("deliver", context, began, ended, kind=kind, origin=origin)

    def received(self, marks: Collection[TraceMark], began: float) -> None:
        """Record the delivery of changes that came from another instance."""
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
        """Create a span for an interval in the past. Times are of `time.perf_counter`, converted to the wall clock."""
        epoch = self._epoch()
        named = {f"parley.{key}": value for key, value in attributes.items()}
        span = self._tracer.start_span(name, context, kind=kind, attributes=named, start_time=epoch + int(began * 1e9))
        span.end(epoch + int(ended * 1e9))

    def _epoch(self) -> int:
        """Return the time of the wall clock, in ns, at which `perf_counter` was 0.

        The same for all spans, so that their order is kept, until the wall clock is set. A look during which the
        process has to wait finds too little.
        """
        found = max(time.time_ns() - time.perf_counter_ns() for _ in range(3))
        if abs(found - self._zero) > CLOCK_STEP:
            self._zero = found
        return self._zero


def _context_of(mark: TraceMark) -> Context:
    return _propagator.extract({PARENT: mark.parent})


class TracedQueue:
    """Wraps the lanes for the handlers (`handlers.messages.Queue`), with a span for each send."""

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
    """A change publisher with a span for each delivery."""

    def __init__(
        self,
        rooms: Rooms,
        ephemeral_events: EphemeralEvents,
        publisher: Publisher,
        threads: ThreadUpdates,
        on_reply: Callable[[UUID], None],
        sends: Sends,
    ) -> None:
        super().__init__(rooms, ephemeral_events, publisher, threads, on_reply)
        self._publisher = publisher
        self._sends = sends

    def publish(self, changes: Sequence[Change], personal: Personal | None = None) -> None:
        began = time.perf_counter()
        taken = self._sends.take(changes)
        super().publish(changes, personal)
        if taken:
            self._publisher.send([mark for mark, _ in taken])
            self._sends.delivered([context for _, context in taken], began, origin="here")

    def receive(self, entry: Entry) -> None:
        began = time.perf_counter()
        super().receive(entry)
        if entry.traces:
            self._sends.received(entry.traces, began)
