"""Deliver events to the endpoints of webhooks, from a durable position (`store.postgres.webhook_deliveries`).

Owns one task, which every instance has. Endpoints are dealt out to the instances in turn, by the order of their ids and
of the sessions that deliver. When a session comes or goes they are dealt anew, and an endpoint that now belongs to
another instance is left as soon as nothing is under way there. An advisory lock for each endpoint makes sure that one
instance at a time has it. One of the instances notes which conversations have changed. Conversations that are due are
served: one task for a conversation of an endpoint, so that its events follow each other, and a bounded number of tasks
for each endpoint.

The process may die between any two lines here. A position moves when the events of a page were accepted, or after a
second; until then they are sent again, with the same ids, by the next instance. An event that fails is due again later.
It holds back what follows it in its conversation at that endpoint, and nothing else. After `retry_time` it becomes a
dead letter, in the transaction in which the position moves past it. An endpoint that has accepted nothing for that long
is disabled instead, and everything waits at its position.

Events that are no change of a conversation (`store.postgres.webhook_events`) are served beside the conversations, each
by itself, under its number. Events about offline members are found by a separate task (`server.webhooks.unread`).
"""

import itertools
import random
import ssl
from collections import Counter, deque
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import structlog
import trio

from handlers.webhooks import PURPOSE
from server.webhooks import payloads
from server.webhooks.connections import Resolve, resolve
from server.webhooks.sender import Outcome, Sender
from server.webhooks.unread import UnreadScanner
from store.defects import guard
from store.errors import StoreError
from store.model import DeadLetter, WebhookEvent
from store.outage import Outage
from store.postgres import reports, unread_scans
from store.postgres import webhook_deliveries as store
from store.postgres import webhook_events as events
from store.postgres.connection import Connection
from store.postgres.pool import Pool
from store.postgres.sessions import NOT_OURS, TRANSIENT
from store.postgres.webhook_deliveries import Happened, Target
from store.postgres.webhook_events import Waiting
from store.sealing import Unreadable, load, seal, unseal
from store.signing import DerivedKeys

PERIOD = 0.2  # seconds between looks at what has changed
REST = 9.0  # times as long as such a look took, at least: where Redis is away it takes all that is not published yet
MAX_REST = 5.0  # seconds: a process that was stopped amid a look, or its machine, took nothing of PostgreSQL's time
STANDBY = 1.0  # seconds between attempts to take the lock, and after a fault
REFRESH = 1.0  # seconds between looks at the endpoints
LOOK = 2.0  # seconds between looks at all the rest: what is to be disabled, replayed, removed
MARK = 1.0  # seconds after which a position moves, in the middle of a page
STUCK = 1.0  # seconds after which a batch is read from the outbox
TOTAL = 200  # attempts at once, of all endpoints; each endpoint may have one besides
READY = 64  # conversations of one endpoint that are known to be due
FIRST_DELAY = 1.0  # seconds after the first failure, about; doubles with each more
MAX_DELAY = 3600.0
TROUBLE = 3  # failures of an endpoint in a row after which it is tried by one conversation only
HASTEN = 5.0  # seconds within which, when it accepts again, what has waited is tried
MAX_PAUSE = 10.0  # seconds, while there is a defect, or damage
SAY = 5.0  # seconds between writes of why an endpoint fails
KEPT_LETTERS = 10_000  # dead letters of one endpoint; of more the oldest go
REPLAY = UUID(int=0)  # stands for the replay of dead letters among the conversations that are served
NUMBERS = 2**63  # below are ids that stand for events with these numbers

_guard = guard("webhooks")

log = structlog.get_logger("parley.webhooks")


class Terms(NamedTuple):
    """What the settings say about deliveries. `hosts`: the hosts that may be in private networks."""

    hosts: Collection[str] = ()
    concurrency: int = 8
    timeout: float = 15.0
    retry_time: float = 24 * 3600.0
    unread_delay: float = 5.0


def backoff(attempts: int) -> float:
    """Seconds until the next attempt, after so many that failed."""
    delay: float = min(FIRST_DELAY * 2.0 ** min(attempts - 1, 20), MAX_DELAY)
    return delay * random.uniform(0.5, 1.0)


