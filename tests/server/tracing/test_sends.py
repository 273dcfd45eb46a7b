"""Traces: one id from the send to the delivery on another instance, no cost when off, and no message is delayed."""

import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest
import trio
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import SpanKind, StatusCode

from loadtest.client import HubClient, HubError, connect
from server.tracing.instance import Tracing
from server.tracing.sends import Sends
from store.redis.inbox_entries import Draft, Entry, Head, TraceMark, unpack
from tests.running import running
from tests.site import Site, open_site
from tests.waiting import wait_until

CALLER = "0af7651916cd43dd8448eb211c80319c"  # the trace id of a client


class Traced:
    """An instance whose spans are kept in memory."""

    def __init__(self, sampler: Sampler = ALWAYS_ON) -> None:
        self.exporter = InMemorySpanExporter()
        made = TracerProvider(sampler=sampler)
        made.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(made)
        self.site: Site

    def spans(self, name: str, trace: int | None = None) -> list[ReadableSpan]:
        found = [span for span in self.exporter.get_finished_spans() if span.name == name]
        return [span for span in found if trace in (None, trace_of(span))]

    async def until(self, name: str) -> ReadableSpan:
        await wait_until(lambda: self.spans(name))
        return self.spans(name)[0]


@asynccontextmanager
async def traced(
    database: str, redis_url: str, nursery: trio.Nursery, sampler: Sampler = ALWAYS_ON, **settings: Any
) -> AsyncIterator[Traced]:
    found = Traced(sampler)
    async with open_site(database, redis_url, nursery, tracing=found.tracing, **settings) as found.site:
        yield found
    assert not found.tracing.sends._under_way, "messages are kept for ever"


async def client(stack: AsyncExitStack, site: Site, token: str) -> HubClient:
    hub = f"{site.url}/hubs/chat"
    return await stack.enter_async_context(connect(hub, token, on_event=lambda target, arguments: None))


async def pair(site: Site) -> tuple[str, str, str]:
    """Two tokens and a conversation."""
    _, alice_token = await site.user("alice")
    bob, bob_token = await site.user("bob")
    body = {"type": "Direct", "memberIds": [bob]}
    return (
        alice_token,
        bob_token,
        (await site.call("POST", "/api/conversations", body, token=alice_token, status=201))["id"],
    )


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


async def test_one_trace_end_to_end(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """The spans of send, lane, commit, publish and both deliveries have one trace id and parent, in order."""
    async with (
        traced(database, redis_url, nursery, instance="one") as one,
        traced(database, redis_url, nursery, instance="two") as two,
        AsyncExitStack() as stack,
    ):
        alice_token, bob_token, conversation = await pair(one.site)
        alice = await client(stack, one.site, alice_token)
        await client(stack, two.site, bob_token)
        published: list[ReadableSpan] = []
        there: list[ReadableSpan] = []
        with trio.fail_after(300):
            # After a pause of the machine the two find each other anew, and a message arrives by the repair, untraced.
            while not (published and there):
                message = await alice.invoke("SendMessage", {"conversationId": conversation, "content": "a secret"})
                trace = trace_of(one.spans("send")[-1])
                with trio.move_on_after(5):
                    while not (published and there):
                        published, there = one.spans("publish", trace), two.spans("deliver", trace)
                        await trio.sleep(0.02)  # within five seconds, or another message is tried
        [send], [publish], [arrival] = one.spans("send", trace), published, there
        [lane], [commit], [here] = (one.spans(name, trace) for name in ("lane", "commit", "deliver"))
        for span in (lane, commit, here, publish, arrival):
            assert span.parent is not None and send.context is not None
            assert span.parent.span_id == send.context.span_id
        assert arrival.parent is not None and arrival.parent.is_remote and arrival.kind is SpanKind.CONSUMER
        assert times(send)[0] <= times(lane)[0] <= times(lane)[1] <= times(commit)[0] <= times(commit)[1]
        assert times(commit)[1] <= times(here)[1] and times(commit)[1] <= times(arrival)[1]
        assert send.attributes and send.attributes["parley.message.seq"] == message["seq"]
        exported = "".join(span.to_json() for span in (*one.exporter.get_finished_spans(), arrival))
        assert "secret" not in exported and "alice" not in exported


def test_spans_of_the_past_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends when the next begins ends at the same nanosecond, though the process waited between two clocks."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    sends = Sends(provider.get_tracer("test"))
    waits = itertools.cycle([0, 900, 0, 70_000, 30_000, 0, 5_000])
    real = time.perf_counter_ns
    monkeypatch.setattr(time, "perf_counter_ns", lambda: real() + next(waits))
    moments = [time.perf_counter() + number / 1000 for number in range(20)]
    for began, ended in itertools.pairwise(moments):
        sends._record("span", Context(), began, ended)
    spans = [times(span) for span in exporter.get_finished_spans()]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(spans))
    assert abs(spans[0][0] - time.time_ns()) < 60e9


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None and span.end_time is not None
    return span.start_time, span.end_time


