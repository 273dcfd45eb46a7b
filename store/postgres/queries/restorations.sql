-- Restorations: what `parley restored` has done.

-- name: fetch_restoration
-- The last one. A few rows.
SELECT generation, finished_at IS NOT NULL, conversations, finished_at,
       (system, database, relation, timeline) = (%(system)s, %(database)s, %(relation)s, %(timeline)s)
FROM restorations ORDER BY generation DESC LIMIT 1

-- name: insert_restoration
INSERT INTO restorations (generation, system, database, relation, timeline)
VALUES (%(generation)s, %(system)s, %(database)s, %(relation)s, %(timeline)s)

-- name: lift_heads
-- conversations_pkey, as a range. Locked in the order in which the lanes lock them. The head and the retention watermark
-- go up together: no cursor from before can be continued, one at the new head can.
WITH begun AS MATERIALIZED (
    SELECT last_id FROM restorations WHERE generation = %(generation)s FOR UPDATE
), chosen AS MATERIALIZED (
    SELECT id FROM conversations WHERE id > (SELECT last_id FROM begun)
    ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE
), lifted AS (
    UPDATE conversations AS c
    SET last_seq = greatest(c.last_seq, c.floor_seq) + %(lift)s, floor_seq = greatest(c.last_seq, c.floor_seq) + %(lift)s
    FROM chosen WHERE c.id = chosen.id
)
UPDATE restorations AS r
SET last_id = coalesce((SELECT id FROM chosen ORDER BY id DESC LIMIT 1), r.last_id),
    conversations = r.conversations + (SELECT count(*) FROM chosen)
WHERE r.generation = %(generation)s
RETURNING (SELECT count(*) FROM chosen)

-- name: finish_restoration
UPDATE restorations SET finished_at = clock_timestamp() WHERE generation = %(generation)s RETURNING conversations

-- name: count_conversations
-- As the planner knows it: an estimate.
SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'conversations'::regclass
