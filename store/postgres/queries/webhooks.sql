-- Webhooks: their endpoints, how far each has got, and what could not be delivered.

-- fragment: shown
id, url, events, conversation_id, state, (extract(epoch FROM failing_since) * 1000)::bigint, last_failure,
    (extract(epoch FROM CASE WHEN old_secret_until > clock_timestamp() THEN old_secret_until END) * 1000)::bigint

-- name: insert_webhook
INSERT INTO webhooks (id, url, events, conversation_id, secret)
VALUES (%(id)s, %(url)s, %(events)s::text[], %(conversation_id)s, %(secret)s)
RETURNING {shown}

-- name: lock_webhooks
-- Two that make endpoints at once would both find room for one more. A table of a hundred rows at most.
SELECT pg_advisory_xact_lock(hashtext('parley.webhooks.count'))

-- name: count_webhooks
-- A hundred rows at most.
SELECT count(*) FROM webhooks WHERE state <> 'Deleted'

-- name: list_webhooks
-- webhooks_pkey.
SELECT {shown} FROM webhooks WHERE id > %(after)s AND state <> 'Deleted' ORDER BY id LIMIT %(limit)s

-- name: fetch_webhook
-- webhooks_pkey.
SELECT {shown} FROM webhooks WHERE id = %(id)s AND state <> 'Deleted'

-- name: update_webhook_state
-- webhooks_pkey. What is active again begins without a past.
UPDATE webhooks SET state = %(state)s, failing_since = CASE WHEN %(state)s <> 'Active' THEN failing_since END
WHERE id = %(id)s AND state <> 'Deleted'
RETURNING {shown}

-- name: hasten_webhook_positions
-- webhook_positions_due, webhook_positions_pkey. What failed before is due within `seconds`, as if it had not been tried, where
-- it is forgiven. Locked in the order in which they are noted.
WITH waiting AS MATERIALIZED (
    SELECT webhook_id, conversation_id FROM webhook_positions WHERE webhook_id = %(id)s AND attempts > 0
        AND due_at > statement_timestamp() + make_interval(secs => %(seconds)s)
    LIMIT %(limit)s
), locked AS MATERIALIZED (
    SELECT p.webhook_id, p.conversation_id FROM waiting AS w
    JOIN webhook_positions AS p ON p.webhook_id = w.webhook_id AND p.conversation_id = w.conversation_id
    ORDER BY p.conversation_id FOR NO KEY UPDATE OF p
)
UPDATE webhook_positions AS p SET due_at = clock_timestamp() + random() * make_interval(secs => %(seconds)s),
    attempts = CASE WHEN %(forgiven)s THEN 0 ELSE attempts END,
    failing_since = CASE WHEN NOT %(forgiven)s THEN failing_since END
FROM locked AS l WHERE p.webhook_id = l.webhook_id AND p.conversation_id = l.conversation_id

-- name: hasten_webhook_events
-- webhook_events_due. The same of events that are no changes of a conversation.
UPDATE webhook_events SET due_at = clock_timestamp() + random() * make_interval(secs => %(seconds)s),
    attempts = CASE WHEN %(forgiven)s THEN 0 ELSE attempts END,
    failing_since = CASE WHEN NOT %(forgiven)s THEN failing_since END
WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM webhook_events WHERE webhook_id = %(id)s AND attempts > 0
        AND due_at > statement_timestamp() + make_interval(secs => %(seconds)s)
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))

-- name: rotate_webhook_secret
-- webhooks_pkey. The one before signs, too, for a time; of three the oldest no more.
UPDATE webhooks SET secret = %(secret)s, old_secret = secret,
    old_secret_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE id = %(id)s AND state <> 'Deleted'
RETURNING {shown}

-- name: replace_webhook_secret
-- webhooks_pkey.
UPDATE webhooks SET secret = %(secret)s WHERE id = %(id)s AND state <> 'Deleted'
RETURNING {shown}

