-- Queries on the terms of messages: what fills them, and what finds by them.

-- name: try_search_lock
-- Held by the session: one instance at a time fills the tables.
SELECT pg_try_advisory_lock(hashtext('parley.search'))

-- name: list_search_queue
-- message_search_queue_pkey. Their positions, the first seq of each conversation, and the age of the oldest.
WITH noted AS MATERIALIZED (
    SELECT position, conversation_ids, seqs, created_at FROM message_search_queue ORDER BY position LIMIT %(limit)s
), firsts AS (
    SELECT k.id, min(k.seq) AS seq
    FROM noted CROSS JOIN LATERAL unnest(noted.conversation_ids, noted.seqs) AS k (id, seq) GROUP BY k.id
)
SELECT (SELECT array_agg(position) FROM noted), (SELECT array_agg(id) FROM firsts), (SELECT array_agg(seq) FROM firsts),
       (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 FROM noted)

-- name: list_search_outbox
-- A scan of the outbox, message_search_positions_pkey: what is committed and still not published after `age`, as when
-- Redis is away.
SELECT k.conversation_id, k.seq, extract(epoch FROM clock_timestamp() - o.created_at)::float8
FROM outbox AS o CROSS JOIN LATERAL unnest(o.conversation_ids, o.seqs) AS k (conversation_id, seq)
LEFT JOIN message_search_positions AS p ON p.conversation_id = k.conversation_id
WHERE o.created_at < clock_timestamp() - make_interval(secs => %(age)s) AND k.seq > coalesce(p.seq, 0)
LIMIT %(limit)s

-- name: delete_search_queue
-- message_search_queue_pkey. Its commit does not wait for the disk, as that of what was brought in.
DELETE FROM message_search_queue USING set_config('synchronous_commit', 'off', true)
WHERE position = ANY(%(positions)s::bigint[])

-- name: fetch_search_age
-- message_search_queue_pkey: how long the first of those that wait has been waiting.
SELECT coalesce((
    SELECT extract(epoch FROM clock_timestamp() - created_at) FROM message_search_queue ORDER BY position LIMIT 1
), 0)::float8

-- name: list_search_heads
-- conversations_pkey, message_search_positions_pkey. A position is NULL where there is none.
SELECT c.id, c.last_seq, p.seq FROM conversations AS c
LEFT JOIN message_search_positions AS p ON p.conversation_id = c.id
WHERE c.id = ANY(%(ids)s::uuid[]) AND c.last_seq > coalesce(p.seq, 0)

-- name: list_search_changes
-- messages_changed_seq and messages_seq, as `changes` in messages.sql; files_pkey. `found` counts those of its
-- conversation: which has all of them below `limit`. Ids are octets, and conversations numbers, which costs the server less. Stops before the row that would bring the bodies (and 100 octets for
-- each) past max_bytes, but never before the first.
WITH found AS MATERIALIZED (
    SELECT k.number, m.conversation_id, m.id, m.changed_seq, m.sender_id, m.body, m.file_id,
           m.deleted_at IS NULL AND m.kind <> 'System' AS is_shown, count(*) OVER (PARTITION BY k.number) AS found
    FROM unnest(%(ids)s::uuid[], %(after)s::bigint[]) WITH ORDINALITY AS k (id, after, number)
    CROSS JOIN LATERAL (
        SELECT * FROM (
            (SELECT * FROM messages AS m
             WHERE m.conversation_id = k.id AND m.changed_seq > k.after AND m.changed_seq > m.seq
             ORDER BY m.changed_seq LIMIT %(limit)s)
            UNION ALL
            (SELECT * FROM messages AS m
             WHERE m.conversation_id = k.id AND m.seq > k.after AND m.changed_seq = m.seq
             ORDER BY m.seq LIMIT %(limit)s)
        ) AS m
        ORDER BY m.changed_seq LIMIT %(limit)s
    ) AS m
)
SELECT m.number, uuid_send(m.id), m.changed_seq, uuid_send(m.sender_id), m.body,
       m.file_id IS NOT NULL, f.name, m.is_shown, m.found, m.is_cut
FROM (
    SELECT *, sum(octet_length(body) + 100) OVER () > %(max_bytes)s AS is_cut,
           sum(octet_length(body) + 100) OVER (ORDER BY number, changed_seq) AS total,
           row_number() OVER (ORDER BY number, changed_seq) AS position
    FROM found
) AS m LEFT JOIN files AS f ON f.id = m.file_id AND f.state = 'Ready'
WHERE m.total <= %(max_bytes)s OR m.position = 1
ORDER BY m.number, m.changed_seq

