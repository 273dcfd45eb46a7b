-- Queries on mentions. The id of no user stands for all members (0018).

-- name: list_strangers
-- members_pkey.
SELECT k.user_id FROM unnest(%(user_ids)s::uuid[]) AS k (user_id)
LEFT JOIN members AS m ON m.conversation_id = %(conversation_id)s AND m.user_id = k.user_id
WHERE m.user_id IS NULL

-- name: replace_mentions
-- messages_pkey, mentions_message, mentions_pkey. The conversation is locked.
WITH shown AS (
    UPDATE messages SET mentions = nullif(%(mentions)s::uuid[], '{}'), mention_all = nullif(%(mention_all)s, false)
    WHERE id = %(id)s RETURNING id, conversation_id, seq, sender_id
), gone AS (
    DELETE FROM mentions WHERE message_id = %(id)s AND user_id <> ALL(%(user_ids)s::uuid[])
)
INSERT INTO mentions (user_id, conversation_id, seq, message_id, sender_id)
SELECT k.user_id, s.conversation_id, s.seq, s.id, s.sender_id
FROM shown AS s CROSS JOIN unnest(%(user_ids)s::uuid[]) AS k (user_id)
ON CONFLICT (user_id, conversation_id, seq) DO NOTHING

-- fragment: named
-- mentions_listed, backwards: of viewer v in their conversation, below a message. What was written before they joined mentions them
-- no more. An id says when it was made, some time before the change that numbers it was written: without that bound all
-- that is older than the membership would be read, for each page.
SELECT n.message_id FROM mentions AS n
WHERE n.user_id = v.user_id AND n.conversation_id = v.conversation_id AND n.message_id < %(before)s
    AND n.message_id > uuid7_floor(v.joined_at - interval '1 hour') AND n.seq > v.joined_seq
ORDER BY n.message_id DESC

-- fragment: all_named
-- Likewise, of what mentions all.
SELECT n.message_id FROM mentions AS n
WHERE n.user_id = '00000000-0000-0000-0000-000000000000'
    AND n.conversation_id = v.conversation_id AND n.message_id < %(before)s
    AND n.message_id > uuid7_floor(v.joined_at - interval '1 hour') AND n.seq > v.joined_seq
    AND n.sender_id <> v.user_id
ORDER BY n.message_id DESC

-- name: list_mentions
-- members_user, mentions_listed twice for each membership, for its newest; twice more, and as far as the page goes, for each of as
-- many as the page has messages: those whose newest are the newest, as all of the page is in these; messages_pkey.
WITH busiest AS MATERIALIZED (
    SELECT v.* FROM members AS v
    CROSS JOIN LATERAL (
        SELECT found.message_id FROM (({named} LIMIT 1) UNION ALL ({all_named} LIMIT 1)) AS found
        ORDER BY found.message_id DESC LIMIT 1
    ) AS newest
    WHERE v.user_id = %(user_id)s AND v.conversation_id <> ALL({dissolved})
    ORDER BY newest.message_id DESC LIMIT %(limit)s
), found AS MATERIALIZED (
    SELECT n.message_id FROM busiest AS v
    CROSS JOIN LATERAL (({named} LIMIT %(limit)s) UNION ALL ({all_named} LIMIT %(limit)s)) AS n
    ORDER BY n.message_id DESC LIMIT %(limit)s
)
SELECT f.message_id, octet_length(m.body) FROM found AS f LEFT JOIN messages AS m ON m.id = f.message_id
ORDER BY f.message_id DESC

-- name: delete_old_mentions
-- mentions_message: ids are of time.
DELETE FROM mentions WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM mentions WHERE message_id < %(bound)s ORDER BY message_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))

-- name: forget_mentions
-- mentions_message, messages_pkey. Code of before deletes messages and leaves their mentions. Of the next ones after an id,
-- returns the last, NULL at the end.
WITH looked_at AS MATERIALIZED (
    SELECT n.message_id FROM mentions AS n
    WHERE n.message_id > greatest(%(after)s, uuid7_floor(now() - make_interval(days => %(days)s)))
    ORDER BY n.message_id LIMIT %(limit)s
), gone AS (
    DELETE FROM mentions AS n USING messages AS m
    WHERE m.id IN (SELECT message_id FROM looked_at) AND m.deleted_at IS NOT NULL AND n.message_id = m.id
)
SELECT message_id FROM looked_at ORDER BY message_id DESC LIMIT 1
