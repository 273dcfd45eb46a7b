-- Queries on API keys.

-- fragment: api_key
k.id, k.name, k.scopes, k.user_id, (extract(epoch FROM k.expires_at) * 1000)::bigint,
(extract(epoch FROM k.last_used_at) * 1000)::bigint, (extract(epoch FROM k.revoked_at) * 1000)::bigint,
(extract(epoch FROM k.previous_until) * 1000)::bigint

-- name: insert_api_key
-- api_keys_name decides between two of one name.
INSERT INTO api_keys AS k (id, name, scopes, user_id, secret_hash, expires_at)
VALUES (
    %(id)s, %(name)s, %(scopes)s::text[], %(user_id)s, %(secret_hash)s,
    clock_timestamp() + make_interval(secs => %(seconds)s)
) ON CONFLICT DO NOTHING RETURNING {api_key}

-- name: fetch_api_key
-- api_keys_pkey. With what is wrong with it, and whether its last use was noted lately.
SELECT {api_key},
    k.revoked_at IS NOT NULL, coalesce(k.expires_at <= clock_timestamp(), false),
    coalesce(k.last_used_at > clock_timestamp() - make_interval(secs => %(noted_for)s), false)
FROM api_keys AS k
WHERE k.id = %(id)s AND (
    k.secret_hash = %(secret_hash)s OR (k.previous_hash = %(secret_hash)s AND k.previous_until > clock_timestamp())
)

-- name: find_api_key
-- api_keys_pkey, api_keys_name. One that is not revoked.
SELECT {api_key} FROM api_keys AS k
WHERE (k.id = %(id)s::uuid OR k.name = %(name)s) AND k.revoked_at IS NULL ORDER BY k.id LIMIT 1

-- name: list_api_keys
-- api_keys_pkey, as a range. There are few.
SELECT {api_key} FROM api_keys AS k WHERE %(revoked)s OR k.revoked_at IS NULL ORDER BY k.id LIMIT %(limit)s

-- name: revoke_api_key
-- api_keys_pkey.
UPDATE api_keys AS k SET revoked_at = clock_timestamp() WHERE k.id = %(id)s AND k.revoked_at IS NULL RETURNING {api_key}

-- name: rotate_api_key
-- api_keys_pkey. A secret from before the last rotation is good for nothing any more.
UPDATE api_keys AS k SET secret_hash = %(secret_hash)s, previous_hash = k.secret_hash,
    previous_until = clock_timestamp() + make_interval(secs => %(keep)s)
WHERE k.id = %(id)s AND k.revoked_at IS NULL RETURNING {api_key}

-- name: delete_old_api_keys
-- A scan: there are few.
DELETE FROM api_keys WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM api_keys WHERE least(revoked_at, expires_at) < %(before)s LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))

-- name: note_api_keys
-- api_keys_pkey. Locked in id order, as several instances note them; once in a while each.
WITH used AS MATERIALIZED (
    SELECT id FROM api_keys
    WHERE id = ANY(%(ids)s::uuid[])
        AND coalesce(last_used_at <= clock_timestamp() - make_interval(secs => %(noted_for)s), true)
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE api_keys AS k SET last_used_at = clock_timestamp() FROM used WHERE k.id = used.id
