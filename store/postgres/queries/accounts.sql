-- Queries on sign-in: identities of providers, and sessions with their refresh tokens.

-- fragment: session
s.id, s.user_id, s.client, s.address, (extract(epoch FROM s.created_at) * 1000)::bigint,
(extract(epoch FROM s.last_used_at) * 1000)::bigint, (extract(epoch FROM s.expires_at) * 1000)::bigint

-- fragment: live
s.revoked_at IS NULL AND s.expires_at > clock_timestamp()

-- name: fetch_identity
-- identities_pkey.
SELECT user_id FROM identities WHERE provider = %(provider)s AND subject = %(subject)s

-- name: insert_identity
-- identities_pkey decides between two at once.
INSERT INTO identities (provider, subject, user_id) VALUES (%(provider)s, %(subject)s, %(user_id)s)
ON CONFLICT (provider, subject) DO NOTHING RETURNING user_id

-- name: insert_session
-- users_pkey. No row for a deleted user; KEY SHARE waits for, and holds off, the user's deletion (lock_user).
WITH owner AS MATERIALIZED (
    SELECT id FROM users WHERE id = %(user_id)s AND deleted_at IS NULL FOR KEY SHARE
)
INSERT INTO sessions AS s (id, user_id, token_hash, client, address, expires_at)
SELECT %(id)s, o.id, %(token_hash)s, %(client)s, %(address)s, clock_timestamp() + make_interval(secs => %(ttl)s)
FROM owner AS o RETURNING {session}

-- name: lock_session
-- sessions_pkey, users_pkey. One refresh of a session at a time.
SELECT {session}, s.token_hash, extract(epoch FROM clock_timestamp() - s.rotated_at)::float8, {live}, s.token_number
FROM sessions AS s JOIN users AS u ON u.id = s.user_id AND u.deleted_at IS NULL
WHERE s.id = %(id)s FOR UPDATE OF s

-- name: rotate_session
-- sessions_pkey.
UPDATE sessions AS s SET token_hash = %(token_hash)s, previous_hash = %(previous_hash)s, rotated_at = clock_timestamp(),
    last_used_at = clock_timestamp(), expires_at = clock_timestamp() + make_interval(secs => %(ttl)s),
    token_number = %(number)s, client = %(client)s, address = %(address)s
WHERE s.id = %(id)s RETURNING {session}

-- name: list_sessions
-- sessions_user; a user has few.
SELECT {session} FROM sessions AS s
WHERE s.user_id = %(user_id)s AND {live} AND (%(before)s::uuid IS NULL OR s.id < %(before)s)
ORDER BY s.id DESC LIMIT %(limit)s

-- name: revoke_session
-- sessions_pkey.
UPDATE sessions AS s SET revoked_at = clock_timestamp()
WHERE s.id = %(id)s AND s.user_id = %(user_id)s AND s.revoked_at IS NULL RETURNING s.id

-- name: list_ended_sessions
-- sessions_pkey. The others of these are live.
SELECT k.id FROM unnest(%(ids)s::uuid[]) AS k (id) LEFT JOIN sessions AS s ON s.id = k.id AND {live} WHERE s.id IS NULL

-- name: delete_expired_sessions
-- sessions_expiry. Revoked ones are kept until then, so that a stolen token is still known for what it is.
DELETE FROM sessions WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM sessions WHERE expires_at < statement_timestamp() ORDER BY expires_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))
