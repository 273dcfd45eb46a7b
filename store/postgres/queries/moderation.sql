-- Roles of users, and bans.

-- fragment: ban
CASE WHEN u.banned_until > clock_timestamp() THEN (extract(epoch FROM u.banned_until) * 1000)::bigint END

-- name: fetch_role
-- users_pkey. Who is banned, or gone, has none.
SELECT u.role FROM users AS u
WHERE u.id = %(id)s AND u.deleted_at IS NULL AND (u.banned_until IS NULL OR u.banned_until <= clock_timestamp())

-- name: fetch_ban
-- users_pkey.
SELECT {ban} FROM users AS u WHERE u.id = %(id)s

-- name: list_bans_of_present
-- users_pkey.
SELECT u.id, {ban} FROM users AS u WHERE u.id = ANY(%(ids)s::uuid[]) AND u.deleted_at IS NULL

-- name: list_openings
-- users_pkey, privacy_pkey, blocks_pkey and blocks_blocked; members_user where memberships are wanted.
SELECT u.id, {ban}, p.version, p.read_receipts, p.typing, p.last_seen,
       u.blocks_version > 0 OR EXISTS (SELECT FROM blocks AS b WHERE b.user_id = u.id)
           OR EXISTS (SELECT FROM blocks AS b WHERE b.blocked_id = u.id),
       (SELECT string_agg(uuid_send(m.conversation_id), ''::bytea ORDER BY m.conversation_id)
        FROM members AS m WHERE k.attaches AND m.user_id = u.id AND m.conversation_id <> ALL({dissolved}))
FROM unnest(%(ids)s::uuid[], %(attach)s::boolean[]) AS k (user_id, attaches)
JOIN users AS u ON u.id = k.user_id
LEFT JOIN privacy AS p ON p.user_id = u.id
WHERE u.deleted_at IS NULL

-- name: list_banned
-- users_pkey.
SELECT id FROM users WHERE id = ANY(%(ids)s::uuid[]) AND banned_until > clock_timestamp()

-- name: fetch_user_standing
-- users_pkey.
SELECT u.id, u.role, {ban} FROM users AS u WHERE u.id = %(id)s AND u.deleted_at IS NULL

-- name: lock_user_standing
-- users_pkey. NO KEY: foreign keys pointing here do not wait for it.
SELECT u.id, u.role, {ban} FROM users AS u WHERE u.id = %(id)s AND u.deleted_at IS NULL FOR NO KEY UPDATE

-- name: update_user_role
-- users_pkey.
UPDATE users AS u SET role = %(role)s WHERE u.id = %(id)s RETURNING u.id, u.role, {ban}

-- name: update_ban
-- users_pkey.
UPDATE users AS u SET banned_until = %(until)s WHERE u.id = %(id)s RETURNING u.id, u.role, {ban}

-- name: revoke_sessions_of
-- sessions_user, sessions_pkey. So many at once.
UPDATE sessions SET revoked_at = clock_timestamp() WHERE revoked_at IS NULL AND id = ANY(ARRAY(
    SELECT s.id FROM sessions AS s WHERE s.user_id = %(user_id)s AND s.revoked_at IS NULL LIMIT %(limit)s
))

-- name: has_more_sessions
-- sessions_user. Than so many that are not revoked.
SELECT EXISTS (SELECT FROM sessions WHERE user_id = %(user_id)s AND revoked_at IS NULL OFFSET %(count)s)