-- name: reseal_webhook
-- webhooks_pkey. The same secrets under another key, unless they were replaced meanwhile.
UPDATE webhooks SET secret = %(secret)s, old_secret = %(old_secret)s
WHERE id = %(id)s AND secret = %(was)s AND old_secret IS NOT DISTINCT FROM %(old_was)s::bytea

-- name: delete_webhook
-- webhooks_pkey. Nothing is delivered to it any more; `clear_deleted_webhook` removes it.
UPDATE webhooks SET state = 'Deleted' WHERE id = %(id)s AND state <> 'Deleted' RETURNING id

-- name: clear_deleted_webhook
-- webhook_positions_pkey, webhook_events_pkey, webhook_dead_letters_pkey: so much of one that is deleted; when nothing is
-- left, itself.
WITH gone AS MATERIALIZED (
    SELECT id FROM webhooks WHERE state = 'Deleted' ORDER BY id LIMIT 1
), positions AS (
    DELETE FROM webhook_positions WHERE ctid = ANY(ARRAY(
        SELECT p.ctid FROM webhook_positions AS p JOIN gone ON gone.id = p.webhook_id LIMIT %(limit)s
    )) RETURNING 1
), events AS (
    DELETE FROM webhook_events WHERE ctid = ANY(ARRAY(
        SELECT e.ctid FROM webhook_events AS e JOIN gone ON gone.id = e.webhook_id LIMIT %(limit)s
    )) RETURNING 1
), letters AS (
    DELETE FROM webhook_dead_letters WHERE ctid = ANY(ARRAY(
        SELECT d.ctid FROM webhook_dead_letters AS d JOIN gone ON gone.id = d.webhook_id LIMIT %(limit)s
    )) RETURNING 1
), itself AS (
    DELETE FROM webhooks AS w USING gone
    WHERE w.id = gone.id AND NOT EXISTS (SELECT FROM positions) AND NOT EXISTS (SELECT FROM events)
        AND NOT EXISTS (SELECT FROM letters)
    RETURNING 1
)
SELECT count(*) FROM gone

-- name: join_webhooks
-- Shared, and held by the session: all who deliver have it. Not beside code of before, which held it alone.
SELECT pg_try_advisory_lock_shared(hashtext('parley.webhooks'))

-- name: list_webhook_deliverers
-- Who holds that lock, in this database. A look at the locks of the server, which are in memory.
SELECT pg_backend_pid(), ARRAY(
    SELECT l.pid FROM pg_locks AS l, (SELECT hashtext('parley.webhooks')::bigint AS key) AS k
    WHERE l.locktype = 'advisory' AND l.granted AND l.mode = 'ShareLock' AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid = ((k.key >> 32) & 4294967295)::oid AND l.objid = (k.key & 4294967295)::oid
    ORDER BY l.pid
)

-- name: try_webhook_notes
-- Held by the session: one instance at a time notes what was committed, and clears up.
SELECT pg_try_advisory_lock(hashtext('parley.webhooks.notes'))

-- name: try_webhook
-- Held by the session: one instance at a time delivers to an endpoint. Should two ids have one hash, one session has both.
SELECT pg_try_advisory_lock(hashtext('parley.webhooks.endpoint'), hashtext(%(id)s::uuid::text))

-- name: leave_webhook
SELECT pg_advisory_unlock(hashtext('parley.webhooks.endpoint'), hashtext(%(id)s::uuid::text))

-- name: list_webhook_targets
-- A hundred rows at most.
SELECT id, url, events, secret, old_secret, old_secret_until > clock_timestamp(), failing_since IS NOT NULL
FROM webhooks WHERE state = 'Active' ORDER BY id

-- fragment: takes_unread
w.state <> 'Deleted' AND 'user.offline_with_unread' = ANY (w.events)

