-- The transactional outbox.

-- name: insert_outbox
INSERT INTO outbox (conversation_id, seq, conversation_ids, seqs)
VALUES (%(conversation_id)s, %(seq)s, %(conversation_ids)s::uuid[], %(seqs)s::bigint[])

-- name: delete_outbox
-- outbox_pkey.
DELETE FROM outbox AS o USING unnest(%(conversation_ids)s::uuid[], %(seqs)s::bigint[]) AS k (conversation_id, seq)
WHERE o.conversation_id = k.conversation_id AND o.seq = k.seq

-- name: list_stale_outbox
-- A scan: the table holds what is on its way, a few rows. Rows that another relay has taken are passed over.
SELECT conversation_id, seq, conversation_ids, seqs FROM outbox
WHERE created_at < clock_timestamp() - make_interval(secs => %(age)s)
ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
