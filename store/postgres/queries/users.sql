-- Queries on users.

-- fragment: user
u.id, u.username, u.display_name, u.avatar_url, u.status, u.status_text,
(extract(epoch FROM u.last_seen_at) * 1000)::bigint, (extract(epoch FROM u.created_at) * 1000)::bigint, u.email,
(SELECT x.external_id FROM external_ids AS x WHERE x.user_id = u.id)

-- name: insert_user
-- users_username_key and users_username_skeleton decide between two at once (and users_username, against older code).
INSERT INTO users AS u (id, username, display_name, email, avatar_url, created_at,
    username_folded, username_key, username_skeleton, display_name_folded)
VALUES (%(id)s, %(username)s, %(display_name)s, %(email)s, %(avatar_url)s, date_trunc('milliseconds', clock_timestamp()),
    %(username_folded)s, %(username_folded)s, %(username_skeleton)s, %(display_name_folded)s)
ON CONFLICT DO NOTHING
RETURNING {user}

-- name: list_unfolded
-- users_unfolded. The oldest first: they keep their names. What another transaction is folding is left to it.
SELECT id, username, display_name FROM users
WHERE (username_folded IS NULL OR display_name_folded IS NULL) AND deleted_at IS NULL
ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED

-- name: fold_names
-- users_pkey, users_username_key, users_username_skeleton. A key that an older user has, here or before, is not taken.
WITH given AS (
    SELECT id, folded, skeleton, display, row_number() OVER (PARTITION BY folded ORDER BY id) AS of_folded,
        row_number() OVER (PARTITION BY skeleton ORDER BY id) AS of_skeleton
    FROM unnest(%(ids)s::uuid[], %(folded)s::text[], %(skeletons)s::text[], %(display)s::text[])
        AS g (id, folded, skeleton, display)
)
UPDATE users AS u SET username_folded = g.folded, display_name_folded = g.display,
    username_key = CASE WHEN g.of_folded = 1 AND NOT EXISTS (
        SELECT FROM users AS o WHERE o.username_key = g.folded COLLATE "C" AND o.id <> g.id
    ) THEN g.folded END,
    username_skeleton = CASE WHEN g.of_skeleton = 1 AND NOT EXISTS (
        SELECT FROM users AS o WHERE o.username_skeleton = g.skeleton COLLATE "C" AND o.id <> g.id
    ) THEN g.skeleton END
FROM given AS g WHERE u.id = g.id

-- name: write_words
-- user_words_pkey, wordless_users_pkey. Of users whose rows are locked.
WITH done AS (DELETE FROM wordless_users WHERE user_id = ANY(%(ids)s::uuid[]))
INSERT INTO user_words (user_id, word)
SELECT given.user_id, given.word FROM unnest(%(user_ids)s::uuid[], %(words)s::text[]) AS given (user_id, word)
ON CONFLICT DO NOTHING

-- name: list_wordless
-- wordless_users_pkey, users_pkey. The users' rows are locked, too, so that no name changes before its words are written. What
-- others have locked is left to them, or to the next time.
SELECT u.id, u.username, u.display_name FROM wordless_users AS w JOIN users AS u ON u.id = w.user_id
ORDER BY w.user_id LIMIT %(limit)s FOR UPDATE OF w SKIP LOCKED FOR NO KEY UPDATE OF u SKIP LOCKED

-- name: lock_words_progress
-- One row, or none.
SELECT last_id FROM words_progress FOR UPDATE

-- name: list_users_before_words
-- users_pkey, as a range. Locked as above.
SELECT id, username, display_name, deleted_at IS NOT NULL FROM users WHERE id > %(last_id)s
ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE

-- name: update_words_progress
UPDATE words_progress SET last_id = %(last_id)s

-- name: end_words_progress
DELETE FROM words_progress

-- name: fetch_user
-- users_pkey.
SELECT {user} FROM users AS u WHERE id = %(id)s

-- name: fetch_live_user
-- users_pkey.
SELECT {user} FROM users AS u WHERE id = %(id)s AND deleted_at IS NULL

-- name: lock_account
-- users_pkey. NO KEY: foreign keys pointing here do not wait for it.
SELECT {user} FROM users AS u WHERE id = %(id)s AND deleted_at IS NULL FOR NO KEY UPDATE

-- name: fetch_standing
-- users_pkey, sessions_pkey.
{standing}

-- name: list_users_by_id
-- users_pkey.
SELECT {user} FROM users AS u WHERE id = ANY(%(ids)s::uuid[])

-- name: list_deleted_users
-- users_pkey.
SELECT id FROM users WHERE id = ANY(%(ids)s::uuid[]) AND deleted_at IS NOT NULL