-- name: note_webhook_positions
-- webhook_queue_pkey, a scan of the outbox (a few rows), webhook_positions_pkey. Every batch is in the outbox or in the
-- queue until it is noted here. So a conversation that has no position yet begins at the lowest change of any batch that
-- is in either of them now, whichever is noted first. Taken are `limit` batches of the queue, and those that are still in
-- the outbox after `age`. Where an endpoint asks for members who are offline, they are looked for after `delay`
-- (unread_scans_pkey), not in conversations of more than `most`.
WITH taken AS MATERIALIZED (
    SELECT position FROM webhook_queue ORDER BY position LIMIT %(limit)s
), batches AS MATERIALIZED (
    SELECT conversation_ids, seqs, created_at, position <= (SELECT max(position) FROM taken) AS is_taken
    FROM webhook_queue
    UNION ALL
    SELECT conversation_ids, seqs, created_at, created_at < clock_timestamp() - make_interval(secs => %(age)s)
    FROM outbox WHERE EXISTS (SELECT FROM webhooks)
), noted AS MATERIALIZED (
    SELECT k.conversation_id, min(k.seq) AS seq, min(b.created_at) AS since
    FROM batches AS b CROSS JOIN LATERAL unnest(b.conversation_ids, b.seqs) AS k (conversation_id, seq)
    GROUP BY k.conversation_id HAVING bool_or(b.is_taken)
), written AS (
    INSERT INTO webhook_positions AS p (webhook_id, conversation_id, seq, noted_seq, due_at, waiting_since)
    SELECT w.id, n.conversation_id, n.seq - 1, c.last_seq, clock_timestamp(), n.since
    FROM noted AS n JOIN conversations AS c ON c.id = n.conversation_id
    JOIN webhooks AS w ON w.state <> 'Deleted' AND (w.conversation_id IS NULL OR w.conversation_id = n.conversation_id)
    ORDER BY 1, 2
    ON CONFLICT (webhook_id, conversation_id) DO UPDATE
    SET noted_seq = EXCLUDED.noted_seq, due_at = coalesce(p.due_at, EXCLUDED.due_at),
        waiting_since = CASE WHEN p.due_at IS NULL THEN EXCLUDED.waiting_since ELSE p.waiting_since END
    WHERE p.noted_seq < EXCLUDED.noted_seq
    RETURNING 1
), scanned AS (
    INSERT INTO unread_scans AS s (conversation_id, seq, noted_seq, due_at)
    SELECT n.conversation_id, n.seq - 1, c.last_seq, clock_timestamp() + make_interval(secs => %(delay)s)
    FROM noted AS n JOIN conversations AS c ON c.id = n.conversation_id
    WHERE c.member_count <= %(most)s AND EXISTS (
        SELECT FROM webhooks AS w
        WHERE {takes_unread} AND (w.conversation_id IS NULL OR w.conversation_id = n.conversation_id)
    )
    ORDER BY 1
    ON CONFLICT (conversation_id) DO UPDATE
    SET noted_seq = EXCLUDED.noted_seq, due_at = coalesce(s.due_at, EXCLUDED.due_at)
    WHERE s.noted_seq < EXCLUDED.noted_seq
    RETURNING 1
), forgotten AS (
    DELETE FROM webhook_queue AS q USING taken AS t WHERE q.position = t.position RETURNING 1
)
SELECT (SELECT count(*) FROM written), (SELECT count(*) FROM forgotten)

-- name: list_webhooks_due
-- webhook_positions_due, webhook_events_due: of each of these endpoints so many conversations, and so many of the events that
-- are in none's order, of types that this version knows; the longest due first. The time is the statement's, here and wherever it
-- bounds an index: by clock_timestamp(), which moves, all that is due later would be read and left out.
SELECT w.id, p.conversation_id, NULL::bigint FROM unnest(%(ids)s::uuid[], %(limits)s::integer[]) AS w (id, number)
CROSS JOIN LATERAL (
    SELECT p.conversation_id FROM webhook_positions AS p
    WHERE p.webhook_id = w.id AND p.due_at <= statement_timestamp() ORDER BY p.due_at LIMIT w.number
) AS p
UNION ALL
SELECT w.id, NULL, e.number FROM unnest(%(ids)s::uuid[], %(limits)s::integer[]) AS w (id, number)
CROSS JOIN LATERAL (
    SELECT e.number FROM webhook_events AS e
    WHERE e.webhook_id = w.id AND e.due_at <= statement_timestamp() AND e.type = ANY(%(types)s::text[])
    ORDER BY e.due_at LIMIT w.number
) AS e

