-- The transactional outbox.

-- name: insert_outbox
INSERT INTO outbox (conversation_id, seq, conversation_ids, seqs, dismissed, dismissed_sessions, settings_of, thread_of,
    end_reason, created_at)
VALUES (%(conversation_id)s, %(seq)s, %(conversation_ids)s::uuid[], %(seqs)s::bigint[], %(dismissed)s::uuid[],
    %(dismissed_sessions)s::uuid[], %(settings_of)s, %(thread_of)s, %(end_reason)s,
    clock_timestamp() - make_interval(secs => %(age)s))

-- name: delete_outbox
-- outbox_pkey. Its commit does not wait for the disk, nor do commits of messages wait for it: what PostgreSQL loses of it is
-- announced again.
DELETE FROM outbox AS o
USING unnest(%(conversation_ids)s::uuid[], %(seqs)s::bigint[]) AS k (conversation_id, seq),
      set_config('synchronous_commit', 'off', true)
WHERE o.conversation_id = k.conversation_id AND o.seq = k.seq

-- name: list_stale_outbox
-- A scan from a place in the table, which holds what is on its way, a few rows; when publishing has stood still, any number,
-- which are passed through once, as they lie. Rows that another relay has taken are passed over.
SELECT ctid::text, conversation_id, seq, conversation_ids, seqs, dismissed, dismissed_sessions, settings_of, thread_of,
    end_reason
FROM outbox
WHERE ctid > %(after)s::tid AND ctid <> ALL(%(but)s::text[]::tid[])
    AND created_at < clock_timestamp() - make_interval(secs => %(age)s)
LIMIT %(limit)s FOR UPDATE SKIP LOCKED

-- name: find_stale_outbox
-- The same of the first one only, without what it says: of a row that cannot be read where it lies, and which batch it is. What
-- is long is stored elsewhere, and is not looked at.
SELECT ctid::text, conversation_id, seq FROM outbox
WHERE ctid > %(after)s::tid AND ctid <> ALL(%(but)s::text[]::tid[])
    AND created_at < clock_timestamp() - make_interval(secs => %(age)s)
LIMIT 1 FOR UPDATE SKIP LOCKED

-- name: count_outbox_pages
-- Catalogue only.
SELECT pg_relation_size('outbox') / current_setting('block_size')::bigint

-- name: list_system_changes
-- messages_seq: the System messages at or after a seq of each of these conversations, in order: what was not read begins
-- behind the last one. The columns of `described` in messages.sql, without what no System message has.
WITH page AS MATERIALIZED (
    SELECT m.* FROM unnest(%(conversation_ids)s::uuid[], %(seqs)s::bigint[]) AS k (conversation_id, seq)
    JOIN messages AS m ON m.conversation_id = k.conversation_id AND m.seq >= k.seq AND m.kind = 'System'
    ORDER BY m.conversation_id, m.seq LIMIT %(limit)s
)
SELECT m.id, m.conversation_id, m.seq, m.changed_seq, m.sender_id, m.kind, m.body,
       NULL::uuid, NULL::text, NULL::text, NULL::bigint, NULL::text, NULL::integer, NULL::integer, NULL::uuid, NULL::text, NULL::bigint, NULL::bigint,
       NULL::bigint, NULL::text, NULL::bigint, NULL::uuid, 0, NULL::uuid[], NULL::boolean, NULL::uuid, NULL::boolean, NULL::text
FROM page AS m ORDER BY m.conversation_id, m.seq
