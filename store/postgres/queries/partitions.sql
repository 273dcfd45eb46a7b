-- Queries on the monthly partitions of messages.

-- name: ensure_partitions
SELECT ensure_message_partitions(%(now)s, %(ahead)s)

-- name: list_partitions
-- Catalogue only.
SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'messages'::regclass ORDER BY 1

-- name: list_expired_partitions
-- Catalogue only. The upper bound is the second quoted text of the partition's definition. A partition whose
-- concurrent detachment was interrupted is listed as such: it only needs to be finalised.
SELECT p.name, p.detaching, p.upper_bound::uuid
FROM (
    SELECT c.relname::text AS name, i.inhdetachpending AS detaching,
           substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([^'']+)''\)') AS upper_bound
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'messages'::regclass
) AS p
WHERE p.upper_bound::uuid <= %(bound)s::uuid
ORDER BY p.name

-- name: list_partition_sizes
-- Catalogue only.
SELECT c.relname::text, greatest(c.reltuples, 0)::bigint, pg_total_relation_size(c.oid)
FROM pg_class AS c
WHERE c.relname = ANY(%(names)s::text[])
    AND c.relnamespace = (SELECT m.relnamespace FROM pg_class AS m WHERE m.oid = 'messages'::regclass)
ORDER BY c.relname

-- name: list_detached_partitions
-- Catalogue only. Partitions that were detached and not dropped, because the process ended in between; by their names,
-- since a table alone has no bounds.
SELECT c.relname::text FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relname ~ '^messages_y\d\d\d\dm\d\d$'
    AND c.relnamespace = (SELECT m.relnamespace FROM pg_class AS m WHERE m.oid = 'messages'::regclass)
    AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = c.oid)
    AND (to_date(substr(c.relname, 11), 'YYYY"m"MM') + interval '1 month') AT TIME ZONE 'UTC' <= %(before)s
ORDER BY c.relname

-- name: raise_watermarks
-- messages_seq and messages_changed_seq of the partitions below the bound; conversations_pkey. Three look-ups for each
-- conversation, however many messages it has there: the next one, its last message, and its last change. Each call locks few
-- conversations, in id order. Returns the last of them; NULL when there are no more.
WITH RECURSIVE chosen (conversation_id, number) AS (
    (
        SELECT m.conversation_id, 1 FROM messages AS m WHERE m.id < %(bound)s AND m.conversation_id > %(after)s
        ORDER BY m.conversation_id LIMIT 1
    )
    UNION ALL
    SELECT next.conversation_id, c.number + 1 FROM chosen AS c CROSS JOIN LATERAL (
        SELECT m.conversation_id FROM messages AS m WHERE m.id < %(bound)s AND m.conversation_id > c.conversation_id
        ORDER BY m.conversation_id LIMIT 1
    ) AS next WHERE c.number < %(limit)s
), dropped AS MATERIALIZED (
    SELECT c.conversation_id, greatest((
        SELECT m.seq FROM messages AS m WHERE m.id < %(bound)s AND m.conversation_id = c.conversation_id
        ORDER BY m.seq DESC LIMIT 1
    ), (
        SELECT m.changed_seq FROM messages AS m
        WHERE m.id < %(bound)s AND m.conversation_id = c.conversation_id AND m.changed_seq > m.seq
        ORDER BY m.changed_seq DESC LIMIT 1
    )) AS seq FROM chosen AS c
), locked AS MATERIALIZED (
    SELECT c.id FROM conversations AS c JOIN dropped AS d ON d.conversation_id = c.id
    ORDER BY c.id FOR NO KEY UPDATE OF c
), raised AS (
    UPDATE conversations AS c SET floor_seq = greatest(c.floor_seq, d.seq)
    FROM locked AS l JOIN dropped AS d ON d.conversation_id = l.id WHERE c.id = l.id
)
SELECT (SELECT conversation_id FROM dropped ORDER BY conversation_id DESC LIMIT 1)

-- name: list_without_thread_index
-- Catalogue only. Partitions whose index of replies is no part of messages_thread; and that index, if there is one.
SELECT p.relname::text, x.relname::text, coalesce(d.indisvalid, false)
FROM pg_inherits AS i JOIN pg_class AS p ON p.oid = i.inhrelid
LEFT JOIN pg_class AS x ON x.relname = p.relname || '_thread' AND x.relnamespace = p.relnamespace
LEFT JOIN pg_index AS d ON d.indexrelid = x.oid
WHERE i.inhparent = 'messages'::regclass AND NOT i.inhdetachpending
    AND NOT EXISTS (
        SELECT FROM pg_inherits AS a JOIN pg_index AS c ON c.indexrelid = a.inhrelid
        WHERE a.inhparent = 'messages_thread'::regclass AND c.indrelid = p.oid
    )
ORDER BY p.relname