-- fragment: those_in_blocks
-- message_search_blocks_pkey, once a conversation. Of those that were changed, the ones that are not behind the last block.
SELECT w.conversation_id, w.id
FROM unnest(%(conversation_ids)s::uuid[]) AS c (id)
CROSS JOIN LATERAL (
    SELECT b.last_id FROM message_search_blocks AS b WHERE b.conversation_id = c.id ORDER BY b.first_id DESC LIMIT 1
) AS newest
JOIN written AS w ON w.conversation_id = c.id AND w.id <= newest.last_id

-- name: write_search_terms
-- message_search_pkey.
WITH written AS (
    INSERT INTO message_search AS s (conversation_id, id, terms)
    SELECT c.id, i.id, i.terms::tsvector
    FROM unnest(%(numbers)s::bigint[], %(ids)s::uuid[], %(terms)s::text[]) AS i (number, id, terms)
    JOIN unnest(%(conversation_ids)s::uuid[]) WITH ORDINALITY AS c (id, number) ON c.number = i.number
    ORDER BY c.id, i.id
    ON CONFLICT (conversation_id, id) DO UPDATE SET terms = EXCLUDED.terms WHERE s.terms <> EXCLUDED.terms
    RETURNING s.conversation_id, s.id
)
{those_in_blocks}

-- name: delete_search_terms
-- message_search_pkey.
WITH written AS (
    DELETE FROM message_search AS s
    USING unnest(%(numbers)s::bigint[], %(ids)s::uuid[]) AS i (number, id)
    JOIN unnest(%(conversation_ids)s::uuid[]) WITH ORDINALITY AS c (id, number) ON c.number = i.number
    WHERE s.conversation_id = c.id AND s.id = i.id
    RETURNING s.conversation_id, s.id
)
{those_in_blocks}

-- name: widen_search_blocks
-- message_search_blocks_pkey. A message that comes late may have an id between two blocks, or before the first: the one
-- before it, or the first, is made to include it. (Behind the last block it is in none.)
WITH given AS (
    SELECT i.conversation_id, i.id, before.first_id, before.last_id, first.first_id AS oldest, last.first_id AS newest
    FROM unnest(%(conversation_ids)s::uuid[], %(ids)s::uuid[]) AS i (conversation_id, id)
    CROSS JOIN LATERAL (
        SELECT b.first_id FROM message_search_blocks AS b
        WHERE b.conversation_id = i.conversation_id ORDER BY b.first_id LIMIT 1
    ) AS first
    CROSS JOIN LATERAL (
        SELECT b.first_id FROM message_search_blocks AS b
        WHERE b.conversation_id = i.conversation_id ORDER BY b.first_id DESC LIMIT 1
    ) AS last
    LEFT JOIN LATERAL (
        SELECT b.first_id, b.last_id FROM message_search_blocks AS b
        WHERE b.conversation_id = i.conversation_id AND b.first_id <= i.id ORDER BY b.first_id DESC LIMIT 1
    ) AS before ON true
), between AS (
    SELECT DISTINCT ON (conversation_id, first_id) conversation_id, first_id, id FROM given
    WHERE last_id < id AND first_id <> newest ORDER BY conversation_id, first_id, id DESC
), earliest AS (
    SELECT DISTINCT ON (conversation_id) conversation_id, oldest, id FROM given
    WHERE first_id IS NULL ORDER BY conversation_id, id
)
UPDATE message_search_blocks AS b
SET last_id = coalesce(w.last_id, b.last_id), first_id = coalesce(w.first_id, b.first_id)
FROM (
    SELECT coalesce(o.conversation_id, e.conversation_id) AS conversation_id, coalesce(o.first_id, e.oldest) AS key,
           o.id AS last_id, e.id AS first_id
    FROM between AS o FULL JOIN earliest AS e ON e.conversation_id = o.conversation_id AND e.oldest = o.first_id
) AS w
WHERE b.conversation_id = w.conversation_id AND b.first_id = w.key

-- fragment: united
-- message_search_pkey. The terms of a block: those of its messages, and the conversation's.
array_to_tsvector(ARRAY(
    SELECT DISTINCT term FROM message_search AS s CROSS JOIN LATERAL unnest(tsvector_to_array(s.terms)) AS term
    WHERE s.conversation_id = b.conversation_id AND s.id >= b.first_id AND s.id <= b.last_id
) || ('=c' || replace(b.conversation_id::text, '-', '')))

