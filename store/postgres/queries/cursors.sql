-- Queries on how far somebody has got in a conversation: the head, and whether a cursor is of this history.

-- fragment: changed_ms
-- As `changed` in messages.sql.
(extract(epoch FROM greatest(m.changed_at, m.edited_at, m.deleted_at)) * 1000)::bigint

-- fragment: last_change
LEFT JOIN LATERAL (
    SELECT m.id, {changed_ms} AS changed_ms FROM messages AS m WHERE m.id = c.last_message_id AND m.changed_seq = c.last_seq LIMIT 1
) AS made ON true
LEFT JOIN LATERAL (
    SELECT m.id, {changed_ms} AS changed_ms FROM messages AS m
    WHERE made.id IS NULL
        AND m.conversation_id = c.id AND m.changed_seq = c.last_seq AND m.changed_seq > m.seq LIMIT 1
) AS changed ON true

-- fragment: packed_position
-- As store.positions reads it: octets that are all zero where there is nothing.
uuid_send(c.id) || int8send(c.last_seq) || int8send(coalesce(made.changed_ms, changed.changed_ms, 0))
    || uuid_send(coalesce(made.id, changed.id, '00000000-0000-0000-0000-000000000000'))
    || uuid_send(coalesce(c.last_message_id, '00000000-0000-0000-0000-000000000000'))

-- name: list_positions
-- conversations_pkey; messages_pkey where the last message is the last change, else messages_changed_seq. The message is
-- NULL where retention has dropped it. Dissolved conversations included: their last change says so.
SELECT c.id, c.last_seq, coalesce(made.id, changed.id), coalesce(made.changed_ms, changed.changed_ms), c.last_message_id
FROM conversations AS c
{last_change}
WHERE c.id = ANY(%(ids)s::uuid[])

-- name: pack_positions
-- The same of thousands, packed: as far as they exist, in the order of their ids.
SELECT string_agg({packed_position}, ''::bytea ORDER BY c.id)
FROM conversations AS c
{last_change}
WHERE c.id = ANY(%(ids)s::uuid[])

-- name: pack_memberships
-- The same of the conversations of users, by members_user: who is a member, and the heads, as of one moment.
SELECT k.user_id, string_agg({packed_position}, ''::bytea ORDER BY c.id)
FROM members AS k JOIN conversations AS c ON c.id = k.conversation_id
{last_change}
WHERE k.user_id = ANY(%(user_ids)s::uuid[]) AND c.deleted_at IS NULL
GROUP BY k.user_id

-- name: list_evidence
-- conversations_pkey, and messages_pkey, one partition for each. What there is to prove a cursor by. One snapshot: a
-- message that is missing since retention has dropped it is below the watermark, which was raised before. The time of a
-- touch is negative, as in earlier_changes.
SELECT k.position, c.last_seq, c.floor_seq, m.seq, m.changed_seq,
       {changed_ms} * CASE WHEN m.changed_at > coalesce(m.deleted_at, m.edited_at, '-infinity') THEN -1 ELSE 1 END,
       m.earlier_changes
FROM unnest(%(conversation_ids)s::uuid[], %(message_ids)s::uuid[])
    WITH ORDINALITY AS k (conversation_id, message_id, position)
JOIN conversations AS c ON c.id = k.conversation_id
LEFT JOIN LATERAL (
    SELECT m.seq, m.changed_seq, m.edited_at, m.deleted_at, m.changed_at, m.earlier_changes FROM messages AS m
    WHERE m.id = k.message_id AND m.conversation_id = k.conversation_id LIMIT 1
) AS m ON true
