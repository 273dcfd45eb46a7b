-- Queries on files: what was uploaded, by whom, and whether it is still wanted.

-- fragment: file
f.id, f.owner_id, f.key, f.name, f.content_type, f.size, f.sha256, f.state, f.width, f.height

-- name: insert_file
INSERT INTO files AS f (id, owner_id, key, name, content_type, size, state)
VALUES (%(id)s, %(owner_id)s, %(key)s, %(name)s, %(content_type)s, %(size)s, 'Pending') RETURNING {file}

-- name: fetch_storage
-- files_owned, alone. What a user's files take, announced ones included, and how many uploads are open. Under the user's lock.
SELECT coalesce(sum(size), 0)::bigint, count(*) FILTER (WHERE state = 'Pending' AND created_at > %(since)s)
FROM files WHERE owner_id = %(owner_id)s AND state <> 'Deleted'

-- name: lock_owner
-- users_pkey. NO KEY: foreign keys pointing here do not wait for it.
SELECT id FROM users WHERE id = %(owner_id)s AND deleted_at IS NULL FOR NO KEY UPDATE

-- name: fetch_file
-- files_pkey.
SELECT {file} FROM files AS f WHERE f.id = %(id)s AND f.state <> 'Deleted'

-- name: lock_file
-- files_pkey.
SELECT {file} FROM files AS f WHERE f.id = %(id)s AND f.state <> 'Deleted' FOR UPDATE

-- name: fetch_file_by_key
-- files_key_key, messages_file, members_pkey. Whether the reader is a member of a conversation that holds it, too.
SELECT {file}, f.owner_id = %(reader_id)s OR EXISTS (
    SELECT FROM messages AS m
    JOIN members AS r ON r.conversation_id = m.conversation_id AND r.user_id = %(reader_id)s
    WHERE m.file_id = f.id AND m.deleted_at IS NULL AND r.conversation_id <> ALL({dissolved})
)
FROM files AS f WHERE f.key = %(key)s AND f.state = 'Ready'

-- name: finish_file
-- files_pkey.
UPDATE files AS f SET state = 'Ready', key = %(key)s, content_type = %(content_type)s, size = %(size)s,
    sha256 = %(sha256)s, width = %(width)s, height = %(height)s
WHERE f.id = %(id)s AND f.state = 'Pending' RETURNING {file}

-- name: give_up_file
-- files_pkey. The object goes next, then the row.
UPDATE files SET state = 'Deleted' WHERE id = %(id)s AND state <> 'Deleted' RETURNING id

-- name: abandon_file
-- files_pkey. An upload that is not complete: one that is being completed at this moment is waited for, and stays.
UPDATE files SET state = 'Deleted' WHERE id = %(id)s AND state = 'Pending' RETURNING id

-- name: lock_holders
-- messages_file, conversations_pkey. The conversations of the first messages that hold a file, in id order, before
-- anything else is locked.
SELECT c.id FROM conversations AS c WHERE c.id IN (
    SELECT h.conversation_id
    FROM (SELECT conversation_id FROM messages WHERE file_id = %(file_id)s ORDER BY id LIMIT %(limit)s) AS h
) ORDER BY c.id FOR NO KEY UPDATE