-- name: refresh_search_blocks
-- message_search_blocks_pkey, message_search_pkey. The blocks of these messages, from what their messages are now.
WITH touched AS MATERIALIZED (
    SELECT DISTINCT b.conversation_id, b.first_id
    FROM unnest(%(conversation_ids)s::uuid[], %(ids)s::uuid[]) AS i (conversation_id, id)
    CROSS JOIN LATERAL (
        SELECT b.conversation_id, b.first_id, b.last_id FROM message_search_blocks AS b
        WHERE b.conversation_id = i.conversation_id AND b.first_id <= i.id ORDER BY b.first_id DESC LIMIT 1
    ) AS b
    WHERE b.last_id >= i.id
)
UPDATE message_search_blocks AS b SET terms = {united}
FROM touched AS t WHERE b.conversation_id = t.conversation_id AND b.first_id = t.first_id

-- name: seal_search_blocks
-- message_search_blocks_pkey, message_search_pkey. Of these conversations' messages that are in no block, the oldest
-- ones: whole blocks of `size`, while `spare` are left, as others with lower ids may be on their way.
WITH loose AS MATERIALIZED (
    SELECT i.id AS conversation_id, s.id, row_number() OVER (PARTITION BY i.id ORDER BY s.id) - 1 AS number,
           count(*) OVER (PARTITION BY i.id) AS count
    FROM unnest(%(ids)s::uuid[]) AS i (id)
    LEFT JOIN LATERAL (
        SELECT b.last_id FROM message_search_blocks AS b
        WHERE b.conversation_id = i.id ORDER BY b.first_id DESC LIMIT 1
    ) AS newest ON true
    CROSS JOIN LATERAL (
        SELECT s.id FROM message_search AS s
        WHERE s.conversation_id = i.id AND s.id > coalesce(newest.last_id, '00000000-0000-0000-0000-000000000000')
        ORDER BY s.id LIMIT %(limit)s
    ) AS s
), b AS MATERIALIZED (
    SELECT conversation_id, (array_agg(id ORDER BY id))[1] AS first_id, (array_agg(id ORDER BY id DESC))[1] AS last_id
    FROM loose WHERE count >= %(size)s::bigint + %(spare)s AND number < count - %(spare)s::bigint
    GROUP BY conversation_id, number / %(size)s::bigint HAVING count(*) = %(size)s::bigint
)
INSERT INTO message_search_blocks (conversation_id, first_id, last_id, terms)
SELECT b.conversation_id, b.first_id, b.last_id, {united} FROM b

-- name: write_search_positions
-- message_search_positions_pkey. Only up: a rebuild comes past what is there already.
INSERT INTO message_search_positions AS p (conversation_id, seq)
SELECT * FROM unnest(%(ids)s::uuid[], %(seqs)s::bigint[]) AS i (id, seq) ORDER BY i.id
ON CONFLICT (conversation_id) DO UPDATE SET seq = EXCLUDED.seq WHERE p.seq < EXCLUDED.seq

-- name: fetch_search_rebuild
-- The last one. A few rows.
SELECT number, started_at, finished_at, conversation_id, seq, messages FROM message_search_rebuilds
ORDER BY number DESC LIMIT 1

-- name: insert_search_rebuild
INSERT INTO message_search_rebuilds DEFAULT VALUES

-- name: list_search_conversations
-- conversations_pkey, as a range.
SELECT id, last_seq FROM conversations WHERE id >= %(first)s ORDER BY id LIMIT %(limit)s

-- name: update_search_rebuild
-- message_search_rebuilds_pkey.
UPDATE message_search_rebuilds SET conversation_id = %(conversation_id)s, seq = %(seq)s, messages = messages + %(messages)s,
    finished_at = CASE WHEN %(finished)s THEN clock_timestamp() END
WHERE number = %(number)s

-- name: count_messages
-- As the planner knows it: an estimate.
SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'messages'::regclass

