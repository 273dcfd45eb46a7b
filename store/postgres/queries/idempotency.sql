-- What was made by requests with an Idempotency-Key.

-- name: claim_creation
-- creations_pkey. Another transaction that is making it is waited for.
INSERT INTO creations (scope, key, fingerprint, resource_id)
VALUES (%(scope)s, %(key)s, %(fingerprint)s, %(resource_id)s) ON CONFLICT DO NOTHING

-- name: fetch_creation
-- creations_pkey.
SELECT fingerprint, resource_id FROM creations WHERE scope = %(scope)s AND key = %(key)s

-- name: release_creation
-- creations_pkey.
DELETE FROM creations WHERE scope = %(scope)s AND key = %(key)s AND fingerprint = %(fingerprint)s

-- name: delete_creations_of
-- creations_pkey, as a range.
WITH mine AS MATERIALIZED (
    SELECT ctid FROM creations WHERE scope = %(user_id)s LIMIT %(limit)s
), gone AS (
    DELETE FROM creations WHERE ctid = ANY(ARRAY(SELECT ctid FROM mine))
)
SELECT FROM mine

-- name: delete_old_creations
-- creations_age.
DELETE FROM creations WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM creations WHERE created_at < %(before)s ORDER BY created_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
