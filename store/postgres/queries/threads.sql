-- Queries on threads. Rows of new replies are written by lane_write_full (group_commit.sql), what a root shows by
-- show_thread (messages.sql).

-- name: fetch_thread
-- threads_pkey. How many seconds ago the root was changed last, NULL if never: messages_pkey.
SELECT t.reply_count, t.last_reply_id, t.is_shown,
       (SELECT extract(epoch FROM clock_timestamp() - greatest(m.changed_at, m.edited_at, m.deleted_at))::float8
        FROM messages AS m WHERE m.id = t.root_id)
FROM threads AS t WHERE t.root_id = %(root_id)s

-- name: list_participants
-- thread_members_root, as a range.
SELECT user_id FROM thread_members
WHERE root_id = %(root_id)s AND first_reply_id IS NOT NULL
ORDER BY first_reply_id LIMIT %(limit)s

-- name: mark_shown
-- threads_pkey.
UPDATE threads SET is_shown = true WHERE root_id = %(root_id)s

-- name: list_unshown
-- threads_unshown, as a range.
SELECT root_id FROM threads WHERE NOT is_shown AND root_id > %(after)s ORDER BY root_id LIMIT %(limit)s

-- name: drop_reply
-- threads_pkey, thread_members_pkey, messages_thread. The reply is deleted already; the conversation is locked. Only where it
-- was the last one is another looked for, and that is the next entry of the index.
WITH dropped AS (
    UPDATE thread_members SET reply_count = greatest(reply_count - 1, 0),
        first_reply_id = CASE WHEN reply_count > 1 THEN first_reply_id END
    WHERE user_id = %(sender_id)s AND root_id = %(root_id)s
), last AS MATERIALIZED (
    SELECT r.id, r.seq FROM messages AS r
    WHERE r.thread_id = %(root_id)s AND r.deleted_at IS NULL
        AND EXISTS (SELECT FROM threads AS t WHERE t.root_id = %(root_id)s AND t.last_reply_id = %(reply_id)s)
    ORDER BY r.seq DESC LIMIT 1
)
UPDATE threads AS t SET reply_count = greatest(t.reply_count - 1, 0), is_shown = false,
    last_reply_id = CASE WHEN t.last_reply_id = %(reply_id)s THEN (SELECT id FROM last) ELSE t.last_reply_id END,
    last_reply_seq = CASE WHEN t.last_reply_id = %(reply_id)s THEN coalesce((SELECT seq FROM last), 0)
                          ELSE t.last_reply_seq END
WHERE t.root_id = %(root_id)s

-- fragment: state
-- Of a member f of a thread t: a reply is unread that came after their cursor there and after they joined (member v). At most
-- 1,000 entries of messages_thread, and none where there is nothing to count.
f.root_id, f.conversation_id, f.is_following, f.read_seq,
CASE WHEN f.is_following AND coalesce(t.last_reply_seq, 0) > greatest(f.read_seq, v.joined_seq) THEN (
    SELECT count(*) FROM (
        SELECT FROM messages AS r
        WHERE r.thread_id = f.root_id AND r.deleted_at IS NULL AND r.seq > greatest(f.read_seq, v.joined_seq)
        ORDER BY r.seq LIMIT 1000
    ) AS newer
) ELSE 0 END,
coalesce(t.last_reply_seq, 0), f.version

-- name: list_thread_states
-- thread_members_pkey, threads_pkey, members_pkey. Of those of these threads with which the user has to do.
SELECT {state}
FROM thread_members AS f
JOIN members AS v ON v.conversation_id = f.conversation_id AND v.user_id = f.user_id
LEFT JOIN threads AS t ON t.root_id = f.root_id
WHERE f.user_id = %(user_id)s AND f.root_id = ANY(%(root_ids)s::uuid[]) AND v.conversation_id <> ALL({dissolved})

-- name: list_threads
-- thread_members_pkey backwards, at most 2,000 of its rows; threads_pkey, members_pkey, messages_pkey. The thread with the
-- last reply first; of the page alone is counted what is unread.
WITH newest AS MATERIALIZED (
    SELECT * FROM thread_members WHERE user_id = %(user_id)s ORDER BY root_id DESC LIMIT %(most)s
), page AS MATERIALIZED (
    SELECT f.*, t.last_reply_id FROM newest AS f
    JOIN threads AS t ON t.root_id = f.root_id AND t.reply_count > 0
    JOIN members AS v ON v.conversation_id = f.conversation_id AND v.user_id = f.user_id
    WHERE f.is_following AND t.last_reply_id < %(before)s
        AND (NOT %(unread)s::boolean OR t.last_reply_seq > greatest(f.read_seq, v.joined_seq))
        AND v.conversation_id <> ALL({dissolved})
    ORDER BY t.last_reply_id DESC LIMIT %(limit)s
)
SELECT f.last_reply_id, octet_length(m.body), {state}
FROM page AS f
JOIN threads AS t ON t.root_id = f.root_id
JOIN members AS v ON v.conversation_id = f.conversation_id AND v.user_id = f.user_id
LEFT JOIN messages AS m ON m.id = f.root_id
ORDER BY f.last_reply_id DESC

-- name: list_threads_of
-- thread_members_pkey, as a range. For the export.
SELECT root_id, conversation_id, is_following, read_seq FROM thread_members
WHERE user_id = %(user_id)s AND root_id > %(after)s ORDER BY root_id LIMIT %(limit)s

