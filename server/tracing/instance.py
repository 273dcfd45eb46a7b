"""Creates the traced parts that an instance is assembled with.

Owns the tracer of the provider, and the state that the traced parts share.
"""

from collections.abc import Callable
from uuid import UUID

from opentelemetry.sdk.trace import TracerProvider

from handlers.messages import Queue
from server.cluster.publisher import Publisher
from server.fanout.change_publisher import ChangePublisher, ThreadUpdates
from server.fanout.ephemeral_events import EphemeralEvents
from server.fanout.rooms import Rooms
from server.rest.request_log import App
from server.tracing import provider
from server.tracing.http import spanned
from server.tracing.sends import Sends, TracedPublisher, TracedQueue


class Tracing:
    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("parley")
        self.sends = Sends(self._tracer)

    def change_publisher(
        self,
        rooms: Rooms,
        ephemeral_events: EphemeralEvents,
        publisher: Publisher,
        threads: ThreadUpdates,
        on_reply: Callable[[UUID], None],
    ) -> ChangePublisher:
        return TracedPublisher(rooms, ephemeral_events, publisher, threads, on_reply, self.sends)

    def queue(self, lanes: Queue) -> Queue:
        return TracedQueue(lanes, self.sends)

    def requests(self, app: App) -> App:
        return spanned(app, self._tracer)

    async def aclose(self) -> None:
        await provider.close(self._provider)