-- name: fetch_user_by_name
-- users_username_folded. Of old names that are the same by now, the one that is reserved.
SELECT {user} FROM users AS u WHERE username_folded = %(folded)s COLLATE "C"
ORDER BY username_key IS NULL, id LIMIT 1

-- name: list_users_by_username
-- users_username_folded, as a range (byte order): reads what it answers. Not LIKE: a prepared plan could not use the index
-- for a pattern it does not know. Deleted users have no folded name.
SELECT {user}, u.username_folded FROM users AS u
WHERE u.username_folded >= %(prefix)s::text COLLATE "C" AND u.username_folded < (%(prefix)s || %(top)s) COLLATE "C"
  AND (u.username_folded, u.id) > (%(after)s::text COLLATE "C", %(after_id)s::uuid)
ORDER BY u.username_folded, u.id LIMIT %(limit)s

-- name: list_users_by_display_name
-- users_display_name_folded, likewise. Says which of them are among those by username, rather than leaving them out: how
-- much is read does not depend on how many these are.
SELECT {user}, u.display_name_folded,
    coalesce(u.username_folded >= %(prefix)s::text COLLATE "C" AND u.username_folded < (%(prefix)s || %(top)s) COLLATE "C", false)
FROM users AS u
WHERE u.display_name_folded >= %(prefix)s::text COLLATE "C" AND u.display_name_folded < (%(prefix)s || %(top)s) COLLATE "C"
  AND (u.display_name_folded, u.id) > (%(after)s::text COLLATE "C", %(after_id)s::uuid)
ORDER BY u.display_name_folded, u.id LIMIT %(limit)s

-- name: list_users_by_word
-- user_words_word, as a range, and users_pkey. Reads what it answers, as above.
SELECT {user}, w.word FROM user_words AS w JOIN users AS u ON u.id = w.user_id
WHERE w.word >= %(prefix)s::text COLLATE "C" AND w.word < (%(prefix)s || %(top)s) COLLATE "C"
  AND (w.word, w.user_id) > (%(after)s::text COLLATE "C", %(after_id)s::uuid)
ORDER BY w.word, w.user_id LIMIT %(limit)s

-- name: update_user
-- users_pkey. Columns that are not set stay as they are; every user has a name.
UPDATE users AS u SET display_name = coalesce(%(display_name)s, display_name),
    display_name_folded = coalesce(%(display_name_folded)s, display_name_folded),
    avatar_url = CASE WHEN %(sets_avatar_url)s THEN %(avatar_url)s ELSE avatar_url END,
    email = CASE WHEN %(sets_email)s THEN %(email)s ELSE email END,
    status_text = CASE WHEN %(sets_status_text)s THEN %(status_text)s ELSE status_text END
WHERE id = %(id)s AND deleted_at IS NULL
RETURNING {user}

-- name: rename_user
-- users_username_key and users_username_skeleton decide between two at once, as in insert_user.
UPDATE users AS u SET username = %(username)s, username_folded = %(username_folded)s, username_key = %(username_folded)s,
    username_skeleton = %(username_skeleton)s
WHERE u.id = %(id)s AND u.deleted_at IS NULL RETURNING {user}

-- name: update_status
-- users_pkey.
UPDATE users AS u SET status = %(status)s, status_text = %(status_text)s
WHERE id = %(id)s AND deleted_at IS NULL
RETURNING {user}

-- name: update_last_seen
-- users_pkey. Only forward: several instances report it. Locked in id order. Who appears offline was not seen.
WITH seen AS MATERIALIZED (
    SELECT id FROM users WHERE id = ANY(%(ids)s::uuid[]) AND deleted_at IS NULL AND status <> 'Offline'
    ORDER BY id FOR NO KEY UPDATE
)
UPDATE users AS u SET last_seen_at = greatest(u.last_seen_at, %(at)s) FROM seen WHERE u.id = seen.id

-- name: lock_conversations_of
-- members_user, conversations_pkey. In id order, before anything else is locked.
SELECT c.id FROM conversations AS c
WHERE c.id IN (SELECT conversation_id FROM members WHERE user_id = %(user_id)s) AND c.deleted_at IS NULL
ORDER BY c.id FOR NO KEY UPDATE

-- name: list_leaving
-- members_user, conversations_pkey. With the number of those among whom an heir may be looked for, if the user owns it.
SELECT c.id, CASE WHEN m.role = 'Owner' THEN c.member_count ELSE 0 END
FROM members AS m JOIN conversations AS c ON c.id = m.conversation_id
WHERE m.user_id = %(user_id)s AND c.deleted_at IS NULL
ORDER BY m.conversation_id LIMIT %(limit)s