-- name: list_threads_changed
-- thread_members_changed: after a lost membership only.
SELECT user_id, root_id FROM thread_members
WHERE user_id = ANY(%(user_ids)s::uuid[]) AND changed_at > now() - make_interval(secs => %(seconds)s)

-- name: follow_thread
-- thread_members_pkey, threads_pkey. The conversation is locked. What was said before one follows is read. Nothing where one
-- follows already.
INSERT INTO thread_members AS f (user_id, root_id, conversation_id, is_following, read_seq, version, changed_at)
SELECT %(user_id)s, %(root_id)s, %(conversation_id)s, true,
    coalesce((SELECT t.last_reply_seq FROM threads AS t WHERE t.root_id = %(root_id)s), 0),
    nextval('settings_versions'), clock_timestamp()
ON CONFLICT (user_id, root_id) DO UPDATE
SET is_following = true, read_seq = greatest(f.read_seq, excluded.read_seq), version = excluded.version,
    changed_at = excluded.changed_at
WHERE NOT f.is_following

-- name: unfollow_thread
-- thread_members_pkey. The conversation is locked. A row, also of who had nothing to do with the thread, so that its author
-- does not follow it with the first reply.
INSERT INTO thread_members AS f (user_id, root_id, conversation_id, is_following, read_seq, version, changed_at)
VALUES (%(user_id)s, %(root_id)s, %(conversation_id)s, false, 0, nextval('settings_versions'), clock_timestamp())
ON CONFLICT (user_id, root_id) DO UPDATE
SET is_following = false, version = excluded.version, changed_at = excluded.changed_at
WHERE f.is_following

-- name: read_thread
-- thread_members_pkey, conversations_pkey. Only rises, never past the head.
UPDATE thread_members AS f
SET read_seq = least(%(seq)s, c.last_seq), version = nextval('settings_versions'), changed_at = clock_timestamp()
FROM conversations AS c
WHERE f.user_id = %(user_id)s AND f.root_id = %(root_id)s AND c.id = f.conversation_id
    AND f.read_seq < least(%(seq)s, c.last_seq)

-- name: forget_threads_of
-- thread_members_pkey. A user who is erased: of what they have replied to, how often stays, as the replies do. Locked in the
-- order in which the lanes lock such rows. One row for each that was found.
WITH mine AS MATERIALIZED (
    SELECT user_id, root_id, reply_count FROM thread_members
    WHERE user_id = %(user_id)s AND (reply_count = 0 OR is_following OR read_seq > 0 OR changed_at IS NOT NULL)
    ORDER BY root_id LIMIT %(limit)s FOR UPDATE
), gone AS (
    DELETE FROM thread_members AS f USING mine AS o
    WHERE f.user_id = o.user_id AND f.root_id = o.root_id AND o.reply_count = 0
), kept AS (
    UPDATE thread_members AS f SET is_following = false, read_seq = 0, changed_at = NULL
    FROM mine AS o WHERE f.user_id = o.user_id AND f.root_id = o.root_id AND o.reply_count > 0
)
SELECT FROM mine

-- name: delete_old_threads
-- threads_pkey: ids are of time.
DELETE FROM threads WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM threads WHERE root_id < %(bound)s ORDER BY root_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))

-- name: delete_old_thread_members
-- thread_members_root.
DELETE FROM thread_members WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM thread_members WHERE root_id < %(bound)s ORDER BY root_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))

-- name: list_threads_after
-- threads_pkey, as a range. With a reply in the last so many days.
SELECT root_id, conversation_id FROM threads
WHERE root_id > %(after)s AND last_reply_id > uuid7_floor(now() - make_interval(days => %(days)s))
ORDER BY root_id LIMIT %(limit)s

-- name: recount_thread
-- threads_pkey, messages_thread, thread_members_root. Code of before deletes replies and leaves them counted. The conversation
-- is locked.
WITH counted AS MATERIALIZED (
    SELECT r.sender_id, count(*) AS replies, max(r.seq) AS last_seq FROM messages AS r
    WHERE r.thread_id = %(root_id)s AND r.deleted_at IS NULL GROUP BY r.sender_id
), total AS MATERIALIZED (
    SELECT coalesce(sum(replies), 0)::bigint AS replies, coalesce(max(last_seq), 0) AS last_seq FROM counted
), wrong AS (
    UPDATE threads AS t SET reply_count = n.replies, last_reply_seq = n.last_seq, is_shown = false, last_reply_id = (
        SELECT r.id FROM messages AS r WHERE r.thread_id = %(root_id)s AND r.deleted_at IS NULL AND r.seq = n.last_seq
    )
    FROM total AS n
    WHERE t.root_id = %(root_id)s AND (t.reply_count, t.last_reply_seq) <> (n.replies, n.last_seq)
)
UPDATE thread_members AS f SET reply_count = n.replies, first_reply_id = CASE WHEN n.replies > 0 THEN f.first_reply_id END
FROM (
    -- Each member is found by their own key then. A plan takes threads for small, and would read all members of a large one for each.
    SELECT k.user_id, sum(k.replies)::bigint AS replies FROM (
        SELECT o.user_id, 0 AS replies FROM thread_members AS o
        WHERE o.root_id = %(root_id)s AND o.first_reply_id IS NOT NULL
        UNION ALL
        SELECT c.sender_id, c.replies FROM counted AS c
    ) AS k GROUP BY k.user_id
) AS n
WHERE f.user_id = n.user_id AND f.root_id = %(root_id)s AND f.first_reply_id IS NOT NULL AND f.reply_count <> n.replies
