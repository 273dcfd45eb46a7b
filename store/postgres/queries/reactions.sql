-- Queries on reactions. What a message shows of them is written with the message: update_reactions in messages.sql.

-- name: list_reactors
-- members_pkey, reactions_pkey, messages_pkey, conversations_pkey; users_pkey; blocks_pkey in direct ones. Those of these users who are members, and what each has put under the message;
-- how many seconds ago the message was changed last, NULL if never.
SELECT m.user_id,
       CASE WHEN m.muted_until > clock_timestamp()
            THEN (extract(epoch FROM least(m.muted_until, '9999-12-31T23:59:59.999Z')) * 1000)::bigint END,
       ARRAY(SELECT r.emoji FROM reactions AS r WHERE r.user_id = m.user_id AND r.message_id = %(message_id)s),
       (SELECT extract(epoch FROM clock_timestamp() - greatest(t.changed_at, t.edited_at))::float8
        FROM messages AS t WHERE t.id = %(message_id)s),
       EXISTS (
           SELECT FROM conversations AS c
           JOIN users AS o ON o.id = CASE WHEN c.direct_low = m.user_id THEN c.direct_high ELSE c.direct_low END
           WHERE c.id = m.conversation_id AND c.kind = 'Direct' AND (
               o.banned_until > clock_timestamp()
               OR EXISTS (SELECT FROM blocks AS b WHERE b.user_id = o.id AND b.blocked_id = m.user_id)
           )
       ),
       (SELECT (extract(epoch FROM u.banned_until) * 1000)::bigint
        FROM users AS u WHERE u.id = m.user_id AND u.banned_until > clock_timestamp())
FROM members AS m WHERE m.conversation_id = %(conversation_id)s AND m.user_id = ANY(%(user_ids)s::uuid[])

-- name: list_reactions_of_user
-- reactions_pkey. What one user has put under the message.
SELECT emoji FROM reactions WHERE user_id = %(user_id)s AND message_id = %(message_id)s

-- name: insert_reactions
INSERT INTO reactions (id, message_id, user_id, emoji)
SELECT i.id, %(message_id)s, i.user_id, i.emoji
FROM unnest(%(ids)s::uuid[], %(user_ids)s::uuid[], %(emojis)s::text[]) AS i (id, user_id, emoji)

-- name: delete_reactions
-- reactions_pkey.
DELETE FROM reactions AS r
USING unnest(%(user_ids)s::uuid[], %(emojis)s::text[]) AS g (user_id, emoji)
WHERE r.user_id = g.user_id AND r.message_id = %(message_id)s AND r.emoji = g.emoji

-- name: list_first_reactors
-- reactions_message: the first users of each of these kinds.
SELECT k.emoji, ARRAY(
    SELECT r.user_id FROM reactions AS r
    WHERE r.message_id = %(message_id)s AND r.emoji = k.emoji ORDER BY r.id LIMIT %(limit)s
)
FROM unnest(%(emojis)s::text[]) AS k (emoji)

-- name: list_reactions
-- reactions_message, as a range.
SELECT r.user_id, r.emoji, r.id FROM reactions AS r
WHERE r.message_id = %(message_id)s AND (r.emoji, r.id) > (%(after_emoji)s, %(after_id)s::uuid)
ORDER BY r.emoji, r.id LIMIT %(limit)s

-- name: list_reactions_with
-- reactions_message, as a range.
SELECT r.user_id, r.emoji, r.id FROM reactions AS r
WHERE r.message_id = %(message_id)s AND r.emoji = %(emoji)s AND r.id > %(after_id)s::uuid
ORDER BY r.id LIMIT %(limit)s

-- name: list_reactions_by
-- reactions_pkey as a range, messages_pkey. For the export: those under messages that are there.
SELECT m.conversation_id, r.message_id, r.emoji, r.id FROM reactions AS r
JOIN messages AS m ON m.id = r.message_id AND m.deleted_at IS NULL
WHERE r.user_id = %(user_id)s AND (r.message_id, r.emoji) > (%(after_message_id)s::uuid, %(after_emoji)s)
ORDER BY r.message_id, r.emoji LIMIT %(limit)s

-- name: lock_conversations_reacted_in
-- reactions_pkey, messages_pkey, conversations_pkey. The next messages under which a user has put something: their
-- conversations are locked in id order, before anything else.
SELECT c.id FROM conversations AS c WHERE c.id IN (
    SELECT m.conversation_id FROM messages AS m WHERE m.id IN (
        SELECT DISTINCT f.message_id FROM (
            SELECT r.message_id FROM reactions AS r WHERE r.user_id = %(user_id)s
            ORDER BY r.message_id LIMIT %(limit)s
        ) AS f
    )
) ORDER BY c.id FOR NO KEY UPDATE

-- name: list_reacted
-- reactions_pkey, messages_pkey. These messages, in the order of their conversations. NULL: the message is gone.
SELECT f.message_id, m.conversation_id FROM (
    SELECT DISTINCT n.message_id FROM (
        SELECT r.message_id FROM reactions AS r WHERE r.user_id = %(user_id)s
        ORDER BY r.message_id LIMIT %(limit)s
    ) AS n
) AS f
LEFT JOIN messages AS m ON m.id = f.message_id
ORDER BY m.conversation_id, f.message_id

-- name: delete_reactions_before
-- reactions_message: ids are of time.
DELETE FROM reactions WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM reactions WHERE message_id < %(bound)s ORDER BY message_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))

-- name: delete_reactions_left
-- reactions_left_pkey, reactions_message. Of one message: (how many were found, how many messages were looked at). Reactions are
-- never updated, and are added under messages only that are there: the place of a row does not change. Others may delete some at
-- the same time, so what was deleted does not say whether that was all.
WITH picked AS MATERIALIZED (
    SELECT message_id FROM reactions_left ORDER BY message_id LIMIT 1 FOR UPDATE SKIP LOCKED
), found AS MATERIALIZED (
    SELECT r.ctid FROM reactions AS r JOIN picked AS p ON p.message_id = r.message_id LIMIT %(limit)s
), gone AS (
    DELETE FROM reactions WHERE ctid = ANY(ARRAY(SELECT ctid FROM found))
), done AS (
    DELETE FROM reactions_left AS l USING picked AS p
    WHERE l.message_id = p.message_id AND (SELECT count(*) FROM found) < %(limit)s
)
SELECT (SELECT count(*) FROM found), (SELECT count(*) FROM picked)