class _Endpoint:
    """What is under way at one endpoint."""

    def __init__(self, target: Target, sender: Sender) -> None:
        self.id = target.id
        self.url = target.url
        self.sender = sender
        self.events = target.events
        self.secrets: list[bytes] = []
        self.active: set[UUID] = set()  # conversations
        self.ready: deque[UUID] = deque()
        self.is_all_known = False  # what is due, by the last look
        self.failures = 0  # in a row
        self.is_failing = target.is_failing  # as the database has it
        self.say_at = 0.0  # when the reason of a failure is written again
        self.is_gone = False  # paused, disabled or deleted meanwhile
        self.is_leaving = False  # another instance is to have it

    def takes(self, kind: WebhookEvent) -> bool:
        return not self.events or kind.value in self.events

    @property
    def serves_replays(self) -> bool:
        """Whether a replay may begin now."""
        return not (self.is_gone or self.is_leaving or REPLAY in self.active)

    def room(self, concurrency: int) -> int:
        """How many more conversations may be served now."""
        if self.is_gone or self.is_leaving:
            return 0
        return (1 if self.failures >= TROUBLE else concurrency) - len(self.active)


class _Mark(NamedTuple):
    """The position in a conversation is at `seq`, and events up to `reached` were accepted, the last one of `at_ms`.
    `at`: when the position is to move at the latest."""

    seq: int
    reached: int
    at_ms: int
    at: float