-- name: fetch_oldest_month
-- Catalogue only: where the oldest partition of messages begins.
SELECT min(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \(''([^'']+)''\)'))::uuid
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid WHERE i.inhparent = 'messages'::regclass

-- name: list_searched_conversations
-- message_search_positions_pkey, as a range.
SELECT conversation_id FROM message_search_positions WHERE conversation_id > %(after)s
ORDER BY conversation_id LIMIT %(limit)s

-- name: forget_search_blocks
-- message_search_blocks_pkey. Of these conversations, whose messages are all dropped.
DELETE FROM message_search_blocks WHERE (conversation_id, first_id) IN (
    SELECT conversation_id, first_id FROM message_search_blocks
    WHERE conversation_id = ANY(%(ids)s::uuid[]) AND first_id < %(bound)s AND last_id < %(bound)s LIMIT %(limit)s
)

-- name: forget_search_terms
-- message_search_pkey.
DELETE FROM message_search WHERE (conversation_id, id) IN (
    SELECT conversation_id, id FROM message_search
    WHERE conversation_id = ANY(%(ids)s::uuid[]) AND id < %(bound)s LIMIT %(limit)s
)

-- fragment: mine
-- members_user: where the user is a member now.
mine AS MATERIALIZED (
    SELECT v.conversation_id AS id FROM members AS v
    WHERE v.user_id = %(user_id)s AND (%(conversation_id)s::uuid IS NULL OR v.conversation_id = %(conversation_id)s)
        AND v.conversation_id <> ALL({dissolved})
)

-- fragment: found
-- message_search_pkey, and message_search_blocks_pkey for where a conversation's last block ends. Messages of no block,
-- and of the blocks that were taken. Below `bound` there is more than was looked at. The limits inside keep the planner
-- from reading whole conversations once instead of a part of each.
SELECT bound.id, found.id FROM bound LEFT JOIN LATERAL (
    SELECT f.id FROM (
        SELECT s.id FROM mine AS c
        CROSS JOIN LATERAL (
            SELECT coalesce((
                SELECT b.last_id FROM message_search_blocks AS b
                WHERE b.conversation_id = c.id ORDER BY b.first_id DESC LIMIT 1
            ), %(after)s) AS id OFFSET 0
        ) AS newest
        CROSS JOIN LATERAL (
            SELECT s.id FROM message_search AS s
            WHERE s.conversation_id = c.id AND s.id > greatest(newest.id, %(after)s) AND s.id < %(before)s
                AND s.terms @@ %(row)s::tsquery
            ORDER BY s.id DESC LIMIT %(limit)s
        ) AS s
        UNION ALL
        SELECT s.id FROM taken AS t CROSS JOIN LATERAL (
            SELECT s.id FROM message_search AS s
            WHERE s.conversation_id = t.conversation_id AND s.id >= t.first_id AND s.id <= t.last_id
                AND s.id > %(after)s AND s.id < %(before)s AND s.terms @@ %(row)s::tsquery
            ORDER BY s.id DESC LIMIT %(limit)s
        ) AS s
    ) AS f
    WHERE bound.id IS NULL OR f.id > bound.id
    ORDER BY f.id DESC LIMIT %(limit)s
) AS found ON true

-- name: search_newest
-- message_search_blocks_pkey: the user's newest blocks, `walked` of them besides one for each conversation, looked into
-- one by one. For words that are common, and for the beginnings of words.
WITH {mine}, walked AS MATERIALIZED (
    SELECT b.*, row_number() OVER (ORDER BY b.last_id DESC) AS number FROM mine AS c
    CROSS JOIN LATERAL (
        SELECT b.conversation_id, b.first_id, b.last_id FROM message_search_blocks AS b
        WHERE b.conversation_id = c.id AND b.first_id < %(before)s AND b.last_id > %(after)s
        ORDER BY b.first_id DESC LIMIT %(walked)s + 1 + (SELECT count(*) FROM mine)
    ) AS b
    ORDER BY b.last_id DESC LIMIT %(walked)s + 1 + (SELECT count(*) FROM mine)
), hits AS MATERIALIZED (
    SELECT w.conversation_id, w.first_id, w.last_id, row_number() OVER (ORDER BY w.number) AS number
    FROM walked AS w
    JOIN message_search_blocks AS b ON b.conversation_id = w.conversation_id AND b.first_id = w.first_id
    WHERE w.number <= %(walked)s + (SELECT count(*) FROM mine) AND b.terms @@ %(block)s::tsquery
), taken AS (
    SELECT * FROM hits WHERE number <= %(taken)s + (SELECT count(*) FROM mine)
), bound AS MATERIALIZED (
    SELECT greatest(
        (SELECT last_id FROM walked WHERE number = %(walked)s + 1 + (SELECT count(*) FROM mine)),
        (SELECT last_id FROM hits WHERE number = %(taken)s + 1 + (SELECT count(*) FROM mine))
    ) AS id
)
{found}

-- name: search_index
-- message_search_blocks_terms, once for each conversation of the user: blocks that have both its term and the words.
-- For words that are rare.
WITH {mine}, hits AS MATERIALIZED (
    SELECT b.*, row_number() OVER (ORDER BY b.last_id DESC) AS number FROM mine AS c
    CROSS JOIN LATERAL (
        SELECT b.conversation_id, b.first_id, b.last_id FROM message_search_blocks AS b
        WHERE b.terms @@ (('''=c' || replace(c.id::text, '-', '') || '''')::tsquery && %(block)s::tsquery)
            AND b.first_id < %(before)s AND b.last_id > %(after)s
    ) AS b
), taken AS (
    SELECT * FROM hits WHERE number <= %(taken)s + (SELECT count(*) FROM mine)
), bound AS MATERIALIZED (
    SELECT (SELECT last_id FROM hits WHERE number = %(taken)s + 1 + (SELECT count(*) FROM mine)) AS id
)
{found}