-- name: release_file
-- messages_file, conversations_pkey, messages_pkey. Messages in conversations that are locked give the file up: a change of
-- each. The members of a dissolved conversation have been notified of its end: no change comes after that.
WITH held AS MATERIALIZED (
    SELECT h.id, h.conversation_id, row_number() OVER (PARTITION BY h.conversation_id ORDER BY h.seq) AS number,
           greatest(date_trunc('milliseconds', clock_timestamp()), h.changed + interval '1 millisecond') AS at
    FROM (
        SELECT id, conversation_id, seq, greatest(changed_at, edited_at, deleted_at) AS changed FROM messages
        WHERE file_id = %(file_id)s AND conversation_id = ANY(%(conversation_ids)s::uuid[])
        ORDER BY id LIMIT %(limit)s
    ) AS h
), advanced AS (
    UPDATE conversations AS c SET last_seq = c.last_seq + h.number
    FROM (SELECT conversation_id, count(*) AS number FROM held GROUP BY conversation_id) AS h
    WHERE c.id = h.conversation_id AND c.deleted_at IS NULL
    RETURNING c.id, c.last_seq - h.number AS base
)
UPDATE messages AS m SET file_id = NULL, changed_seq = coalesce(a.base + h.number, m.changed_seq),
    changed_at = CASE WHEN a.id IS NULL THEN m.changed_at ELSE h.at END,
    -- As `kept` in messages.sql.
    earlier_changes = CASE WHEN a.id IS NULL THEN m.earlier_changes WHEN m.changed_seq > m.seq THEN
        m.earlier_changes[cardinality(m.earlier_changes) - 253:] || ARRAY[
            m.changed_seq,
            coalesce((extract(epoch FROM greatest(m.changed_at, m.edited_at, m.deleted_at)) * 1000)::bigint
                * CASE WHEN m.changed_at > coalesce(m.deleted_at, m.edited_at, '-infinity') THEN -1 ELSE 1 END, 0)
        ] END
FROM held AS h LEFT JOIN advanced AS a ON a.id = h.conversation_id
WHERE m.id = h.id
RETURNING m.id, a.id IS NOT NULL

-- name: is_held
-- messages_file.
SELECT EXISTS (SELECT FROM messages WHERE file_id = %(file_id)s)

-- name: delete_file_row
-- files_pkey.
DELETE FROM files WHERE id = %(id)s AND state = 'Deleted'

-- name: list_files_of
-- files_owned. For the export.
SELECT {file} FROM files AS f WHERE f.owner_id = %(owner_id)s AND f.state = 'Ready' AND f.id > %(after)s
ORDER BY f.id LIMIT %(limit)s

-- name: give_up_files_of
-- files_owned, as a range, messages_file. A user is deleted; files that their messages hold stay with the messages. Of those
-- that were uploaded lately: all that are older and in no message the purge gives up by itself (`lock_old_files`), before it
-- deletes what was given up, and to look for them among all files of a user may take any time.
WITH mine AS MATERIALIZED (
    SELECT f.id FROM files AS f WHERE f.owner_id = %(user_id)s AND f.state <> 'Deleted'
        AND f.id > uuid7_floor(now() - interval '2 days')
        AND NOT EXISTS (SELECT FROM messages AS m WHERE m.file_id = f.id)
    LIMIT %(limit)s
), forgotten AS (
    UPDATE files SET state = 'Deleted' WHERE state <> 'Deleted' AND id = ANY(ARRAY(SELECT id FROM mine))
)
SELECT FROM mine

-- name: list_given_up
-- files_unfinished. Deleted ones, and uploads that were begun before %(before)s and never completed.
SELECT {file} FROM files AS f
WHERE f.state <> 'Ready' AND (f.state = 'Deleted' OR f.created_at < %(before)s)
ORDER BY f.created_at LIMIT %(limit)s

-- name: lock_old_files
-- files_pkey: ids are of time. Locked before it is asked whether a message holds them: a message that is being written
-- holds a share of this lock until its commit (group_commit.sql), and is seen by the next statement.
SELECT f.id FROM files AS f WHERE f.id > %(after)s AND f.id < %(bound)s AND f.state = 'Ready'
ORDER BY f.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED

-- name: retire_files
-- files_pkey, messages_file.
UPDATE files AS f SET state = 'Deleted'
WHERE f.id = ANY(%(ids)s::uuid[]) AND f.state = 'Ready' AND NOT EXISTS (SELECT FROM messages AS m WHERE m.file_id = f.id)

-- name: list_known_keys
-- files_key_key.
SELECT key FROM files WHERE key = ANY(%(keys)s::text[])