class WebhookDelivery:
    def __init__(
        self,
        pool: Pool,
        keys: DerivedKeys,
        terms: Terms,
        resolve: Resolve = resolve,
        scanner: UnreadScanner | None = None,
    ) -> None:
        self._pool = pool
        self._scanner = scanner
        self._keys = keys
        self._terms = terms
        self._resolve = resolve
        self.is_at_work = False
        self.is_noting = False
        self._own, self._deliverers = 0, [0]  # sessions: that of this instance, and of all
        self._is_any = False  # there is an active endpoint, served by whichever instance
        self.delivered = 0
        self.failed = 0  # attempts
        self.dead = 0  # events that were given up
        self.disabled = 0  # endpoints, as of the last look
        self.outage = Outage("parley.webhooks", "webhooks_behind", advice="it is retried automatically")
        self._unreadable = Outage("parley.webhooks", "webhook_secret_unreadable", advice="see JWT_OLD_KEYS")
        self._oldest: float | None = None  # when the oldest event was made that waits; None: none does
        self._endpoints: dict[UUID, _Endpoint] = {}
        self._active = 0
        self._wake = trio.Event()
        self._tls: ssl.SSLContext | None = None

    @property
    def lag(self) -> float:
        """Seconds since the oldest event was made that waits at an active endpoint; 0 if none does."""
        return 0.0 if self._oldest is None else max(0.0, trio.current_time() - self._oldest)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled. While code of before delivers, only look."""
        task_status.started()
        pause, look_at = STANDBY, 0.0
        while True:
            try:
                async with self._pool.connection() as conn:
                    if await store.join(conn):
                        await self._work(conn)
                    elif trio.current_time() >= look_at:
                        look_at = trio.current_time() + LOOK
                        self._note(await store.fetch_state(conn))
                pause = STANDBY
            except StoreError as error:
                self.outage.failed(str(error))
                pause = min(2 * pause, MAX_PAUSE)
            except Exception as error:  # nothing moved that was not accepted
                _guard.caught(error)
                pause = min(2 * pause, MAX_PAUSE)
            else:
                self.outage.over()
            await trio.sleep(pause * random.uniform(0.75, 1.25))

    def _note(self, state: store.State) -> None:
        self.disabled = state.disabled
        self._oldest = trio.current_time() - state.lag if state.lag else None

    async def _work(self, conn: Connection) -> None:
        """Until the session is lost: its locks end with it. What is under way then is cancelled, and sent again."""
        fault: Exception | None = None
        self.is_at_work = True
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await self._serve_all(conn, nursery)
                except (StoreError, *TRANSIENT, *NOT_OURS) as error:  # as the pool would have it
                    fault = error
                nursery.cancel_scope.cancel()
        finally:
            self.is_at_work = self.is_noting = False
            with trio.move_on_after(STANDBY, shield=True):
                for endpoint in self._endpoints.values():
                    await endpoint.sender.aclose()
            self._endpoints.clear()
            conn.finish()
        if fault is not None:
            raise fault

    async def _serve_all(self, conn: Connection, nursery: trio.Nursery) -> None:
        note_at = rests_until = refresh_at = look_at = 0.0
        while True:
            now = trio.current_time()
            if now >= look_at:
                await self._look(conn, nursery)
                look_at = now + (LOOK if self._endpoints else 5 * LOOK)
            if now >= refresh_at:
                if not self.is_noting and await store.take_notes(conn):
                    self.is_noting = True
                    if self._scanner is not None:
                        nursery.start_soon(self._scanner.run)
                await self._refresh(conn)
                refresh_at = now + REFRESH
            if now >= note_at:
                is_more = self.is_noting and now >= rests_until
                if is_more:
                    began = trio.current_time()
                    is_more = await store.note(conn, stuck_after=STUCK, unread_after=self._terms.unread_delay)
                    ended = trio.current_time()
                    rests_until = now if is_more else ended + min(REST * (ended - began), MAX_REST)
                is_busy = self._endpoints or (self.is_noting and self._is_any)
                note_at = now if is_more else now + (PERIOD if is_busy else REFRESH)
                for endpoint in self._endpoints.values():
                    endpoint.is_all_known = False
                self.outage.over()
            self._wake = trio.Event()  # before what is due is asked for: what ends meanwhile makes room
            await self._find(conn)
            self._start(nursery)
            with trio.move_on_at(note_at):
                await self._wake.wait()

    async def _refresh(self, conn: Connection) -> None:
        """Take in what was made, changed or ended of the endpoints, and which of them this instance is to serve."""
        targets = {target.id: target for target in await store.list_targets(conn)}
        self._is_any = bool(targets)
        hands = itertools.cycle(self._deliverers)
        dealt = {webhook_id for webhook_id, hand in zip(targets, hands, strict=False) if hand == self._own}
        for webhook_id, endpoint in list(self._endpoints.items()):
            endpoint.is_gone = endpoint.is_gone or webhook_id not in targets
            endpoint.is_leaving = webhook_id not in dealt
            if (endpoint.is_gone or endpoint.is_leaving) and not endpoint.active:
                del self._endpoints[webhook_id]
                await store.leave(conn, webhook_id)
                await endpoint.sender.aclose()
        if self._scanner is not None:
            kind = WebhookEvent.USER_OFFLINE_WITH_UNREAD.value
            self._scanner.want(any(kind in target.events for target in targets.values()))
        is_readable = True
        if targets:
            await load()
        for target in targets.values():
            held = self._endpoints.get(target.id)
            if held is None and target.id not in dealt:
                continue
            secrets = await self._unsealed(conn, target)
            if not secrets:
                is_readable = False
                continue
            if held is None and not await store.take(conn, target.id):
                continue
            endpoint = held or await self._take_in(target)
            if endpoint.is_gone:
                continue  # it is active again, and what was under way before is not over
            endpoint.secrets, endpoint.events = secrets, target.events
        if is_readable:
            self._unreadable.over()

    async def _take_in(self, target: Target) -> _Endpoint:
        if self._tls is None:
            self._tls = await trio.to_thread.run_sync(httpx.create_ssl_context)
        sender = Sender(
            target.url,
            self._terms.hosts,
            tls=self._tls,
            timeout=self._terms.timeout,
            connections=self._terms.concurrency + 1,
            resolve=self._resolve,
        )
        endpoint = self._endpoints[target.id] = _Endpoint(target, sender)
        return endpoint

    async def _unsealed(self, conn: Connection, target: Target) -> list[bytes]:
        """The secrets that sign, the newest first; none if no key opens it. Those of an old key are sealed anew."""
        try:
            secret, is_current = unseal(self._keys, target.secret, PURPOSE)
            found, old_sealed = [secret], None
            if target.old_secret is not None and target.is_old_good:
                old, is_old_current = unseal(self._keys, target.old_secret, PURPOSE)
                found.append(old)
                old_sealed = seal(self._keys, old, PURPOSE)
                is_current = is_current and is_old_current
        except Unreadable as error:
            self._unreadable.failed(str(error), webhook=str(target.id))
            return []
        if not is_current:
            await store.reseal(conn, target, seal(self._keys, secret, PURPOSE), old_sealed)
        return found

    async def _look(self, conn: Connection, nursery: trio.Nursery) -> None:
        tried = [one.id for one in self._endpoints.values() if one.failures]  # not for a time in which none was
        for webhook_id, url, reason in await store.disable_failing(conn, tried, self._terms.retry_time):
            _log_disabled(webhook_id, url, reason)
            self._endpoints[webhook_id].is_gone = True
        self._own, self._deliverers = await store.list_deliverers(conn)
        if self.is_noting:
            await store.clear_away(conn, kept=KEPT_LETTERS)
            await unread_scans.clear(conn)
        for webhook_id in await store.list_replaying(conn):
            endpoint = self._endpoints.get(webhook_id)
            if endpoint is not None and endpoint.serves_replays:
                self._begin(nursery, endpoint, REPLAY)
        self._note(await store.fetch_state(conn))

    # -- which conversations are served ---------------------------------------------------------

    async def _find(self, conn: Connection) -> None:
        """Ask what is due at endpoints that have room, and of which not all of that is known."""
        hungry = {
            one.id: READY + len(one.active)
            for one in self._endpoints.values()
            if not one.ready and not one.is_all_known and one.room(self._terms.concurrency) > 0
        }
        due: dict[UUID, list[UUID]] = {webhook_id: [] for webhook_id in hungry}
        own = Counter[UUID]()
        for webhook_id, conversation_id, number in await store.list_due(conn, hungry, payloads.OWN):
            own[webhook_id] += conversation_id is None
            due[webhook_id].append(UUID(int=number) if conversation_id is None else conversation_id)
        for webhook_id, found in due.items():
            endpoint, limit = self._endpoints[webhook_id], hungry[webhook_id]
            endpoint.is_all_known = max(own[webhook_id], len(found) - own[webhook_id]) < limit
            endpoint.ready.extend(one for one in found if one not in endpoint.active)

    def _start(self, nursery: trio.Nursery) -> None:
        """Begin with what is due, of each endpoint in turn: one of each, whatever the others do."""
        is_any = True
        while is_any:
            is_any = False
            for endpoint in self._endpoints.values():
                has_share = self._active < TOTAL or not endpoint.active
                if endpoint.ready and has_share and endpoint.room(self._terms.concurrency) > 0:
                    is_any = True
                    conversation_id = endpoint.ready.popleft()
                    if conversation_id not in endpoint.active:
                        self._begin(nursery, endpoint, conversation_id)

    def _begin(self, nursery: trio.Nursery, endpoint: _Endpoint, conversation_id: UUID) -> None:
        endpoint.active.add(conversation_id)
        self._active += 1
        nursery.start_soon(self._serve, endpoint, conversation_id)

    async def _serve(self, endpoint: _Endpoint, conversation_id: UUID) -> None:
        try:
            if conversation_id == REPLAY:
                await self._replay(endpoint)
            elif conversation_id.int < NUMBERS:
                await self._deliver_own(endpoint, conversation_id.int)
            elif await self._deliver(endpoint, conversation_id):
                endpoint.is_all_known = False
        except StoreError as error:  # it is still due
            self.outage.failed(str(error))
            await trio.sleep(STANDBY)
        except Exception as error:  # it is still due, and costs no other conversation anything
            _guard.caught(error, conversation=str(conversation_id))
            await trio.sleep(MAX_PAUSE)
        finally:
            endpoint.active.discard(conversation_id)
            self._active -= 1
            self._wake.set()

    # -- one conversation of one endpoint -------------------------------------------------------

    async def _deliver(self, endpoint: _Endpoint, conversation_id: UUID) -> bool:
        """Deliver some events of a conversation, in order. Return whether there may be more now."""
        async with self._pool.connection() as conn:
            found = await store.list_happened(conn, endpoint.id, conversation_id)
        if found is None or not found[0].is_due:
            return False
        position, happened = found
        mark = _Mark(position.seq, position.seq, 0, trio.current_time() + MARK)
        for one in happened.events:
            kind = payloads.type_of(one)
            if kind is None or not endpoint.takes(kind):
                continue
            if endpoint.is_gone or endpoint.is_leaving or trio.current_time() >= mark.at:
                moved = await self._mark(endpoint, conversation_id, mark)
                if moved is None or endpoint.is_gone or endpoint.is_leaving:
                    return False
                mark = moved
            event_id = payloads.id_of(endpoint.id, one)
            outcome = await self._post(endpoint, event_id, await self._body(kind, one))
            if outcome.failure:
                attempts = position.attempts if mark.reached == position.seq else 0
                moved = await self._mark(endpoint, conversation_id, mark)
                if moved is not None:
                    delay = max(backoff(attempts + 1), outcome.wait)
                    await self._postpone(endpoint, moved.seq, one, event_id, kind, outcome, delay)
                return False
            mark = mark._replace(reached=one.seq, at_ms=one.at_ms)
        last = mark._replace(reached=max(mark.reached, happened.reached))
        return await self._mark(endpoint, conversation_id, last, rests=True) is not None and not happened.is_all

    async def _mark(
        self, endpoint: _Endpoint, conversation_id: UUID, mark: _Mark, *, rests: bool = False
    ) -> _Mark | None:
        """Move the position to what was accepted. None if it is elsewhere by now."""
        if mark.reached > mark.seq or rests:
            async with self._pool.connection() as conn:
                if not await store.advance(
                    conn,
                    endpoint.id,
                    conversation_id,
                    before=mark.seq,
                    seq=mark.reached,
                    at_ms=mark.at_ms,
                    rests=rests,
                ):
                    return None
        return _Mark(mark.reached, mark.reached, 0, trio.current_time() + MARK)

    async def _body(self, kind: WebhookEvent, happened: Happened) -> bytes:
        if kind is not WebhookEvent.CONVERSATION_CREATED:
            return payloads.encode(kind, happened)
        async with self._pool.connection() as conn:
            founding = await store.fetch_founding(conn, happened.message.conversation_id, happened.seq)
        return payloads.encode(kind, happened, founding)

    async def _post(self, endpoint: _Endpoint, event_id: str, body: bytes) -> Outcome:
        """One attempt, and what it says about the endpoint."""
        outcome = await endpoint.sender.post(endpoint.secrets, event_id, body)
        if not outcome.failure:
            self.delivered += 1
            failures, endpoint.failures = endpoint.failures, 0
            if endpoint.is_failing:
                endpoint.is_failing = False
                try:
                    async with self._pool.connection() as conn:
                        hasten_within = HASTEN if failures >= TROUBLE else None
                        await store.note_success(conn, endpoint.id, hasten_within=hasten_within)
                except Exception:  # by the next event that it accepts, or it would be taken for failing ever since
                    endpoint.is_failing, endpoint.failures = True, failures
                    raise
            return outcome
        self.failed += 1
        endpoint.failures += 1
        async with self._pool.connection() as conn:
            if outcome.is_gone and await store.disable(conn, endpoint.id, outcome.failure):
                endpoint.is_gone = True
                _log_disabled(endpoint.id, endpoint.url, outcome.failure)
            elif not endpoint.is_failing or trio.current_time() >= endpoint.say_at:
                await store.note_failure(conn, endpoint.id, outcome.failure)
                endpoint.is_failing = True
                endpoint.say_at = trio.current_time() + SAY
        return outcome

    async def _postpone(
        self,
        endpoint: _Endpoint,
        before: int,
        happened: Happened,
        event_id: str,
        kind: WebhookEvent,
        outcome: Outcome,
        delay: float,
    ) -> None:
        """Try the event later; or give it up, when its time is over."""
        conversation_id = happened.message.conversation_id
        async with self._pool.connection() as conn:
            found = await store.postpone(conn, endpoint.id, conversation_id, before, delay)
            if found is None or endpoint.is_gone:
                return
            attempts, seconds = found
            if seconds < self._terms.retry_time:
                return
            async with conn.transaction():
                seq = happened.seq
                if not await store.advance(conn, endpoint.id, conversation_id, before=before, seq=seq, rests=True):
                    return
                await store.insert_letter(
                    conn, endpoint.id, event_id, kind.value, happened, attempts=attempts, reason=outcome.failure
                )
        self._note_dead(endpoint, event_id, outcome)

    def _note_dead(self, endpoint: _Endpoint, event_id: str, outcome: Outcome) -> None:
        self.dead += 1
        log.warning("webhook_dead_letter", webhook=str(endpoint.id), event_id=event_id, reason=outcome.failure)

    # -- events that are no change of a conversation --------------------------------------------

    async def _deliver_own(self, endpoint: _Endpoint, number: int) -> None:
        async with self._pool.connection() as conn:
            waiting = await events.fetch_waiting(conn, endpoint.id, number)
            if waiting is None or not waiting.is_due:
                return
            body = await _own_body(conn, waiting)
            if body is None:
                await events.forget(conn, endpoint.id, waiting)
                return
        if endpoint.is_gone:
            return
        event_id = payloads.own_id_of(endpoint.id, waiting)
        outcome = await self._post(endpoint, event_id, body)
        delay = max(backoff(waiting.attempts + 1), outcome.wait)
        async with self._pool.connection() as conn:
            if not outcome.failure:
                await events.forget(conn, endpoint.id, waiting)
                return
            found = await events.postpone(conn, endpoint.id, number, delay)
            if found is None or endpoint.is_gone:
                return
            attempts, seconds = found
            if seconds < self._terms.retry_time:
                return
            await events.give_up(conn, endpoint.id, event_id, waiting, attempts=attempts, reason=outcome.failure)
        self._note_dead(endpoint, event_id, outcome)

    # -- dead letters ---------------------------------------------------------------------------

    async def _replay(self, endpoint: _Endpoint) -> None:
        """Try dead letters that are to be replayed, once each."""
        while not endpoint.is_gone:
            async with self._pool.connection() as conn:
                letters = await store.list_replays(conn, endpoint.id)
            for number, letter in letters:
                if endpoint.is_gone:
                    return
                outcome = await self._send_letter(endpoint, letter)
                async with self._pool.connection() as conn:
                    if outcome.failure:
                        await store.keep_letter(conn, endpoint.id, number, outcome.failure)
                    else:
                        await store.delete_letter(conn, endpoint.id, number)
            if not letters:
                return

    async def _send_letter(self, endpoint: _Endpoint, letter: DeadLetter) -> Outcome:
        """Of what is gone by now, nothing is sent."""
        kind = WebhookEvent(letter.type)
        body, happened = None, None
        async with self._pool.connection() as conn:
            if letter.object_id is not None:
                body = await _own_body(conn, letter)
            else:
                happened = await store.fetch_happened(conn, letter, is_made=kind is not WebhookEvent.MESSAGE_CHANGED)
        if happened is not None:
            body = await self._body(kind, happened)
        if body is None:
            log.info("webhook_replay_passed_over", webhook=str(endpoint.id), event_id=letter.id)
            return Outcome()
        return await self._post(endpoint, letter.id, body)


async def _own_body(conn: Connection, about: Waiting | DeadLetter) -> bytes | None:
    """None where there is nothing to say any more."""
    assert about.object_id is not None
    if about.type == WebhookEvent.REPORT_CREATED.value:
        report = await reports.fetch_report(conn, about.object_id)
        return None if report is None else payloads.encode_report(report)
    assert about.conversation_id is not None and about.seq is not None
    standing = await unread_scans.fetch_standing(conn, about.conversation_id, about.object_id, about.seq)
    return None if standing is None else payloads.encode_unread(about.conversation_id, about.object_id, standing)


def _log_disabled(webhook_id: UUID, url: str, reason: str) -> None:
    """Of the URL only the host: the rest may have a key in it."""
    log.warning(
        "webhook_disabled",
        webhook=str(webhook_id),
        host=urlsplit(url).hostname or "",
        reason=reason,
        advice="mend it, then: parley webhook resume",
    )