-- name: list_webhook_changes
-- webhook_positions_pkey, conversations_pkey, messages_seq, messages_changed_seq: a position, with what was made behind it,
-- and what was changed since it was made; each as far as `limit` goes. A row at least, if there is a position.
WITH at AS MATERIALIZED (
    SELECT p.seq, p.attempts, p.due_at <= clock_timestamp() AS is_due, c.last_seq
    FROM webhook_positions AS p JOIN conversations AS c ON c.id = p.conversation_id
    WHERE p.webhook_id = %(webhook_id)s AND p.conversation_id = %(conversation_id)s
), made AS MATERIALIZED (
    SELECT id, seq FROM messages
    WHERE conversation_id = %(conversation_id)s AND seq > (SELECT seq FROM at) ORDER BY seq LIMIT %(limit)s
), changed AS MATERIALIZED (
    SELECT id, changed_seq FROM messages
    WHERE conversation_id = %(conversation_id)s AND changed_seq > (SELECT seq FROM at) AND changed_seq > seq
    ORDER BY changed_seq LIMIT %(limit)s
)
SELECT at.seq, at.attempts, at.is_due, at.last_seq, found.seq, found.id, found.is_made FROM at LEFT JOIN (
    SELECT seq, id, true AS is_made FROM made UNION ALL SELECT changed_seq, id, false FROM changed
) AS found ON true ORDER BY found.seq

-- name: fetch_webhook_conversation
-- conversations_pkey, members_pkey as a range: what a new one was, and who its first members were, so many of them.
SELECT c.kind, c.title, ARRAY(
    SELECT m.user_id FROM members AS m WHERE m.conversation_id = c.id AND m.joined_seq <= %(seq)s
    ORDER BY m.user_id LIMIT %(limit)s
) FROM conversations AS c WHERE c.id = %(conversation_id)s

-- fragment: without_waiting
-- The commit does not wait for the disk: what PostgreSQL loses of it is delivered again.
set_config('synchronous_commit', 'off', true) = 'off'

-- name: advance_webhook_position
-- webhook_positions_pkey. Unless somebody else has done it. One that rests is not due any more, or, if something was noted
-- meanwhile or is left, it is the turn of others first.
UPDATE webhook_positions SET seq = %(seq)s, attempts = 0, failing_since = NULL,
    waiting_since = greatest(waiting_since, to_timestamp(%(at)s / 1000.0)),
    due_at = CASE WHEN NOT %(rests)s THEN due_at WHEN noted_seq > %(seq)s THEN clock_timestamp() END
WHERE webhook_id = %(webhook_id)s AND conversation_id = %(conversation_id)s AND seq = %(before)s AND {without_waiting}

-- name: postpone_webhook_position
-- webhook_positions_pkey. Return for how long the event behind it has been failing, in seconds.
UPDATE webhook_positions SET attempts = attempts + 1, failing_since = coalesce(failing_since, clock_timestamp()),
    due_at = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE webhook_id = %(webhook_id)s AND conversation_id = %(conversation_id)s AND seq = %(seq)s
RETURNING attempts, extract(epoch FROM clock_timestamp() - failing_since)::float8

-- name: fetch_webhook_event
-- webhook_events_pkey.
SELECT number, type, object_id, conversation_id, seq, attempts, due_at <= clock_timestamp() FROM webhook_events
WHERE webhook_id = %(webhook_id)s AND number = %(number)s

