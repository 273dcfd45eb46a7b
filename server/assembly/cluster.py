"""The way of a change: from the lanes to the rooms here and to other instances; and what is shown but not kept.

Circles are closed by callables: rooms need who announces what they see, and these need the rooms.
"""

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handlers.conversations import Conversations
from handlers.messages import Queue
from handlers.presence import Presence
from handlers.sync import Sync
from handlers.transactions import Commits
from server.assembly.stores import Stores
from server.cluster.membership import Link
from server.cluster.outbox_relay import Relay
from server.cluster.publisher import Publisher
from server.cluster.reaper import Reaper
from server.cluster.recovery import Recovery
from server.cluster.subscriptions import Registry
from server.config.settings import Settings
from server.fanout.broadcaster import Crier
from server.fanout.change_publisher import Feed
from server.fanout.conversation_updates import Teller
from server.fanout.ephemeral_events import Ephemera
from server.fanout.presence import Announcer
from server.fanout.receipts import ReceiptWriter
from server.fanout.rooms import Rooms
from server.transport.send_queue import Flusher
from store.postgres.group_commit import Lanes
from store.receipts import ReceiptStreams

if TYPE_CHECKING:
    from server.tracing.instance import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    name: str
    flusher: Flusher
    sync: Sync
    registry: Registry
    rooms: Rooms
    publisher: Publisher
    ephemera: Ephemera
    feed: Feed
    relay: Relay
    lanes: Lanes
    queue: Queue  # the lanes, traced where tracing is on
    receipts: ReceiptWriter
    presence: Presence
    announcer: Announcer
    commits: Commits
    conversations: Conversations
    teller: Teller
    link: Link


def assemble_cluster(settings: Settings, stores: Stores, tracing: "Tracing | None") -> Cluster:
    name = settings.instance or settings.listen
    flusher = Flusher()
    sync = Sync(stores.pool)
    instances = stores.instances
    registry = Registry(instances, grace=settings.presence_grace, watcher=lambda: announcer)
    rooms = Rooms(sync, flusher, registry, teller=lambda: teller, cursors=lambda: ephemera)
    publisher = Publisher(instances, registry, stores.pool, on_sent=tracing.sends.published if tracing else None)
    ephemera = Ephemera(rooms, publisher, Crier(rooms, flusher))
    feed = (tracing.feed if tracing else Feed)(rooms, ephemera, publisher)
    lanes = Lanes(
        stores.lane_connector,
        count=settings.lanes,
        on_commit=feed.publish,
        on_doubt=feed.doubt,
        outbox=True,
        on_batch=tracing.sends.committed if tracing else None,
    )
    presence = Presence(stores.pool)
    announcer = Announcer(presence, instances, rooms, ephemera)
    commits = Commits(stores.pool, feed)
    conversations = Conversations(stores.pool, commits)
    teller = Teller(conversations, rooms)
    return Cluster(
        name=name,
        flusher=flusher,
        sync=sync,
        registry=registry,
        rooms=rooms,
        publisher=publisher,
        ephemera=ephemera,
        feed=feed,
        relay=Relay(stores.pool, registry, publisher, feed),
        lanes=lanes,
        queue=tracing.queue(lanes) if tracing else lanes,
        receipts=ReceiptWriter(
            ReceiptStreams(stores.redis), stores.pool, ephemera, consumer=f"{name}~{secrets.token_hex(4)}"
        ),
        presence=presence,
        announcer=announcer,
        commits=commits,
        conversations=conversations,
        teller=teller,
        link=Link(
            instances,
            registry,
            publisher,
            Reaper(instances, announcer),
            feed,
            name=name,
            recovery=Recovery(rooms, teller, sync),
        ),
    )
