-- Queries on links by which people join a group.

-- fragment: link
l.id, l.conversation_id, l.created_by, (extract(epoch FROM l.expires_at) * 1000)::bigint, l.max_uses, l.uses

-- name: insert_link
INSERT INTO join_links AS l (id, conversation_id, token_hash, created_by, expires_at, max_uses)
VALUES (
    %(id)s, %(conversation_id)s, %(token_hash)s, %(created_by)s,
    clock_timestamp() + make_interval(secs => %(seconds)s), %(max_uses)s
) RETURNING {link}

-- name: update_link_token
-- join_links_pkey.
UPDATE join_links AS l SET token_hash = %(token_hash)s
WHERE l.conversation_id = %(conversation_id)s AND l.id = %(id)s
RETURNING {link}

-- name: list_links
-- join_links_pkey, as a range.
SELECT {link} FROM join_links AS l
WHERE l.conversation_id = %(conversation_id)s AND l.id > %(after)s
ORDER BY l.id LIMIT %(limit)s

-- name: count_links
-- join_links_pkey, as a range: as many as a group may have.
SELECT count(*) FROM join_links WHERE conversation_id = %(conversation_id)s

-- name: find_link
-- join_links_token_hash_key. Whatever has become of it.
SELECT conversation_id FROM join_links WHERE token_hash = %(token_hash)s

-- name: use_link
-- join_links_token_hash_key. Under the lock of its conversation.
UPDATE join_links SET uses = uses + 1
WHERE token_hash = %(token_hash)s AND expires_at > clock_timestamp() AND (max_uses IS NULL OR uses < max_uses)
RETURNING id

-- name: delete_link
-- join_links_pkey.
DELETE FROM join_links WHERE conversation_id = %(conversation_id)s AND id = %(id)s RETURNING id

-- name: delete_spent_links
-- join_links_pkey, as a range. No user can join by them any more.
DELETE FROM join_links
WHERE conversation_id = %(conversation_id)s AND (expires_at <= clock_timestamp() OR uses >= max_uses)

-- name: delete_links_of
-- join_links_pkey, as a range.
DELETE FROM join_links WHERE conversation_id = %(conversation_id)s

-- name: delete_expired_links
-- join_links_expiry.
DELETE FROM join_links WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM join_links WHERE expires_at <= statement_timestamp() ORDER BY expires_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
))