-- name: delete_webhook_event
-- webhook_events_pkey. It was accepted, or is about what is gone; or it is given up. Unless it says something newer by now.
DELETE FROM webhook_events WHERE webhook_id = %(webhook_id)s AND number = %(number)s
    AND seq IS NOT DISTINCT FROM %(seq)s::bigint AND {without_waiting}

-- name: postpone_webhook_event
-- webhook_events_pkey. Return for how long it has been failing, in seconds.
UPDATE webhook_events SET attempts = attempts + 1, failing_since = coalesce(failing_since, clock_timestamp()),
    due_at = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE webhook_id = %(webhook_id)s AND number = %(number)s
RETURNING attempts, extract(epoch FROM clock_timestamp() - failing_since)::float8

-- name: delete_old_webhook_events
-- webhook_events_age.
DELETE FROM webhook_events WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM webhook_events WHERE created_at < %(before)s ORDER BY created_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))

-- name: list_unread_scans
-- unread_scans_due, the longest due first; conversations_pkey; messages_seq, of each the messages that are younger than
-- `delay`. Up to where to look: below the first of these, or, if there is none, up to what was noted.
SELECT s.conversation_id, s.seq, CASE WHEN EXISTS (
    SELECT FROM messages AS m WHERE m.conversation_id = s.conversation_id AND m.seq > old.seq
) THEN old.seq ELSE greatest(old.seq, s.noted_seq) END, coalesce(c.member_count, 0)
FROM (
    SELECT conversation_id, seq, noted_seq FROM unread_scans WHERE due_at <= statement_timestamp()
    ORDER BY due_at LIMIT %(limit)s
) AS s LEFT JOIN conversations AS c ON c.id = s.conversation_id
CROSS JOIN LATERAL (
    SELECT coalesce((
        SELECT m.seq FROM messages AS m WHERE m.conversation_id = s.conversation_id AND m.seq > s.seq
            AND m.id < uuid7_floor(clock_timestamp() - make_interval(secs => %(delay)s))
        ORDER BY m.seq DESC LIMIT 1
    ), s.seq) AS seq
) AS old

-- name: advance_unread_scans
-- unread_scans_pkey, locked in the order in which they are noted. Unless another session has done it. Return which were.
WITH locked AS MATERIALIZED (
    SELECT s.conversation_id, k.target
    FROM unnest(%(conversation_ids)s::uuid[], %(befores)s::bigint[], %(targets)s::bigint[]) AS k (conversation_id, seq, target)
    JOIN unread_scans AS s ON s.conversation_id = k.conversation_id AND s.seq = k.seq AND s.due_at IS NOT NULL
    ORDER BY s.conversation_id FOR UPDATE OF s
)
UPDATE unread_scans AS s SET seq = l.target, due_at = CASE WHEN s.noted_seq > l.target
    THEN clock_timestamp() + make_interval(secs => %(delay)s) END
FROM locked AS l WHERE s.conversation_id = l.conversation_id
RETURNING s.conversation_id

-- name: insert_unread_rechecks
-- unread_rechecks_pkey.
INSERT INTO unread_rechecks AS r (conversation_id, user_id, seq, due_at)
SELECT k.conversation_id, k.user_id, k.seq, clock_timestamp() + make_interval(secs => %(seconds)s)
FROM unnest(%(conversation_ids)s::uuid[], %(user_ids)s::uuid[], %(seqs)s::bigint[]) AS k (conversation_id, user_id, seq)
ORDER BY 1, 2
ON CONFLICT (conversation_id, user_id) DO UPDATE SET seq = EXCLUDED.seq, due_at = EXCLUDED.due_at

-- name: delete_unread_rechecks
-- unread_rechecks_pkey: these, if they are about no later message by now.
DELETE FROM unread_rechecks AS r
USING unnest(%(conversation_ids)s::uuid[], %(user_ids)s::uuid[], %(seqs)s::bigint[]) AS k (conversation_id, user_id, seq)
WHERE r.conversation_id = k.conversation_id AND r.user_id = k.user_id AND r.seq <= k.seq