-- name: lock_leaving
-- conversations_pkey. In id order, as above.
SELECT id FROM conversations WHERE id = ANY(%(ids)s::uuid[]) AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE

-- name: lock_user
-- users_pkey. FOR UPDATE: waits for, and holds off, transactions that add the user to a conversation (lock_users).
SELECT id FROM users WHERE id = %(id)s AND deleted_at IS NULL FOR UPDATE

-- name: delete_memberships
-- members_user, conversations_pkey. Also returns the conversations in which the user was the only owner.
WITH gone AS (
    DELETE FROM members WHERE user_id = %(user_id)s AND conversation_id = ANY(%(conversation_ids)s)
    RETURNING conversation_id, role
), counted AS (
    UPDATE conversations AS c SET member_count = c.member_count - 1 FROM gone WHERE c.id = gone.conversation_id
)
SELECT g.conversation_id,
       g.role = 'Owner' AND NOT EXISTS (
           SELECT FROM members AS o
           WHERE o.conversation_id = g.conversation_id AND o.role = 'Owner' AND o.user_id <> %(user_id)s
       ) AS orphaned
FROM gone AS g ORDER BY g.conversation_id

-- name: promote_heirs
-- members_pkey. The longest-standing admin, else member, of each of these conversations becomes its owner.
UPDATE members AS m SET role = 'Owner'
FROM (
    SELECT DISTINCT ON (conversation_id) conversation_id, user_id FROM members
    WHERE conversation_id = ANY(%(conversation_ids)s::uuid[])
    ORDER BY conversation_id, role = 'Admin' DESC, joined_at, user_id
) AS heir
WHERE m.conversation_id = heir.conversation_id AND m.user_id = heir.user_id
RETURNING m.conversation_id, m.user_id

-- name: insert_erasure
-- erasures_pkey. There may be more of a user who is erased than was deleted with them.
INSERT INTO erasures (user_id) VALUES (%(user_id)s) ON CONFLICT DO NOTHING

-- name: lock_erasure
-- erasures_pkey. That of a user, or any. One that another process works on is passed over.
SELECT user_id FROM erasures WHERE %(user_id)s::uuid IS NULL OR user_id = %(user_id)s
ORDER BY user_id LIMIT 1 FOR UPDATE SKIP LOCKED

-- name: delete_erasure
-- erasures_pkey.
DELETE FROM erasures WHERE user_id = %(user_id)s

-- name: delete_sessions_of
-- sessions_user. A user may have any number of what is deleted here and below, as others may against them. One row for each that
-- was found: of these others may delete some at the same time, so what was deleted does not say whether that was all.
WITH mine AS MATERIALIZED (
    SELECT id FROM sessions WHERE user_id = %(user_id)s LIMIT %(limit)s
), gone AS (
    DELETE FROM sessions WHERE id = ANY(ARRAY(SELECT id FROM mine))
)
SELECT FROM mine

-- name: delete_identities_of
-- identities_user.
DELETE FROM identities WHERE user_id = %(user_id)s

-- name: delete_sends_of
-- sends_pkey, as a range.
WITH mine AS MATERIALIZED (
    SELECT ctid FROM sends WHERE sender_id = %(user_id)s LIMIT %(limit)s
), gone AS (
    DELETE FROM sends WHERE ctid = ANY(ARRAY(SELECT ctid FROM mine))
)
SELECT FROM mine

-- name: delete_mentions_of
-- mentions_pkey, as a range.
WITH mine AS MATERIALIZED (
    SELECT ctid FROM mentions WHERE user_id = %(user_id)s LIMIT %(limit)s
), gone AS (
    DELETE FROM mentions WHERE ctid = ANY(ARRAY(SELECT ctid FROM mine))
)
SELECT FROM mine

-- name: anonymise_user
-- users_pkey. The name is freed; no name that somebody may choose looks like this one ("!" is not allowed in names).
UPDATE users SET username = '!' || replace(id::text, '-', ''), display_name = 'Deleted user', email = NULL,
    avatar_url = NULL, status = 'Offline', status_text = NULL, last_seen_at = NULL, deleted_at = clock_timestamp(),
    username_folded = NULL, username_key = NULL, username_skeleton = NULL, display_name_folded = NULL,
    role = NULL, banned_until = NULL
WHERE id = %(user_id)s

-- name: delete_old_sends
-- sends_message: ids are of time. Here, and wherever rows are deleted for their age: one that another transaction has locked is
-- left to the next time, as it may wait for others that are locked here.
DELETE FROM sends WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM sends WHERE message_id < %(bound)s ORDER BY message_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
