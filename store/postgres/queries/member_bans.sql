-- Queries on who may not come into a conversation again.

-- name: put_member_ban
-- member_bans_pkey.
INSERT INTO member_bans (conversation_id, user_id, until, created_by)
VALUES (%(conversation_id)s, %(user_id)s, %(until)s, %(created_by)s)
ON CONFLICT (conversation_id, user_id) DO UPDATE
SET until = excluded.until, created_by = excluded.created_by, created_at = clock_timestamp()

-- name: delete_member_ban
-- member_bans_pkey.
DELETE FROM member_bans WHERE conversation_id = %(conversation_id)s AND user_id = %(user_id)s RETURNING user_id

-- name: fetch_member_ban
-- member_bans_pkey.
SELECT (extract(epoch FROM until) * 1000)::bigint FROM member_bans
WHERE conversation_id = %(conversation_id)s AND user_id = %(user_id)s AND until > clock_timestamp()

-- name: list_member_bans
-- member_bans_pkey, as a range.
SELECT user_id, (extract(epoch FROM until) * 1000)::bigint, created_by, (extract(epoch FROM created_at) * 1000)::bigint
FROM member_bans WHERE conversation_id = %(conversation_id)s AND user_id > %(after)s AND until > clock_timestamp()
ORDER BY user_id LIMIT %(limit)s

-- name: delete_member_bans_of
-- member_bans_user.
WITH mine AS MATERIALIZED (
    SELECT conversation_id, user_id FROM member_bans WHERE user_id = %(user_id)s LIMIT %(limit)s
), gone AS (
    DELETE FROM member_bans WHERE (conversation_id, user_id) IN (SELECT conversation_id, user_id FROM mine)
)
SELECT FROM mine

-- name: delete_old_member_bans
-- A scan, and conversations_pkey: those that are over, and those of groups that were dissolved. One that is being replaced is left.
DELETE FROM member_bans WHERE ctid = ANY(ARRAY(
    SELECT b.ctid FROM member_bans AS b JOIN conversations AS c ON c.id = b.conversation_id
    WHERE b.until <= clock_timestamp() OR c.deleted_at IS NOT NULL
    LIMIT %(limit)s FOR UPDATE OF b SKIP LOCKED
))
