-- Receipts: the two cursors of a member.

-- name: write_receipts
-- members_pkey, conversations_pkey, privacy_pkey. Locked in the order in which the lanes lock senders. Only rises, never past the head;
-- what was read was delivered.
WITH input AS MATERIALIZED (
    SELECT conversation_id, user_id, max(delivered) AS delivered, max(read) AS read
    FROM unnest(%(conversation_ids)s::uuid[], %(user_ids)s::uuid[], %(delivered)s::bigint[], %(read)s::bigint[])
        AS i (conversation_id, user_id, delivered, read)
    GROUP BY conversation_id, user_id
), locked AS MATERIALIZED (
    SELECT m.conversation_id, m.user_id, m.delivered_seq, m.read_seq, c.last_seq,
           least(greatest(i.delivered, i.read), c.last_seq) AS delivered, least(i.read, c.last_seq) AS read
    FROM input AS i
    JOIN members AS m ON m.conversation_id = i.conversation_id AND m.user_id = i.user_id
    JOIN conversations AS c ON c.id = i.conversation_id AND c.deleted_at IS NULL
    ORDER BY m.conversation_id, m.user_id FOR NO KEY UPDATE OF m
)
UPDATE members AS m
SET delivered_seq = greatest(m.delivered_seq, l.delivered), read_seq = greatest(m.read_seq, l.read),
    -- The head is that of the statement's snapshot: what came since was committed after the transaction began.
    caught_up_at = CASE WHEN greatest(m.read_seq, l.read) >= l.last_seq THEN now() ELSE m.caught_up_at END
FROM locked AS l
WHERE m.conversation_id = l.conversation_id AND m.user_id = l.user_id
  AND (l.delivered > m.delivered_seq OR l.read > m.read_seq)
RETURNING m.conversation_id, m.user_id, l.delivered_seq, l.read_seq, m.delivered_seq, m.read_seq,
    m.shown_read_seq IS NOT NULL
        OR coalesce((SELECT NOT p.read_receipts FROM privacy AS p WHERE p.user_id = m.user_id), false)

-- name: lock_heads
-- conversations_pkey, in id order.
SELECT FROM conversations WHERE id = ANY(%(ids)s::uuid[]) ORDER BY id FOR NO KEY UPDATE

-- name: lower_receipts
-- members_pkey, a range for each conversation. The conversations are locked. Members in the order in which lanes lock them.
WITH above AS MATERIALIZED (
    SELECT m.conversation_id, m.user_id, c.last_seq
    FROM members AS m JOIN conversations AS c ON c.id = m.conversation_id
    WHERE c.id = ANY(%(ids)s::uuid[]) AND greatest(m.joined_seq, m.delivered_seq, m.read_seq) > c.last_seq
    ORDER BY m.conversation_id, m.user_id FOR NO KEY UPDATE OF m
)
UPDATE members AS m
SET joined_seq = least(m.joined_seq, a.last_seq), delivered_seq = least(m.delivered_seq, a.last_seq),
    read_seq = least(m.read_seq, a.last_seq),
    shown_read_seq = CASE WHEN m.shown_read_seq IS NOT NULL THEN least(m.shown_read_seq, a.last_seq) END
FROM above AS a WHERE m.conversation_id = a.conversation_id AND m.user_id = a.user_id

-- name: list_receipts
-- members_pkey, as a range, privacy_pkey. Who joined later has not got it, although its cursors begin above it.
SELECT m.user_id, m.read_seq >= %(seq)s AND (m.user_id = %(viewer_id)s::uuid OR (
    coalesce(m.shown_read_seq, m.read_seq) >= %(seq)s AND NOT EXISTS (
        SELECT FROM privacy AS p WHERE p.user_id IN (m.user_id, %(viewer_id)s::uuid) AND NOT p.read_receipts
    )
))
FROM members AS m
WHERE m.conversation_id = %(conversation_id)s AND m.user_id > %(after)s AND m.user_id <> %(sender_id)s
  AND m.delivered_seq >= %(seq)s AND m.joined_seq < %(seq)s
ORDER BY m.user_id LIMIT %(limit)s
