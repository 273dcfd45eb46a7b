-- System messages.

-- name: insert_system_messages
-- conversations_pkey; the rows are locked by the caller.
WITH input AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(conversation_ids)s::uuid[], %(bodies)s::text[])
        AS i (id, conversation_id, body)
), advanced AS (
    UPDATE conversations AS c SET last_seq = c.last_seq + 1, last_message_id = i.id
    FROM input AS i JOIN conversations AS before ON before.id = i.conversation_id WHERE c.id = i.conversation_id
    RETURNING i.id, c.id AS conversation_id, c.last_seq AS seq, i.body, before.last_message_id AS previous
), written AS (
    INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body)
    SELECT id, conversation_id, seq, seq, %(sender_id)s, 'System', body FROM advanced
)
SELECT id, seq, previous FROM advanced
