-- Queries on files: what was uploaded, by whom, and whether it is still wanted.

-- fragment: file
f.id, f.owner_id, f.key, f.name, f.content_type, f.size, f.sha256, f.state, f.width, f.height

-- name: insert_file
INSERT INTO files AS f (id, owner_id, key, name, content_type, size, state)
VALUES (%(id)s, %(owner_id)s, %(key)s, %(name)s, %(content_type)s, %(size)s, 'Pending') RETURNING {file}

-- name: fetch_file
-- files_pkey.
SELECT {file} FROM files AS f WHERE f.id = %(id)s AND f.state <> 'Deleted'

-- name: fetch_file_by_key
-- files_key_key, messages_file, members_pkey. Whether the reader is a member of a conversation that holds it, too.
SELECT {file}, f.owner_id = %(reader_id)s OR EXISTS (
    SELECT FROM messages AS m
    JOIN members AS r ON r.conversation_id = m.conversation_id AND r.user_id = %(reader_id)s
    WHERE m.file_id = f.id AND m.deleted_at IS NULL
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

-- name: delete_file_row
-- files_pkey.
DELETE FROM files WHERE id = %(id)s AND state = 'Deleted'

-- name: list_files_of
-- files_owner. For the export.
SELECT {file} FROM files AS f WHERE f.owner_id = %(owner_id)s AND f.state = 'Ready' AND f.id > %(after)s
ORDER BY f.id LIMIT %(limit)s

-- name: give_up_files_of
-- files_owner, messages_file. A user goes; what her messages hold stays with them.
UPDATE files AS f SET state = 'Deleted'
WHERE f.owner_id = %(user_id)s AND f.state <> 'Deleted' AND NOT EXISTS (SELECT FROM messages AS m WHERE m.file_id = f.id)

-- name: list_given_up
-- files_unfinished. Deleted ones, and uploads that were begun before %(before)s and never completed.
SELECT {file} FROM files AS f
WHERE f.state <> 'Ready' AND (f.state = 'Deleted' OR f.created_at < %(before)s)
ORDER BY f.created_at LIMIT %(limit)s

-- name: lock_old_files
-- files_pkey: ids are of time. Locked before it is asked whether a message holds them: a message that is being written
-- holds a share of this lock until its commit (lanes.sql), and is seen by the next statement.
SELECT f.id FROM files AS f WHERE f.id > %(after)s AND f.id < %(bound)s AND f.state = 'Ready'
ORDER BY f.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED

-- name: retire_files
-- files_pkey, messages_file.
UPDATE files AS f SET state = 'Deleted'
WHERE f.id = ANY(%(ids)s::uuid[]) AND f.state = 'Ready' AND NOT EXISTS (SELECT FROM messages AS m WHERE m.file_id = f.id)

-- name: list_known_keys
-- files_key_key.
SELECT key FROM files WHERE key = ANY(%(keys)s::text[])
