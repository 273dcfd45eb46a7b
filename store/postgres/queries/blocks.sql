-- Queries on who has blocked whom.

-- name: lock_direct
-- conversations_direct, members_pkey. The direct conversation of two users, and then its members.
WITH direct AS MATERIALIZED (
    SELECT c.id FROM conversations AS c
    WHERE c.kind = 'Direct' AND c.deleted_at IS NULL AND c.direct_low = least(%(user_id)s::uuid, %(other_id)s::uuid)
        AND c.direct_high = greatest(%(user_id)s::uuid, %(other_id)s::uuid)
    FOR NO KEY UPDATE
)
SELECT FROM members AS m JOIN direct AS d ON d.id = m.conversation_id ORDER BY m.user_id FOR NO KEY UPDATE OF m

-- name: update_shown_reads
-- conversations_direct, members_pkey, blocks_pkey. While one of the two has blocked the other, each sees the other's read receipt
-- where it was.
UPDATE members AS m SET shown_read_seq = CASE WHEN b.is_there THEN coalesce(m.shown_read_seq, m.read_seq) END
FROM conversations AS c, (
    SELECT EXISTS (
        SELECT FROM blocks AS b
        WHERE (b.user_id, b.blocked_id) IN ((%(user_id)s, %(other_id)s), (%(other_id)s, %(user_id)s))
    ) AS is_there
) AS b
WHERE c.kind = 'Direct' AND c.deleted_at IS NULL AND c.direct_low = least(%(user_id)s::uuid, %(other_id)s::uuid)
    AND c.direct_high = greatest(%(user_id)s::uuid, %(other_id)s::uuid)
    AND m.conversation_id = c.id AND (m.shown_read_seq IS NOT NULL) <> b.is_there

-- name: lock_blocker
-- users_pkey. One change of a user's blocks at a time, so that they are counted exactly.
SELECT id FROM users WHERE id = %(user_id)s AND deleted_at IS NULL FOR NO KEY UPDATE

-- name: insert_block
-- users_pkey, blocks_pkey. Nothing where it is there, or there is no such user. The user who is blocked is locked against being
-- erased meanwhile.
WITH made AS (
    INSERT INTO blocks (user_id, blocked_id, version)
    SELECT %(user_id)s, u.id, nextval('settings_versions') FROM users AS u
    WHERE u.id = %(blocked_id)s AND u.deleted_at IS NULL FOR KEY SHARE
    ON CONFLICT DO NOTHING
    RETURNING version
)
UPDATE users AS u SET blocks_version = m.version FROM made AS m WHERE u.id = %(user_id)s RETURNING m.version

-- name: fetch_block
-- blocks_pkey.
SELECT version FROM blocks WHERE user_id = %(user_id)s AND blocked_id = %(blocked_id)s

-- name: delete_block
-- users_pkey, blocks_pkey.
WITH gone AS (
    DELETE FROM blocks WHERE user_id = %(user_id)s AND blocked_id = %(blocked_id)s
    RETURNING nextval('settings_versions') AS version
)
UPDATE users AS u SET blocks_version = g.version FROM gone AS g WHERE u.id = %(user_id)s RETURNING g.version

-- name: count_blocks
-- blocks_pkey, as a range.
SELECT count(*) FROM blocks WHERE user_id = %(user_id)s

-- name: list_blocks
-- blocks_pkey, as a range.
SELECT b.blocked_id, (extract(epoch FROM b.created_at) * 1000)::bigint FROM blocks AS b
WHERE b.user_id = %(user_id)s AND b.blocked_id > %(after)s ORDER BY b.blocked_id LIMIT %(limit)s

-- name: list_blocks_around
-- blocks_pkey and blocks_blocked, a range of each for each user, and users_pkey. What these users have blocked, and who has blocked
-- them; without another user the version of the last change of a user's own list.
SELECT k.user_id, b.blocked_id, true, b.version
FROM unnest(%(user_ids)s::uuid[]) AS k (user_id)
CROSS JOIN LATERAL (SELECT * FROM blocks AS b WHERE b.user_id = k.user_id LIMIT %(limit)s) AS b
UNION ALL
SELECT k.user_id, b.user_id, false, b.version
FROM unnest(%(user_ids)s::uuid[]) AS k (user_id)
CROSS JOIN LATERAL (SELECT * FROM blocks AS b WHERE b.blocked_id = k.user_id LIMIT %(limit)s) AS b
UNION ALL
SELECT u.id, NULL, true, u.blocks_version FROM users AS u WHERE u.id = ANY(%(user_ids)s::uuid[]) AND u.blocks_version > 0

-- name: list_hidden
-- blocks_pkey, twice for each of these users: those who have blocked the viewer, or whom the viewer has.
SELECT k.user_id FROM unnest(%(user_ids)s::uuid[]) AS k (user_id)
WHERE EXISTS (SELECT FROM blocks AS b WHERE b.user_id = k.user_id AND b.blocked_id = %(viewer_id)s)
    OR EXISTS (SELECT FROM blocks AS b WHERE b.user_id = %(viewer_id)s AND b.blocked_id = k.user_id)

-- name: list_shared
-- members_user of one of them, members_pkey, conversations_pkey. The conversations in which they hear of each other's presence.
SELECT m.conversation_id FROM members AS m
JOIN members AS o ON o.conversation_id = m.conversation_id AND o.user_id = %(other_id)s
JOIN conversations AS c ON c.id = m.conversation_id AND c.member_count <= %(most)s AND c.deleted_at IS NULL
WHERE m.user_id = %(user_id)s LIMIT %(limit)s

-- name: list_unavailable
-- users_pkey, blocks_pkey, for each of these users. Those to whom this one may not come: they have blocked them, or are
-- banned. One query for both reasons, so that neither shows in how long it takes.
SELECT u.id FROM users AS u
WHERE u.id = ANY(%(user_ids)s::uuid[]) AND u.id <> %(user_id)s AND (
    coalesce(u.banned_until > clock_timestamp(), false)
    OR EXISTS (SELECT FROM blocks AS b WHERE b.user_id = u.id AND b.blocked_id = %(user_id)s)
)

-- name: fetch_partner
-- conversations_pkey. The other user of a direct conversation, whether they are still in it or not.
SELECT CASE WHEN c.direct_low = %(user_id)s THEN c.direct_high ELSE c.direct_low END FROM conversations AS c
WHERE c.id = %(conversation_id)s AND c.kind = 'Direct'

-- name: delete_blocks_of
-- blocks_pkey and blocks_blocked: those of a user, and those of others against them.
WITH mine AS MATERIALIZED (
    (SELECT ctid FROM blocks WHERE user_id = %(user_id)s LIMIT %(limit)s)
    UNION ALL
    (SELECT ctid FROM blocks WHERE blocked_id = %(user_id)s LIMIT %(limit)s)
), gone AS (
    DELETE FROM blocks WHERE ctid = ANY(ARRAY(SELECT ctid FROM mine))
)
SELECT FROM mine