-- name: insert_unread_events
-- webhook_events_unread. A user's event in a conversation that still waits says the newer thing. A hundred endpoints at most.
INSERT INTO webhook_events AS e (webhook_id, type, object_id, conversation_id, seq)
SELECT w.id, 'user.offline_with_unread', k.user_id, k.conversation_id, k.seq
FROM unnest(%(conversation_ids)s::uuid[], %(user_ids)s::uuid[], %(seqs)s::bigint[]) AS k (conversation_id, user_id, seq)
JOIN webhooks AS w ON {takes_unread} AND (w.conversation_id IS NULL OR w.conversation_id = k.conversation_id)
ORDER BY 1, 4, 3 FOR KEY SHARE OF w
ON CONFLICT (webhook_id, conversation_id, object_id) WHERE type = 'user.offline_with_unread'
    DO UPDATE SET seq = EXCLUDED.seq WHERE e.seq < EXCLUDED.seq

-- name: clear_unread_scans
-- A hundred endpoints at most; so many rows of each table, where no endpoint asks for them any more.
WITH unwanted AS MATERIALIZED (
    SELECT NOT EXISTS (SELECT FROM webhooks AS w WHERE {takes_unread}) AS is_so
), scans AS (
    DELETE FROM unread_scans WHERE (SELECT is_so FROM unwanted)
        AND ctid = ANY(ARRAY(SELECT ctid FROM unread_scans LIMIT %(limit)s))
)
DELETE FROM unread_rechecks WHERE (SELECT is_so FROM unwanted)
    AND ctid = ANY(ARRAY(SELECT ctid FROM unread_rechecks LIMIT %(limit)s))

-- name: insert_webhook_letter
INSERT INTO webhook_dead_letters (webhook_id, event_id, type, conversation_id, seq, message_id, object_id, attempts, reason)
VALUES (
    %(webhook_id)s, %(event_id)s, %(type)s, %(conversation_id)s, %(seq)s, %(message_id)s, %(object_id)s, %(attempts)s,
    %(reason)s
)
ON CONFLICT (webhook_id, event_id) DO NOTHING

-- name: note_webhook_failure
-- webhooks_pkey.
UPDATE webhooks SET failing_since = coalesce(failing_since, clock_timestamp()), last_failure = %(reason)s WHERE id = %(id)s

-- name: note_webhook_success
-- webhooks_pkey.
UPDATE webhooks SET failing_since = NULL WHERE id = %(id)s

-- name: disable_webhook
-- webhooks_pkey.
UPDATE webhooks SET state = 'Disabled', last_failure = %(reason)s WHERE id = %(id)s AND state = 'Active' RETURNING id

-- name: disable_failing_webhooks
-- A hundred rows at most: those that have accepted nothing for so long.
UPDATE webhooks SET state = 'Disabled'
WHERE id = ANY(%(ids)s::uuid[]) AND state = 'Active'
    AND failing_since < clock_timestamp() - make_interval(secs => %(seconds)s)
RETURNING id, url, last_failure

-- name: fetch_webhook_state
-- A hundred rows at most; webhook_positions_due and webhook_events_due, of what waits; webhook_queue_pkey;
-- unread_scans_due.
SELECT (SELECT count(*) FROM webhooks WHERE state = 'Disabled'), greatest(coalesce((
    SELECT extract(epoch FROM clock_timestamp() - min(p.waiting_since)) FROM webhooks AS w
    JOIN webhook_positions AS p ON p.webhook_id = w.id AND p.due_at IS NOT NULL WHERE w.state = 'Active'
), 0), coalesce((
    SELECT extract(epoch FROM clock_timestamp() - min(e.created_at)) FROM webhooks AS w
    JOIN webhook_events AS e ON e.webhook_id = w.id WHERE w.state = 'Active'
), 0), coalesce((
    SELECT extract(epoch FROM clock_timestamp() - created_at) FROM webhook_queue ORDER BY position LIMIT 1
), 0), coalesce((
    SELECT extract(epoch FROM clock_timestamp() - min(s.due_at)) FROM unread_scans AS s
    WHERE EXISTS (SELECT FROM webhooks AS w WHERE {takes_unread} AND w.state = 'Active')
), 0), 0)::float8

