-- Queries on what users hide.

-- name: list_privacy
-- privacy_pkey. Those who have chosen something.
SELECT user_id, read_receipts, typing, last_seen, version FROM privacy WHERE user_id = ANY(%(user_ids)s::uuid[])

-- name: update_privacy
-- users_pkey, privacy_pkey. What is NULL stays as it is. The user is locked against being erased meanwhile. The version is above
-- the one before, and above all that were drawn when a timeline began (lift_versions).
INSERT INTO privacy AS p (user_id, read_receipts, typing, last_seen, version)
SELECT u.id, coalesce(%(read_receipts)s::boolean, true), coalesce(%(typing)s::boolean, true),
       coalesce(%(last_seen)s::boolean, true), nextval('settings_versions')
FROM users AS u WHERE u.id = %(user_id)s AND u.deleted_at IS NULL FOR KEY SHARE
ON CONFLICT (user_id) DO UPDATE SET read_receipts = coalesce(%(read_receipts)s::boolean, p.read_receipts),
    typing = coalesce(%(typing)s::boolean, p.typing), last_seen = coalesce(%(last_seen)s::boolean, p.last_seen),
    version = greatest(p.version + 1, EXCLUDED.version)
RETURNING read_receipts, typing, last_seen, version

-- name: delete_privacy_of
-- privacy_pkey.
DELETE FROM privacy WHERE user_id = %(user_id)s
