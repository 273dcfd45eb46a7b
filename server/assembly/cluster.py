"""Assembles the parts that carry a change from the lanes to local rooms and other instances, and ephemeral events.

Circular references are resolved by callables: rooms need notifiers, cursors and recovery, which in turn need the rooms.
"""

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from handlers.conversations import Conversations
from handlers.messages import Queue
from handlers.presence import Presence
from handlers.sync import Sync
from handlers.threads import Threads
from handlers.transactions import Transactions
from handlers.webhooks import sealing_keys
from server.assembly.stores import Stores
from server.cluster.membership import Membership
from server.cluster.outbox_relay import OutboxRelay
from server.cluster.publisher import Publisher
from server.cluster.reaper import Reaper
from server.cluster.recovery import Recovery
from server.cluster.search_indexer import SearchIndexer
from server.cluster.subscriptions import Subscriptions
from server.config.settings import Settings
from server.fanout.broadcaster import Broadcaster
from server.fanout.change_publisher import ChangePublisher
from server.fanout.conversation_updates import ConversationNotifier
from server.fanout.ephemeral_events import EphemeralEvents
from server.fanout.presence import PresenceAnnouncer
from server.fanout.receipts import ReceiptWriter
from server.fanout.rooms import Rooms
from server.fanout.thread_updates import ThreadNotifier
from server.transport.send_queue import Flusher
from server.webhooks.delivery import Terms, WebhookDelivery
from server.webhooks.unread import Devices, UnreadScanner
from store.postgres.group_commit import Lanes
from store.receipts import ReceiptStreams

LOST = 25.0  # seconds after which also the users of a killed instance are known to be offline, with room to spare (P7)

if TYPE_CHECKING:
    from server.tracing.instance import Tracing


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    name: str
    flusher: Flusher
    sync: Sync
    subscriptions: Subscriptions
    rooms: Rooms
    publisher: Publisher
    ephemeral_events: EphemeralEvents
    change_publisher: ChangePublisher
    relay: OutboxRelay
    search_indexer: SearchIndexer
    webhooks: WebhookDelivery
    lanes: Lanes
    queue: Queue  # the lanes, wrapped if tracing is on
    receipts: ReceiptWriter
    presence: Presence
    announcer: PresenceAnnouncer
    transactions: Transactions
    conversations: Conversations
    threads: Threads
    notifier: ConversationNotifier
    thread_notifier: ThreadNotifier
    membership: Membership


def assemble_cluster(settings: Settings, stores: Stores, tracing: "Tracing | None") -> Cluster:
    name = settings.instance or settings.listen
    flusher = Flusher()
    sync = Sync(stores.pool)
    instances = stores.instances
    subscriptions = Subscriptions(instances, grace=settings.presence_grace, watcher=lambda: announcer)
    rooms = Rooms(
        sync,
        flusher,
        subscriptions,
        notifier=lambda: notifier,
        cursors=lambda: ephemeral_events,
        recovery=lambda: recovery,
    )
    publisher = Publisher(instances, subscriptions, stores.pool, on_sent=tracing.sends.published if tracing else None)
    ephemeral_events = EphemeralEvents(rooms, publisher, Broadcaster(rooms, flusher))
    threads = Threads(stores.pool, lambda: transactions)
    thread_notifier = ThreadNotifier(threads, rooms)
    change_publisher = (tracing.change_publisher if tracing else ChangePublisher)(
        rooms, ephemeral_events, publisher, thread_notifier, threads.replied
    )
    lanes = Lanes(
        stores.lane_connector,
        count=settings.lanes,
        has_spare=True,
        on_commit=change_publisher.publish,
        on_doubt=change_publisher.doubt,
        outbox=True,
        on_batch=tracing.sends.committed if tracing else None,
        on_fault=stores.damage.observe,
        together=flusher,
    )
    presence = Presence(stores.pool)
    announcer = PresenceAnnouncer(presence, instances, rooms, ephemeral_events)
    transactions = Transactions(stores.pool, change_publisher)
    conversations = Conversations(stores.pool, transactions, most_of_one=settings.max_user_conversations)
    notifier = ConversationNotifier(conversations, rooms)
    recovery = Recovery(rooms, notifier, thread_notifier, sync, instances, announcer)
    return Cluster(
        name=name,
        flusher=flusher,
        sync=sync,
        subscriptions=subscriptions,
        rooms=rooms,
        publisher=publisher,
        ephemeral_events=ephemeral_events,
        change_publisher=change_publisher,
        relay=OutboxRelay(stores.pool, subscriptions, publisher, change_publisher),
        search_indexer=SearchIndexer(stores.search_pool),
        webhooks=WebhookDelivery(
            stores.webhook_pool,
            sealing_keys(stores.signing),
            Terms(
                hosts=settings.webhook_hosts,
                concurrency=settings.webhook_concurrency,
                timeout=settings.webhook_timeout,
                retry_time=settings.webhook_retry_time,
                unread_delay=settings.webhook_unread_delay,
            ),
            scanner=UnreadScanner(
                stores.webhook_pool,
                Devices(announcer.online, lambda: subscriptions.instance, instances.is_held),
                delay=settings.webhook_unread_delay,
                again=settings.client_timeout + settings.presence_grace + LOST,
            ),
        ),
        lanes=lanes,
        queue=tracing.queue(lanes) if tracing else lanes,
        receipts=ReceiptWriter(
            ReceiptStreams(stores.redis), stores.pool, ephemeral_events, consumer=f"{name}~{secrets.token_hex(4)}"
        ),
        presence=presence,
        announcer=announcer,
        transactions=transactions,
        conversations=conversations,
        threads=threads,
        notifier=notifier,
        thread_notifier=thread_notifier,
        membership=Membership(
            instances,
            subscriptions,
            publisher,
            Reaper(instances, announcer),
            change_publisher,
            name=name,
            recovery=recovery,
        ),
    )
