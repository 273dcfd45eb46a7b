"""The metrics of an instance, part by part, with the attribute that each is read from.

Owns names and help texts; a new metric is a line in the function of its part here. Reads plain attributes
and `statistics()` of the parts at scrape time. Between scrapes nothing here runs: a metric costs no more than its
counting.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import trio
from prometheus_client.core import InfoMetricFamily, Metric

from handlers.api_keys import ApiKeys
from handlers.blocks import Blocks
from handlers.errors import CODES
from handlers.reactions import Reactions
from handlers.reports import Backlog, Reports
from handlers.threads import Threads
from handlers.transactions import Transactions
from server.cluster.membership import Membership
from server.cluster.outbox_relay import OutboxRelay
from server.cluster.publisher import Publisher
from server.cluster.search_indexer import SearchIndexer
from server.config.rate_limits import RateLimits
from server.fanout.receipts import ReceiptWriter
from server.fanout.rooms import Rooms
from server.hub.disconnect_reasons import SLUGS
from server.hub.dispatch import STREAM
from server.hub.server import HubServer
from server.identity.subjects import Subjects
from server.metrics.census import Census, Condition
from server.metrics.families import counter, counters, gauge, gauges, histogram, histograms
from server.observability import logs
from server.observability.event_loop_lag import EventLoopLag
from server.observability.liveness import Liveness
from server.observability.version import version
from server.rest.answer_memory import AnswerBudget
from server.rest.request_metrics import RequestMetrics
from server.transport.listener import Listener
from server.webhooks.delivery import WebhookDelivery
from store.defects import counts
from store.model import Act
from store.objects import Objects
from store.postgres.clock import Clock
from store.postgres.damage import Damage
from store.postgres.group_commit import Lanes
from store.postgres.pool import Pool
from store.postgres.timelines import Timelines
from store.statistics import PoolStatistics

# Acts of moderators and administrators on people: no keys and endpoints, and no sign-ins.
COUNTED_ACTS = [act for act in Act if not act.value.startswith(("signIn", "key", "webhook"))]


class Parts(Protocol):
    """The parts of an instance that metrics are read from (`server.instance.Instance`)."""

    listener: Listener
    hub: HubServer
    rooms: Rooms
    lanes: Lanes
    transactions: Transactions
    reactions: Reactions
    threads: Threads
    api_keys: ApiKeys
    blocks: Blocks
    reports: Reports
    subjects: Subjects
    membership: Membership
    publisher: Publisher
    relay: OutboxRelay
    search_indexer: SearchIndexer
    webhooks: WebhookDelivery
    receipts: ReceiptWriter
    requests: RequestMetrics
    event_loop_lag: EventLoopLag
    liveness: Liveness
    limits: RateLimits
    answers: AnswerBudget
    timelines: Timelines
    clock: Clock
    damage: Damage
    objects: Objects | None

    @property
    def pools(self) -> Mapping[str, Pool]: ...


def families(parts: Parts, census: Census, receipts_waiting: int | None, backlog: Backlog | None) -> Iterator[Metric]:
    """Yield all metrics. `receipts_waiting` is None if Redis did not answer, `backlog` (of reports) if PostgreSQL did
    not; their metrics are then left out."""
    for source in (
        _listener,
        _hub,
        _bounds,
        _applications,
        _rooms,
        _lanes,
        _instances,
        _search,
        _webhooks,
        _pools,
        _disks,
        _process,
    ):
        yield from source(parts)
    yield from _census(census)
    yield from _receipts(parts, receipts_waiting)
    yield from _safety(parts, backlog)


def _listener(parts: Parts) -> Iterable[Metric]:
    listener = parts.listener
    yield gauge(
        "parley_listener_connections",
        "TCP connections that are open, HTTP and WebSocket. Past MAX_CONNECTIONS new ones get 503.",
        listener.open,
    )
    yield gauge("parley_listener_limit_connections", "MAX_CONNECTIONS of this instance.", listener.limit)
    yield counter("parley_listener_accepts_total", "TCP connections accepted.", listener.accepted)
    yield counter(
        "parley_listener_refusals_total",
        "Connections answered with an HTTP error before any service: too many, bad request, no valid token, draining.",
        listener.refused,
    )


def _hub(parts: Parts) -> Iterable[Metric]:
    hub = parts.hub
    yield counters(
        "parley_hub_disconnects_total",
        "Connections that have ended, by reason; docs/monitoring.md explains each reason.",
        "reason",
        {slug: hub.disconnects[slug] for slug in sorted(SLUGS)},
    )
    methods = sorted(hub.dispatcher.methods, key=lambda method: method.name)
    yield counters(
        "parley_hub_invocations_total",
        "Invocations of hub methods, by method, whether they succeeded or failed.",
        "method",
        {method.name: method.calls for method in methods},
    )
    yield histograms(
        "parley_hub_invocation_seconds",
        "Time from reading an invocation to its answer, for methods that wait for something; others take loop lag.",
        "method",
        [(method.name, method.seconds) for method in methods if method.kind is not STREAM],
    )
    yield counters(
        "parley_hub_errors_total",
        "Invocations answered with an error, by code; `internal` is a defect of the server, with a line in the log.",
        "code",
        {code: hub.dispatcher.failures[code] for code in CODES},
    )
    yield gauge("parley_hub_draining", "1 while this instance drains.", int(hub.draining))
    requests = parts.requests
    yield counters(
        "parley_rest_requests_total",
        "REST requests answered, by the answer's status class.",
        "status",
        requests.statuses,
    )
    yield histograms(
        "parley_rest_request_seconds",
        "Time from a REST request's head to its answer, by route.",
        "route",
        sorted(requests.seconds.items()),
    )


def _bounds(parts: Parts) -> Iterable[Metric]:
    """Yield refusals by the bounds of one user, address or connection; docs/operations.md lists the bounds."""
    answers = parts.answers
    yield counters(
        "parley_limits_refusals_total",
        "Refusals by the RATE_ settings, by limit; invocations are counted in parley_hub_errors_total.",
        "limit",
        parts.limits.refusals(),
    )
    yield counter(
        "parley_listener_strangers_total",
        "Connections refused because their address had MAX_ADDRESS_STRANGERS already.",
        parts.listener.strangers.refused,
    )
    yield counter(
        "parley_hub_crowding_total",
        "Connections refused because their user had MAX_USER_CONNECTIONS already.",
        parts.hub.shares.refused,
    )
    yield gauge("parley_rest_held_bytes", "Bytes of REST answers that wait to be read, of all users.", answers.held)
    yield counters(
        "parley_rest_refusals_total",
        "Requests refused because of waiting requests or unread answers of one user (429), or of all (503).",
        "waiting",
        {"requests": answers.turns.refused, "answers": answers.refused, "all_answers": answers.refused_all},
    )
    yield counter(
        "parley_logs_suppressed_total",
        "Log lines that were left out because the same line came too often; log_suppressed lines say which.",
        logs.suppressed(),
    )


def _applications(parts: Parts) -> Iterable[Metric]:
    yield counters(
        "parley_api_keys_shown_total",
        "API keys that requests have shown, by whether they were good.",
        "outcome",
        {"accepted": parts.api_keys.accepted, "refused": parts.api_keys.refused},
    )
    yield counter(
        "parley_users_first_seen_total",
        "Users made of a token of their issuer that was seen for the first time (JIT_USERS).",
        parts.subjects.made,
    )


def _census(census: Census) -> Iterable[Metric]:
    yield gauges(
        "parley_hub_connections",
        "Hub connections by condition; catching_up have left rooms because they read too slowly.",
        "condition",
        {condition.value: census.conditions[condition.value] for condition in Condition},
    )
    yield gauges("parley_hub_transports", "Hub connections by transport.", "transport", dict(census.transports))
    yield gauges("parley_hub_protocols", "Hub connections by hub protocol.", "protocol", dict(census.protocols))
    yield gauge("parley_hub_streams", "Streams to clients that are under way.", census.streams)
    yield gauge(
        "parley_send_queue_bytes",
        "Bytes in the send queues of all connections. Each queue is bounded by SEND_QUEUE_BYTES.",
        census.send_queue_bytes,
    )


def _rooms(parts: Parts) -> Iterable[Metric]:
    rooms, now = parts.rooms, parts.rooms.statistics()
    yield gauge("parley_rooms_open", "Conversations that are open on this instance.", now["rooms"])
    yield gauge("parley_rooms_users", "Users with a connection to this instance.", now["users"])
    yield counter(
        "parley_rooms_deliveries_total",
        "Changes put into send queues: messages, edits, deletions, membership; once for each receiving connection.",
        rooms.delivery.delivered,
    )
    yield counter(
        "parley_rooms_shed_total",
        "Ephemeral events dropped because the reader's send queue was half full; the latest of each is sent later.",
        rooms.shed,
    )
    yield counter(
        "parley_rooms_lagging_total",
        "Times a connection was taken out of its rooms because its send queue was full; it catches up afterwards.",
        rooms.delivery.lagged,
    )
    yield counter(
        "parley_rooms_catchups_total",
        "Replays of a conversation for one connection: after a reconnect with a cursor, or after lag.",
        rooms.replays,
    )
    yield counter(
        "parley_rooms_repairs_total",
        "Changes that did not arrive from another instance and were read from PostgreSQL. Many: look at Redis.",
        rooms.repair.repaired,
    )
    yield counter(
        "parley_rooms_diverged_total",
        "Rooms begun anew because PostgreSQL came back with less than it had acknowledged; their clients got Resync.",
        rooms.history.diverged,
    )
    yield counter(
        "parley_rooms_strays_total",
        "Changes from other instances that PostgreSQL does not have: it came back with less than it had acknowledged.",
        rooms.history.strays,
    )
    yield counter(
        "parley_rooms_suspicions_total",
        "Changes that a room had passed and did not know, so that it was compared with PostgreSQL. Mostly duplicates.",
        rooms.history.suspected,
    )


def _lanes(parts: Parts) -> Iterable[Metric]:
    lanes = parts.lanes.statistics_each()
    yield gauges(
        "parley_lanes_queued_messages",
        "Messages that wait for the batch before them to be committed.",
        "lane",
        {str(number): lane.queued for number, lane in enumerate(lanes)},
    )
    total = parts.lanes.statistics()
    yield counters(
        "parley_lanes_messages_total",
        "Messages by outcome: accepted, duplicate (sent before), refused, failed (PostgreSQL is out of reach).",
        "outcome",
        {"accepted": total.accepted, "duplicate": total.duplicates, "refused": total.refused, "failed": total.failed},
    )
    times = parts.lanes.times
    yield counters(
        "parley_lanes_mentioning_total",
        "Messages that mention members by name, or all, when they are sent. Edits are not among them.",
        "whom",
        {"members": times.naming, "all": times.to_all},
    )
    yield histogram(
        "parley_lanes_batch_messages",
        "Messages in one group commit. Grows with the load, as it should.",
        times.sizes,
    )
    yield histogram(
        "parley_lanes_wait_seconds", "Time the oldest message of a batch waited before it was written.", times.waits
    )
    yield histogram(
        "parley_lanes_commit_seconds", "Time of one group commit in PostgreSQL, network included.", times.commits
    )
    yield counter(
        "parley_transactions_total",
        "Transactions besides the lanes': edits, deletions, pins, settings, membership, titles, accounts.",
        parts.transactions.committed,
    )
    yield counter("parley_reactions_written_total", "Acts on reactions that were committed.", parts.reactions.written)
    yield counter(
        "parley_reactions_batches_total",
        "Transactions that wrote them: of each message one in 100 ms at most.",
        parts.reactions.batches,
    )
    yield counter(
        "parley_threads_written_total",
        "Changes of messages by the replies in their threads: of each one in 100 ms at most.",
        parts.threads.written,
    )
    yield gauge(
        "parley_threads_queued",
        "Messages that this instance is about to change, as there were replies in their threads.",
        parts.threads.waiting,
    )
    yield gauge("parley_reactions_queued", "Acts on reactions that wait to be committed.", parts.reactions.waiting)


def _instances(parts: Parts) -> Iterable[Metric]:
    membership, publisher = parts.membership, parts.publisher
    yield gauge(
        "parley_membership_up",
        "1 while this instance is registered in Redis; 0: messages reach other instances late.",
        int(membership.established),
    )
    yield counter(
        "parley_membership_epochs_total",
        "Registrations in Redis; each but the first follows a fault.",
        membership.epochs,
    )
    yield counter("parley_inbox_changes_total", "Changes that came from other instances.", membership.received)
    yield histogram(
        "parley_inbox_delay_seconds",
        "Stream lag: from the writing of an entry to our inbox until we read it, by Redis' clock and ours.",
        membership.delays,
    )
    yield counter("parley_publisher_changes_total", "Changes published to other instances.", publisher.sent)
    yield counter(
        "parley_publisher_dropped_total",
        "Changes left to the outbox relay: not registered, or too much was waiting. They come late, none is lost.",
        publisher.dropped,
    )
    yield gauge("parley_publisher_queued_changes", "Changes that wait to be published.", publisher.waiting)
    yield counter(
        "parley_outbox_relay_batches_total",
        "Committed batches whose publisher died or was not registered, announced by this instance.",
        parts.relay.announced,
    )


def _receipts(parts: Parts, waiting: int | None) -> Iterable[Metric]:
    receipts = parts.receipts
    yield counter("parley_receipts_accepted_total", "Receipts acknowledged to clients.", receipts.accepted)
    yield counter("parley_receipts_written_total", "Cursors raised in PostgreSQL.", receipts.written)
    yield histogram(
        "parley_receipts_delay_seconds",
        "Receipts lag: from the stream to PostgreSQL, the oldest of each batch, by Redis' clock and ours.",
        receipts.delays,
    )
    if waiting is not None:
        yield gauge(
            "parley_receipts_queued_entries",
            "Entries in the receipts streams that are not in PostgreSQL yet; the same on every instance.",
            waiting,
        )


def _safety(parts: Parts, backlog: Backlog | None) -> Iterable[Metric]:
    acts = parts.transactions.acts
    yield counters(
        "parley_moderation_acts_total",
        "Acts that are in the audit log, by act; those of `parley admin` are not among them.",
        "act",
        {act.value: acts[act] for act in COUNTED_ACTS},
    )
    yield counters(
        "parley_blocks_written_total",
        "Blocks that users have set, and taken away.",
        "act",
        {"block": parts.blocks.blocked, "unblock": parts.blocks.unblocked},
    )
    if backlog is not None:
        yield gauge(
            "parley_reports_open",
            "Reports that wait for a decision, up to 10,000; the same on every instance.",
            backlog.waiting,
        )
        yield gauge(
            "parley_reports_oldest_seconds",
            "For how long the oldest of them has waited; 0 if none does. On every instance.",
            backlog.seconds,
        )


def _search(parts: Parts) -> Iterable[Metric]:
    indexer = parts.search_indexer
    yield gauge(
        "parley_search_lag_seconds",
        "Age of the oldest change of a message that a search does not see yet; 0 if there is none. On every instance.",
        indexer.lag,
    )
    yield counter(
        "parley_search_messages_total",
        "Messages, new or changed, that this instance has brought into the search; one instance at a time does.",
        indexer.brought_in,
    )
    yield gauge(
        "parley_search_rebuilding",
        "1 while this instance brings all messages into the search anew.",
        int(indexer.is_rebuilding),
    )


def _webhooks(parts: Parts) -> Iterable[Metric]:
    webhooks = parts.webhooks
    yield counter(
        "parley_webhooks_delivered_total",
        "Events that endpoints have accepted from this instance; each endpoint is served by one at a time.",
        webhooks.delivered,
    )
    yield counter(
        "parley_webhooks_failures_total",
        "Attempts to deliver that failed; each is repeated later.",
        webhooks.failed,
    )
    yield counter(
        "parley_webhooks_dead_letters_total",
        "Events that were given up after WEBHOOK_RETRY_TIME.",
        webhooks.dead,
    )
    yield gauge(
        "parley_webhooks_lag_seconds",
        "Age of the oldest event that waits at an active endpoint; 0 if none does. On every instance.",
        webhooks.lag,
    )
    yield gauge(
        "parley_webhooks_disabled",
        "Endpoints that were disabled, as they had accepted nothing for too long. On every instance.",
        webhooks.disabled,
    )


def _pools(parts: Parts) -> Iterable[Metric]:
    statistics = {name: pool.statistics() for name, pool in parts.pools.items()}

    def of_each(read: Callable[[PoolStatistics], int]) -> dict[str, int]:
        return {name: read(pool) for name, pool in statistics.items()}

    yield gauges(
        "parley_pool_size_connections",
        "Connections to PostgreSQL that the pool may have: POOL_SIZE; exports have 2, searches 5, webhooks 4.",
        "pool",
        of_each(lambda pool: pool.size),
    )
    yield gauges(
        "parley_pool_open_connections",
        "Connections to PostgreSQL that the pool has, idle or lent.",
        "pool",
        of_each(lambda pool: pool.open),
    )
    yield gauges(
        "parley_pool_used_connections",
        "Connections to PostgreSQL that are lent now.",
        "pool",
        of_each(lambda pool: pool.open - pool.idle),
    )
    yield gauges(
        "parley_pool_waiting_callers",
        "Calls that wait for a connection.",
        "pool",
        of_each(lambda pool: pool.waiting),
    )
    yield counters(
        "parley_pool_acquisitions_total",
        "Connections lent.",
        "pool",
        of_each(lambda pool: pool.acquired),
    )
    yield counters(
        "parley_pool_failures_total",
        "Calls that got no connection in time, or were refused because too many waited.",
        "pool",
        of_each(lambda pool: pool.timed_out + pool.refused),
    )
    yield counters(
        "parley_pool_connect_failures_total",
        "Attempts to connect that PostgreSQL refused.",
        "pool",
        of_each(lambda pool: pool.connect_failures),
    )
    yield histograms(
        "parley_pool_wait_seconds",
        "Time that callers waited who did not get a connection at once.",
        "pool",
        [(name, pool.waits) for name, pool in parts.pools.items()],
    )
    yield counter(
        "parley_timeline_changes_total",
        "Times that PostgreSQL was on another timeline than before: a standby was promoted, or a backup restored.",
        parts.timelines.changes,
    )
    yield gauge(
        "parley_timeline_refused",
        "1 while PostgreSQL is refused because it is on an older timeline than was seen; messages are not accepted.",
        int(bool(parts.timelines.refused)),
    )
    yield gauge(
        "parley_clock_ahead_seconds",
        "How far this machine's clock is ahead of PostgreSQL's, as last compared; negative if it is behind.",
        parts.clock.ahead,
    )


def _disks(parts: Parts) -> Iterable[Metric]:
    yield gauge(
        "parley_postgres_full",
        "1 while PostgreSQL has no room on its disk, as far as is known: messages are not accepted.",
        int(not parts.lanes.has_room),
    )
    yield counter(
        "parley_postgres_faults_total",
        "Statements that ended with a fault of PostgreSQL's own: damaged data, errors of its file system, no memory.",
        parts.damage.count,
    )
    yield gauge(
        "parley_files_failing",
        "1 while no file can be stored, as far as is known: uploads are refused.",
        int(parts.objects is not None and bool(parts.objects.trouble)),
    )


def _process(parts: Parts) -> Iterable[Metric]:
    event_loop_lag = parts.event_loop_lag
    yield histogram(
        "parley_event_loop_lag_seconds",
        "How late a task is woken, sampled four times a second. Everything this process does waits as long.",
        event_loop_lag.lags,
    )
    yield histograms(
        "parley_gc_pause_seconds",
        "Pauses of Python's garbage collector, by generation; 2 looks at all that was not put aside.",
        "generation",
        [(str(number), pauses) for number, pauses in enumerate(event_loop_lag.pauses)],
    )
    yield counters(
        "parley_defects_total",
        "Unexpected exceptions, by the part that caught them; each kind has a line in the log.",
        "part",
        counts(),
    )
    yield gauge("parley_process_tasks", "Tasks of the event loop.", trio.lowlevel.current_statistics().tasks_living)
    yield gauge(
        "parley_process_alive",
        "0 if the process reports that it hangs; systemd's watchdog then restarts it.",
        int(parts.liveness.verdict() is None),
    )
    build = {"version": version(), "python": platform.python_version(), "trio": trio.__version__}
    yield InfoMetricFamily("parley_build", "What runs here.", value=build)
