-- Queries on the ids by which an application knows its users.

-- name: fetch_external_id
-- external_ids_pkey.
SELECT user_id, external_id IS NULL FROM external_ids WHERE hash = %(hash)s

-- name: claim_external_id
-- external_ids_pkey decides between two at once: the second waits for the first. Its user is written afterwards.
INSERT INTO external_ids (hash, external_id, user_id) VALUES (%(hash)s, %(external_id)s, %(user_id)s)
ON CONFLICT (hash) DO NOTHING RETURNING user_id

-- name: reclaim_external_id
-- external_ids_pkey. Of a user who was erased.
UPDATE external_ids SET external_id = %(external_id)s, user_id = %(user_id)s
WHERE hash = %(hash)s AND external_id IS NULL RETURNING user_id