async def test_rest_sends_duplicates_and_refusals(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A REST send continues its client's trace; the trace of a refusal or duplicate ends with the send."""
    async with traced(database, redis_url, nursery) as one:
        alice_token, _, conversation = await pair(one.site)
        body = {"conversationId": conversation, "content": "x", "clientMessageId": "same"}
        headers = {"traceparent": f"00-{CALLER}-b7ad6b7169203331-01"}
        await one.site.call("POST", "/api/messages", body, token=alice_token, status=201, headers=headers)
        [send] = one.spans("send")
        request = await one.until("POST /api/messages")
        assert f"{trace_of(send):032x}" == CALLER == f"{trace_of(request):032x}"
        assert request.attributes and request.attributes["http.response.status_code"] == 201
        await one.until("deliver")
        await one.site.call("POST", "/api/messages", body, token=alice_token, status=201)
        assert one.spans("send")[1].attributes["parley.message.duplicate_of"]  # type: ignore[index]  # it has some
        body = {"conversationId": str(UUID(int=7)), "content": "x"}
        await one.site.call("POST", "/api/messages", body, token=alice_token, status=404)
        assert one.spans("send")[2].status.status_code is StatusCode.ERROR
        assert len(one.spans("deliver")) == 1
        assert not one.spans("GET /health/live")


async def test_what_is_not_sampled_costs_nothing(database: str, redis_url: str, nursery: trio.Nursery) -> None:
    """A message that is not sampled has no span and no mark, and nothing is kept for it."""
    async with traced(database, redis_url, nursery, ALWAYS_OFF) as one, AsyncExitStack() as stack:
        alice_token, _, conversation = await pair(one.site)
        alice = await client(stack, one.site, alice_token)
        await alice.invoke("SendMessage", {"conversationId": conversation, "content": "x"})
        with pytest.raises(HubError):
            await alice.invoke("SendMessage", {"conversationId": str(UUID(int=7)), "content": "x"})
        assert not one.exporter.get_finished_spans()


class OldEntry(msgspec.Struct, frozen=True, array_like=True):
    """An entry as read by instances of a version without traces."""

    changes: tuple[Any, ...] = ()
    heads: tuple[tuple[UUID, int], ...] = ()
    receipts: tuple[Any, ...] = ()
    typing: tuple[Any, ...] = ()
    seen: tuple[Any, ...] = ()
    disconnections: tuple[Any, ...] = ()


def test_old_and_new_instances_understand_each_other() -> None:
    """During a deploy, old instances read the entries of new ones and the reverse."""
    draft = Draft()
    draft.add(Head(UUID(int=1), 7))
    draft.add(TraceMark(UUID(int=1), 7, f"00-{CALLER}-b7ad6b7169203331-01"))
    assert msgspec.msgpack.decode(draft.pack(), type=OldEntry).heads == ((UUID(int=1), 7),)
    assert unpack(draft.pack()).traces[0].seq == 7
    old = msgspec.msgpack.encode(OldEntry(heads=((UUID(int=1), 7),)))
    assert unpack(old) == Entry(heads=(Head(UUID(int=1), 7),))


async def test_a_collector_that_hangs(database: str, redis_url: str) -> None:
    """A collector that never answers delays neither messages nor the end of the process."""
    heard: list[bytes] = []

    async def swallow(stream: trio.SocketStream) -> None:
        async for data in stream:
            heard.append(bytes(data))

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, swallow, listeners)
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        async with running(database, redis_url, environment=environment) as server:
            alice, bob = await server.register("alice"), await server.register("bob")
            conversation = await server.direct(alice, bob)
            async with server.connect(alice) as hub:
                with trio.fail_after(60):
                    while not any(b"/v1/traces" in data for data in heard):
                        await hub.invoke("SendMessage", {"conversationId": conversation, "content": "x"})
                with trio.fail_after(60):
                    await hub.invoke("SendMessage", {"conversationId": conversation, "content": "x"})
            server.terminate()
            assert await server.wait() == 0
        nursery.cancel_scope.cancel()