-- name: fetch_webhook_backlog
-- webhook_positions_due, webhook_events_due.
SELECT p.waiting, p.failing, e.waiting, e.failing,
    coalesce(extract(epoch FROM clock_timestamp() - least(p.since, e.since)), 0)::float8
FROM (
    SELECT count(*) AS waiting, count(*) FILTER (WHERE attempts > 0) AS failing, min(waiting_since) AS since
    FROM webhook_positions WHERE webhook_id = %(webhook_id)s AND due_at IS NOT NULL
) AS p CROSS JOIN (
    SELECT count(*) AS waiting, count(*) FILTER (WHERE attempts > 0) AS failing, min(created_at) AS since
    FROM webhook_events WHERE webhook_id = %(webhook_id)s
) AS e

-- fragment: letter
number, event_id, type, conversation_id, seq, message_id, object_id, attempts, (extract(epoch FROM failed_at) * 1000)::bigint,
    reason, replay_at IS NOT NULL

-- name: list_webhook_letters
-- webhook_dead_letters_pkey, backwards.
SELECT {letter} FROM webhook_dead_letters WHERE webhook_id = %(webhook_id)s AND number < %(before)s
ORDER BY number DESC LIMIT %(limit)s

-- name: replay_webhook_letters
-- webhook_dead_letters_webhook_id_event_id_key, or webhook_dead_letters_pkey: these, or all.
UPDATE webhook_dead_letters SET replay_at = clock_timestamp()
WHERE webhook_id = %(webhook_id)s AND (%(ids)s::text[] IS NULL OR event_id = ANY(%(ids)s::text[]))

-- name: list_webhook_replays
-- webhook_dead_letters_replay, in the order in which they failed.
SELECT {letter} FROM webhook_dead_letters WHERE webhook_id = %(webhook_id)s AND replay_at <= statement_timestamp()
ORDER BY number LIMIT %(limit)s

-- name: list_webhooks_replaying
-- webhook_dead_letters_replay.
SELECT w.id FROM webhooks AS w WHERE w.state = 'Active' AND EXISTS (
    SELECT FROM webhook_dead_letters AS d WHERE d.webhook_id = w.id AND d.replay_at <= statement_timestamp()
)

-- name: keep_webhook_letter
-- webhook_dead_letters_pkey: it failed again.
UPDATE webhook_dead_letters SET replay_at = NULL, attempts = attempts + 1, reason = %(reason)s
WHERE webhook_id = %(webhook_id)s AND number = %(number)s

-- name: delete_webhook_letter
-- webhook_dead_letters_pkey.
DELETE FROM webhook_dead_letters WHERE webhook_id = %(webhook_id)s AND number = %(number)s

-- name: delete_surplus_webhook_letters
-- webhook_dead_letters_pkey, of each endpoint: the oldest, past the newest `kept`.
DELETE FROM webhook_dead_letters AS d USING webhooks AS w CROSS JOIN LATERAL (
    SELECT l.number FROM webhook_dead_letters AS l WHERE l.webhook_id = w.id ORDER BY l.number DESC OFFSET %(kept)s LIMIT 1
) AS last
WHERE d.webhook_id = w.id AND d.number <= last.number

-- name: delete_old_webhook_letters
-- webhook_dead_letters_age.
DELETE FROM webhook_dead_letters WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM webhook_dead_letters WHERE failed_at < %(before)s ORDER BY failed_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))
