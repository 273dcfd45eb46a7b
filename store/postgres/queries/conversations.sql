-- Queries on conversations and their members. Lock order everywhere: conversations by id, members, the rest.

-- fragment: details
c.description, c.avatar_url, c.admins_post, c.slow_mode_seconds, c.is_public

-- name: lock_conversation
-- conversations_pkey. NO KEY: foreign keys pointing here do not wait for it.
SELECT c.id, c.kind, c.title, c.created_by, c.last_seq, c.member_count, {details} FROM conversations AS c
WHERE c.id = %(id)s AND c.deleted_at IS NULL FOR NO KEY UPDATE

-- name: fetch_heads
-- conversations_pkey. Dissolved ones included: their last change says so.
SELECT id, last_seq FROM conversations WHERE id = ANY(%(ids)s::uuid[])

-- name: fetch_watermark
-- conversations_pkey.
SELECT floor_seq FROM conversations WHERE id = %(id)s

-- name: insert_direct
-- conversations_direct decides between two at once: the second waits for the first, then inserts nothing.
INSERT INTO conversations (id, kind, created_by, direct_low, direct_high)
VALUES (%(id)s, 'Direct', %(created_by)s, least(%(created_by)s::uuid, %(other_id)s), greatest(%(created_by)s::uuid, %(other_id)s))
ON CONFLICT (direct_low, direct_high) WHERE kind = 'Direct' AND deleted_at IS NULL DO NOTHING
RETURNING id

-- name: fetch_direct_id
-- conversations_direct.
SELECT id FROM conversations
WHERE kind = 'Direct' AND deleted_at IS NULL
  AND direct_low = least(%(one)s::uuid, %(other)s) AND direct_high = greatest(%(one)s::uuid, %(other)s)

-- name: insert_group
INSERT INTO conversations (id, kind, title, created_by) VALUES (%(id)s, 'Group', %(title)s, %(created_by)s)

-- name: lock_users
-- users_pkey. Locked so that no user is deleted while being added; in id order.
SELECT id FROM users WHERE id = ANY(%(ids)s::uuid[]) AND deleted_at IS NULL ORDER BY id FOR KEY SHARE

-- name: lock_joining
-- users_pkey. Of users whom lock_users has locked: of two additions of a user the second waits until the first has ended, and so
-- counts it. In id order, and behind all of those locks: what waits here holds up no erasure that others of them wait for.
SELECT FROM users WHERE id = ANY(%(ids)s::uuid[]) ORDER BY id FOR NO KEY UPDATE

-- name: insert_members
-- members_pkey. New members start at the head: what was said before is not unread.
WITH added AS (
    INSERT INTO members (conversation_id, user_id, role, joined_at, joined_seq, delivered_seq, read_seq, last_sent_at)
    SELECT %(conversation_id)s, i.user_id, i.role, date_trunc('milliseconds', clock_timestamp()), %(seq)s, %(seq)s, %(seq)s,
        CASE WHEN %(is_own_doing)s THEN clock_timestamp() END
    FROM unnest(%(user_ids)s::uuid[], %(roles)s::text[]) AS i (user_id, role)
    RETURNING user_id
)
UPDATE conversations SET member_count = member_count + (SELECT count(*) FROM added) WHERE id = %(conversation_id)s

-- name: delete_member
-- members_pkey, conversations_pkey.
WITH gone AS (
    DELETE FROM members WHERE conversation_id = %(conversation_id)s AND user_id = %(user_id)s RETURNING conversation_id
)
UPDATE conversations AS c SET member_count = c.member_count - 1 FROM gone WHERE c.id = gone.conversation_id
RETURNING c.id

-- name: fetch_large_head
-- conversations_pkey, members_pkey. Of a group with more members than so many, for an owner of it.
SELECT c.last_seq FROM conversations AS c JOIN members AS v ON v.conversation_id = c.id
WHERE c.id = %(id)s AND v.user_id = %(user_id)s AND v.role = 'Owner' AND c.member_count > %(more_than)s AND c.deleted_at IS NULL

-- name: list_joined_since
-- members_pkey, as a range, and each row. The conversation is locked.
SELECT user_id FROM members WHERE conversation_id = %(conversation_id)s AND joined_seq > %(seq)s

-- name: dissolve_conversation
-- conversations_pkey, dissolutions_pkey. From the commit on it has no members, though their rows may still be there.
WITH noted AS (INSERT INTO dissolutions (conversation_id) VALUES (%(conversation_id)s))
UPDATE conversations SET deleted_at = clock_timestamp(), member_count = 0 WHERE id = %(conversation_id)s

-- name: lock_dissolution
-- dissolutions_pkey. That of a conversation, or any. One that another process works on is passed over.
SELECT conversation_id FROM dissolutions WHERE %(conversation_id)s::uuid IS NULL OR conversation_id = %(conversation_id)s
ORDER BY conversation_id LIMIT 1 FOR UPDATE SKIP LOCKED

-- name: delete_dissolved_members
-- members_pkey, as a range from its beginning. Locked in the order in which receipts are written; no member is added any more, so
-- what is up to the last of them is what was locked.
WITH locked AS MATERIALIZED (
    SELECT user_id FROM members WHERE conversation_id = %(conversation_id)s ORDER BY user_id LIMIT %(limit)s FOR UPDATE
)
DELETE FROM members WHERE conversation_id = %(conversation_id)s
    AND user_id <= (SELECT l.user_id FROM locked AS l ORDER BY l.user_id DESC LIMIT 1)

-- name: delete_dissolution
-- dissolutions_pkey, members_pkey. When no member is left: of those who were to be deleted, some may have gone by themselves.
DELETE FROM dissolutions WHERE conversation_id = %(conversation_id)s
    AND NOT EXISTS (SELECT FROM members AS m WHERE m.conversation_id = %(conversation_id)s)

-- name: update_role
-- members_pkey.
UPDATE members SET role = %(role)s WHERE conversation_id = %(conversation_id)s AND user_id = %(user_id)s
RETURNING user_id

-- name: update_muted_until
-- members_pkey.
UPDATE members SET muted_until = %(until)s WHERE conversation_id = %(conversation_id)s AND user_id = %(user_id)s
RETURNING user_id

-- name: fetch_mute
-- members_pkey.
SELECT (extract(epoch FROM least(muted_until, '9999-12-31T23:59:59.999Z')) * 1000)::bigint FROM members
WHERE conversation_id = %(conversation_id)s AND user_id = %(user_id)s AND muted_until > clock_timestamp()

-- name: update_title
-- conversations_pkey.
UPDATE conversations SET title = %(title)s WHERE id = %(id)s

-- name: update_details
-- conversations_pkey.
UPDATE conversations SET description = %(description)s, avatar_url = %(avatar_url)s, admins_post = %(admins_post)s,
    slow_mode_seconds = %(slow_mode_seconds)s, is_public = %(is_public)s
WHERE id = %(id)s

-- fragment: member
m.user_id, m.role, (extract(epoch FROM m.joined_at) * 1000)::bigint, m.delivered_seq, m.read_seq

-- fragment: seen_read
-- How far a member has read, as another one may see it: where it joined if either hides read receipts, and in a direct conversation
-- where it was when one has blocked the other. privacy_pkey.
CASE WHEN m.user_id = %(viewer_id)s::uuid THEN m.read_seq
     WHEN EXISTS (
         SELECT FROM privacy AS p WHERE p.user_id IN (m.user_id, %(viewer_id)s::uuid) AND NOT p.read_receipts
     ) THEN least(m.joined_seq, m.read_seq) ELSE coalesce(m.shown_read_seq, m.read_seq) END

-- name: fetch_member
-- members_pkey.
SELECT {member} FROM members AS m WHERE conversation_id = %(conversation_id)s AND user_id = %(user_id)s
    AND conversation_id <> ALL({dissolved})

-- name: list_members
-- members_pkey, as a range.
SELECT m.user_id, m.role, (extract(epoch FROM m.joined_at) * 1000)::bigint, m.delivered_seq, {seen_read}
FROM members AS m
WHERE m.conversation_id = %(conversation_id)s AND m.user_id > %(after)s AND m.conversation_id <> ALL({dissolved})
ORDER BY m.user_id LIMIT %(limit)s

-- name: list_first_members
-- members_pkey, a range for each conversation, which is known by its number; privacy_pkey. Behind each member: where it joined,
-- how far it is shown to have read, whether it hides receipts.
SELECT c.number, m.* FROM unnest(%(conversation_ids)s::uuid[]) WITH ORDINALITY AS c (id, number)
CROSS JOIN LATERAL (
    SELECT {member}, m.joined_seq, coalesce(m.shown_read_seq, m.read_seq),
        coalesce((SELECT NOT p.read_receipts FROM privacy AS p WHERE p.user_id = m.user_id), false)
    FROM members AS m WHERE m.conversation_id = c.id ORDER BY m.user_id LIMIT %(limit)s
) AS m
ORDER BY m.user_id

-- name: list_member_ids
-- members_pkey.
SELECT user_id FROM members WHERE conversation_id = %(conversation_id)s AND conversation_id <> ALL({dissolved})
ORDER BY user_id

-- name: list_cursors
-- members_pkey.
SELECT m.user_id, m.delivered_seq, {seen_read} FROM members AS m
WHERE m.conversation_id = %(conversation_id)s AND m.conversation_id <> ALL({dissolved})
ORDER BY m.user_id LIMIT %(limit)s

-- name: list_memberships
-- members_user.
SELECT user_id, string_agg(uuid_send(conversation_id), ''::bytea ORDER BY conversation_id) FROM members
WHERE user_id = ANY(%(user_ids)s::uuid[]) AND conversation_id <> ALL({dissolved})
GROUP BY user_id

-- name: list_crowded
-- members_user, as a range of at most so many entries for each of these users: those who are in as many.
SELECT k.user_id FROM unnest(%(user_ids)s::uuid[]) AS k (user_id)
WHERE EXISTS (
    SELECT FROM members AS v WHERE v.user_id = k.user_id AND v.conversation_id <> ALL({dissolved}) OFFSET %(most)s - 1
)

-- name: list_joined
-- members_user, and each membership's row: after a lost membership only.
SELECT user_id, conversation_id FROM members
WHERE user_id = ANY(%(user_ids)s::uuid[]) AND joined_at > now() - make_interval(secs => %(seconds)s)
    AND conversation_id <> ALL({dissolved})

-- name: list_audiences
-- members_user, conversations_pkey: the conversations small enough to hear of their members' presence.
SELECT m.user_id, string_agg(uuid_send(m.conversation_id), ''::bytea)
FROM members AS m JOIN conversations AS c ON c.id = m.conversation_id
WHERE m.user_id = ANY(%(user_ids)s::uuid[]) AND c.member_count <= %(most)s AND c.deleted_at IS NULL
GROUP BY m.user_id

-- name: count_owners
-- members_pkey.
SELECT count(*) FROM members WHERE conversation_id = %(conversation_id)s AND role = 'Owner'

-- fragment: past
-- messages_seq. Of viewer v in conversation c.
SELECT u.sender_id, u.deleted_at, u.mentions, u.mention_all, u.thread_id, u.also_in_conversation FROM messages AS u
WHERE u.conversation_id = c.id AND u.seq > v.read_seq

-- fragment: past_cursor
-- messages_seq, backwards.
{past} ORDER BY u.seq DESC

-- fragment: is_unread
-- A reply that is in its thread only counts for those whom it mentions, and for those who follow the thread:
-- thread_members_pkey, for each such reply.
newest.sender_id <> v.user_id AND newest.deleted_at IS NULL AND (
    newest.thread_id IS NULL OR newest.also_in_conversation OR newest.mention_all OR v.user_id = ANY(newest.mentions) OR coalesce((
        SELECT w.is_following FROM thread_members AS w WHERE w.user_id = v.user_id AND w.root_id = newest.thread_id
    ), false)
)

-- fragment: is_mention
newest.sender_id <> v.user_id AND newest.deleted_at IS NULL
    AND (newest.mention_all OR v.user_id = ANY(newest.mentions))

-- fragment: unread
-- At most 1,000 entries of messages_seq whatever they are: what was deleted is read, too. Nothing at all when the viewer
-- has read up to the head.
CASE WHEN c.last_seq > v.read_seq THEN (
    SELECT count(*) FILTER (WHERE {is_unread}) FROM ({past_cursor} LIMIT 1000) AS newest
) ELSE 0 END

-- fragment: entries
-- messages_seq, backwards from a bound. Whatever they are: what is written is looked for among so many, however many users have
-- joined and left since, and no more than there are seqs down to the second bound, which is for what comes of it: with two the
-- planner takes the range for a short one, and would read and sort all of it.
u.seq, u.id, u.kind, u.sender_id, u.deleted_at, u.mentions, u.mention_all, u.thread_id, u.also_in_conversation
FROM messages AS u

-- fragment: is_unread_text
newest.kind <> 'System' AND {is_unread}

-- fragment: hears
-- Of member v: not those who have muted or archived the conversation.
NOT v.archived AND coalesce(v.notifications_muted_until <= clock_timestamp(), true)

-- name: list_unread_members
-- members_pkey as a range, messages_seq for each of them: whose newest unread message is past a seq, and up to another.
-- A bot has no device: those are few keys.
SELECT k.conversation_id, v.user_id, found.seq
FROM unnest(%(conversation_ids)s::uuid[], %(seqs)s::bigint[], %(targets)s::bigint[]) AS k (conversation_id, seq, target)
JOIN members AS v ON v.conversation_id = k.conversation_id
CROSS JOIN LATERAL (
    SELECT newest.seq FROM (
        SELECT {entries} WHERE u.conversation_id = k.conversation_id AND u.seq <= k.target
        ORDER BY u.seq DESC LIMIT least(1000, greatest(0, k.target - greatest(k.seq, v.read_seq, v.joined_seq)))
    ) AS newest
    WHERE newest.seq > greatest(k.seq, v.read_seq, v.joined_seq) AND {is_unread_text} ORDER BY newest.seq DESC LIMIT 1
) AS found
WHERE v.read_seq < k.target AND {hears} AND v.conversation_id <> ALL({dissolved}) AND v.user_id <> ALL(ARRAY(
    SELECT a.user_id FROM api_keys AS a WHERE a.user_id IS NOT NULL AND a.revoked_at IS NULL
))

-- name: list_unread_rechecks
-- unread_rechecks_due, the longest due first; members_pkey. Who has read it, or does not want to hear of it, is not counted.
SELECT r.conversation_id, r.user_id, r.seq, v.user_id IS NOT NULL
FROM (
    SELECT conversation_id, user_id, seq FROM unread_rechecks WHERE due_at <= statement_timestamp()
    ORDER BY due_at LIMIT %(limit)s
) AS r LEFT JOIN members AS v ON v.conversation_id = r.conversation_id AND v.user_id = r.user_id
    AND v.read_seq < r.seq AND {hears} AND v.conversation_id <> ALL({dissolved})

-- fragment: mentioned
-- mentions_pkey, from the index alone: at most 1,000 that name the viewer, or all. Who has written a message has read it.
-- In order, as it is no question then which way the index is read, whatever the statistics say of an unknown seq.
CASE WHEN c.last_seq > v.read_seq THEN (
    SELECT least(count(*), 1000) FROM (
        (SELECT n.seq FROM mentions AS n
         WHERE n.user_id = v.user_id AND n.conversation_id = c.id AND n.seq > v.read_seq
         ORDER BY n.seq DESC LIMIT 1000)
        UNION ALL
        (SELECT n.seq FROM mentions AS n
         WHERE n.user_id = '00000000-0000-0000-0000-000000000000' AND n.conversation_id = c.id AND n.seq > v.read_seq
         ORDER BY n.seq DESC LIMIT 1000)
    ) AS found
) ELSE 0 END

-- fragment: settings
v.archived, v.favourite, (extract(epoch FROM v.notifications_muted_until) * 1000)::bigint, coalesce(v.settings_version, 0)

-- fragment: conversation
c.id, c.kind, c.title, c.created_by, (extract(epoch FROM c.created_at) * 1000)::bigint, c.last_seq, c.last_message_id,
c.member_count, {details}, {unread}, {mentioned}, {settings}, v.user_id,
coalesce((SELECT NOT p.read_receipts FROM privacy AS p WHERE p.user_id = v.user_id), false)

-- name: fetch_unread_standing
-- members_pkey, conversations_pkey, messages_seq: the newest unread message up to a seq, if there is one, and how many.
SELECT found.seq, found.id, found.sender_id, {unread}, {mentioned}
FROM members AS v JOIN conversations AS c ON c.id = v.conversation_id
CROSS JOIN LATERAL (
    SELECT newest.seq, newest.id, newest.sender_id FROM (
        SELECT {entries} WHERE u.conversation_id = c.id AND u.seq <= %(seq)s
        ORDER BY u.seq DESC LIMIT least(1000, greatest(0, %(seq)s - greatest(v.read_seq, v.joined_seq)))
    ) AS newest WHERE newest.seq > greatest(v.read_seq, v.joined_seq) AND {is_unread_text} ORDER BY newest.seq DESC LIMIT 1
) AS found
WHERE v.conversation_id = %(conversation_id)s AND v.user_id = %(user_id)s AND {hears} AND c.deleted_at IS NULL

-- name: fetch_settings
-- members_pkey.
SELECT {settings} FROM members AS v WHERE v.conversation_id = %(conversation_id)s AND v.user_id = %(user_id)s
    AND v.conversation_id <> ALL({dissolved})

-- name: update_settings
-- members_pkey. Nothing where nothing is different. One statement, so that the row, which the lanes update as well, is
-- not locked for longer; where another one has locked it, all of this is evaluated anew behind that one's commit.
UPDATE members AS v SET
    archived = coalesce(%(archived)s::boolean, v.archived),
    favourite = coalesce(%(favourite)s::boolean, v.favourite),
    notifications_muted_until = CASE WHEN %(sets_muted)s::boolean THEN %(muted_until)s::timestamptz ELSE v.notifications_muted_until END,
    settings_changed_at = clock_timestamp(),
    settings_version = nextval('settings_versions')
WHERE v.conversation_id = %(conversation_id)s AND v.user_id = %(user_id)s AND (
    v.archived <> coalesce(%(archived)s::boolean, v.archived) OR v.favourite <> coalesce(%(favourite)s::boolean, v.favourite)
    OR %(sets_muted)s::boolean AND v.notifications_muted_until IS DISTINCT FROM %(muted_until)s::timestamptz
) AND v.conversation_id <> ALL({dissolved})
RETURNING {settings}

-- name: list_settings_changed
-- members_user, and each membership's row: after a lost membership only.
SELECT user_id, conversation_id FROM members
WHERE user_id = ANY(%(user_ids)s::uuid[]) AND settings_changed_at > now() - make_interval(secs => %(seconds)s)
    AND conversation_id <> ALL({dissolved})

-- name: list_standings
-- members_pkey, conversations_pkey.
SELECT v.user_id, c.id, {unread}, {mentioned}, coalesce(v.settings_version, 0)
FROM unnest(%(user_ids)s::uuid[], %(conversation_ids)s::uuid[]) AS k (user_id, conversation_id)
JOIN members AS v ON v.conversation_id = k.conversation_id AND v.user_id = k.user_id
JOIN conversations AS c ON c.id = k.conversation_id AND c.deleted_at IS NULL

-- fragment: counted
count(*) AS entries, count(*) FILTER (WHERE {is_unread}) AS unread, count(*) FILTER (WHERE {is_mention}) AS mentioned

-- name: fetch_unread_totals
-- members_user, conversations_pkey, and messages_seq for each conversation with changes past the cursor; messages are
-- read, %(budget)s at most, or %(capped)s where there are more, as mentions are then looked for, too; and one more for
-- each conversation beyond that number; thread_members_pkey and threads_pkey for the threads. How many messages there
-- are can be known before any is read: no more than there are seqs past the cursor. So the conversations share the
-- budget: each is counted up to a level, the highest with which all together keep to it. That is the highest of what is
-- left for each when the smaller ones have taken all they need. Only partitions are looked into since the member had
-- read all, or joined: what is past their cursor was made since. An id says when it was made, some time before the
-- change that numbers it was written. (Only here: where the number of messages is a constant, the planner takes the
-- bound for a reason to read them all.) Of these months those since a month before the conversation's last message are
-- looked into first. That is all, where they have as many messages as there are seqs past the cursor, or as the level;
-- else it is looked again, into all months. Bounds are the beginnings of months, as partitions are: a bound within one
-- would have a partition whose messages are all before it walked through, for the first one that is not. (uuid7_floor,
-- written out in double precision: a microsecond less for each conversation.) Mentions are counted among the same
-- messages; where these are not all, by
-- mentions_pkey, up to the same number of them.
WITH behind AS MATERIALIZED (
    SELECT b.*, coalesce(b.recent > b.since, false) AS is_bounded, greatest(b.since, b.recent) AS bound FROM (
        SELECT c.id, v.user_id, v.read_seq,
               (lpad(to_hex((date_part('epoch', date_trunc('month',
                   (coalesce(v.caught_up_at, v.joined_at) - interval '1 day') AT TIME ZONE 'UTC'
               )) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid AS since,
               (lpad(to_hex((date_part('epoch', date_trunc('month', to_timestamp(
                   ('x' || encode(substr(uuid_send(c.last_message_id), 1, 6), 'hex'))::bit(48)::bigint / 1000e0
               ) AT TIME ZONE 'UTC' - interval '31 days')) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid AS recent,
               c.last_seq - v.read_seq AS gap, least(c.last_seq - v.read_seq, 1000) AS wanted,
               coalesce(v.notifications_muted_until > clock_timestamp(), false) AS is_muted
        FROM members AS v JOIN conversations AS c ON c.id = v.conversation_id
        WHERE v.user_id = %(user_id)s AND c.last_seq > v.read_seq AND c.deleted_at IS NULL OFFSET 0
    ) AS b
), level AS MATERIALIZED (
    SELECT greatest(max((
        CASE WHEN b.total > %(budget)s::bigint THEN %(capped)s::bigint ELSE %(budget)s::bigint END - b.taken
    ) / b.remaining), 1) AS entries FROM (
        SELECT sum(wanted) OVER ()::bigint AS total, (sum(wanted) OVER smaller - wanted)::bigint AS taken,
               count(*) OVER () - row_number() OVER smaller + 1 AS remaining
        FROM behind WINDOW smaller AS (ORDER BY wanted, id)
    ) AS b
), late AS MATERIALIZED (
    SELECT v.*, c.most, found.* FROM level AS l CROSS JOIN behind AS v
    CROSS JOIN LATERAL (SELECT v.id, least(v.wanted, l.entries) AS most) AS c
    CROSS JOIN LATERAL (
        SELECT {counted} FROM ({past} AND u.id > v.bound ORDER BY u.seq DESC LIMIT c.most) AS newest
    ) AS found
), every AS (
    SELECT id, user_id, read_seq, gap, is_muted, most, entries, unread, mentioned FROM late
    WHERE entries = most OR NOT is_bounded
    UNION ALL
    SELECT v.id, v.user_id, v.read_seq, v.gap, v.is_muted, v.most, found.* FROM late AS v
    CROSS JOIN LATERAL (SELECT v.id) AS c
    CROSS JOIN LATERAL (
        SELECT {counted} FROM ({past} AND u.id > v.since ORDER BY u.seq DESC LIMIT v.most) AS newest
    ) AS found
    WHERE v.entries < v.most AND v.is_bounded
), found AS (
    SELECT v.is_muted, v.unread, v.entries < v.gap AND v.entries = v.most AS is_part,
           CASE WHEN v.entries < v.gap AND v.entries = v.most THEN (
               SELECT least(count(*), 1000) FROM (
                   (SELECT n.seq FROM mentions AS n
                    WHERE n.user_id = v.user_id AND n.conversation_id = v.id AND n.seq > v.read_seq
                    ORDER BY n.seq DESC LIMIT v.most)
                   UNION ALL
                   (SELECT n.seq FROM mentions AS n
                    WHERE n.user_id = '00000000-0000-0000-0000-000000000000' AND n.conversation_id = v.id AND n.seq > v.read_seq
                    ORDER BY n.seq DESC LIMIT v.most)
               ) AS named
           ) ELSE v.mentioned END AS mentioned
    FROM every AS v
)
SELECT coalesce(sum(v.unread) FILTER (WHERE NOT v.is_muted), 0)::bigint,
       count(*) FILTER (WHERE v.unread > 0 AND NOT v.is_muted),
       coalesce(sum(v.unread) FILTER (WHERE v.is_muted), 0)::bigint,
       count(*) FILTER (WHERE v.unread > 0 AND v.is_muted),
       coalesce(bool_or(v.is_part), false),
       coalesce(sum(v.mentioned) FILTER (WHERE NOT v.is_muted), 0)::bigint,
       coalesce(sum(v.mentioned) FILTER (WHERE v.is_muted), 0)::bigint,
       (SELECT count(*) FROM (
           SELECT * FROM thread_members WHERE user_id = %(user_id)s ORDER BY root_id DESC LIMIT %(threads)s
       ) AS f
       JOIN threads AS t ON t.root_id = f.root_id
       JOIN members AS m ON m.conversation_id = f.conversation_id AND m.user_id = f.user_id
       WHERE f.is_following AND t.last_reply_seq > greatest(f.read_seq, m.joined_seq)
           AND m.conversation_id <> ALL({dissolved}))
FROM found AS v

-- name: fetch_conversation
-- conversations_pkey, members_pkey.
SELECT {conversation} FROM conversations AS c JOIN members AS v ON v.conversation_id = c.id
WHERE c.id = %(id)s AND v.user_id = %(viewer_id)s AND c.deleted_at IS NULL

-- name: list_views
-- conversations_pkey, members_pkey.
SELECT v.user_id, {conversation} FROM conversations AS c JOIN members AS v ON v.conversation_id = c.id
WHERE c.id = %(id)s AND v.user_id = ANY(%(viewer_ids)s::uuid[]) AND c.deleted_at IS NULL

-- fragment: drawing
-- What draws a number from a sequence holds this lock on it until it is committed or rolled back.
FROM pg_locks AS l
WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.relation = 'message_places'::regclass
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.pid IS DISTINCT FROM pg_backend_pid()

-- name: fetch_last_place
-- Shared memory only. The number is read first: a transaction that has drawn one up to it is among these, or has ended.
WITH last AS MATERIALIZED (SELECT coalesce(pg_sequence_last_value('message_places'), 0) AS place)
SELECT last.place, ARRAY(SELECT l.virtualtransaction {drawing} AND last.place IS NOT NULL) FROM last

-- name: count_memberships
-- members_user, and each membership's row where only some are wanted.
SELECT count(*) FROM (
    SELECT FROM members AS v WHERE v.user_id = %(viewer_id)s AND v.conversation_id <> ALL({dissolved})
        AND (%(archived)s::boolean IS NULL OR v.archived = %(archived)s::boolean)
        AND (%(favourite)s::boolean IS NULL OR v.favourite = %(favourite)s::boolean)
    LIMIT %(most)s
) AS mine

-- name: list_drawing
-- Shared memory only. Those of these transactions that have not ended.
SELECT l.virtualtransaction {drawing} AND l.virtualtransaction = ANY(%(transactions)s::text[])

-- name: list_conversations
-- members_user, conversations_pkey, messages_pkey for each; sorted here, as one user is in hundreds of conversations at most.
-- The order is that of places (NULL, of old messages: 0, and then by id), as of one of them: where others came later, that
-- of the last message up to it, or of the beginning. That message is searched by halves, from the end in growing steps, as
-- places rise with seq (messages_seq): as_of is whatever a client says, so none may make us walk a whole history.
SELECT v.place, v.last_id,
       coalesce((SELECT octet_length(m.body) FROM messages AS m WHERE m.id = c.last_message_id), 0), {conversation}
FROM (
    SELECT c.id, v.read_seq, v.user_id, v.archived, v.favourite, v.notifications_muted_until, v.settings_version,
           p.place, p.last_id
    FROM members AS v JOIN conversations AS c ON c.id = v.conversation_id
    CROSS JOIN LATERAL (
        -- OFFSET 0: looked up once, and not wherever it is named.
        SELECT coalesce((SELECT m.place FROM messages AS m WHERE m.id = c.last_message_id), 0) AS place OFFSET 0
    ) AS now
    LEFT JOIN LATERAL (
        -- All messages from `high` on came later, none up to `low` did; the last of these is `id`.
        WITH RECURSIVE search (low, high, step, id, place) AS (
            SELECT 0::bigint, c.last_seq + 1, 1::bigint, NULL::uuid, NULL::bigint WHERE now.place > %(as_of)s::bigint
            UNION ALL
            SELECT CASE WHEN hit.place > %(as_of)s THEN s.low ELSE middle.seq END,
                   CASE WHEN hit.place > %(as_of)s THEN hit.seq ELSE s.high END,
                   least(2 * s.step, s.high),
                   CASE WHEN hit.place <= %(as_of)s THEN hit.id ELSE s.id END,
                   CASE WHEN hit.place <= %(as_of)s THEN hit.place ELSE s.place END
            FROM search AS s
            CROSS JOIN LATERAL (SELECT greatest((s.low + s.high) / 2, s.high - s.step) AS seq) AS middle
            LEFT JOIN LATERAL (
                SELECT m.seq, m.id, coalesce(m.place, 0) AS place FROM messages AS m
                WHERE m.conversation_id = c.id AND m.seq > s.low AND m.seq <= middle.seq
                ORDER BY m.seq DESC LIMIT 1
            ) AS hit ON true
            WHERE s.high - s.low > 1
        )
        SELECT s.place, s.id FROM search AS s WHERE s.high - s.low <= 1
    ) AS earlier ON true
    CROSS JOIN LATERAL (
        SELECT CASE WHEN now.place > %(as_of)s THEN coalesce(earlier.place, 0) ELSE now.place END AS place,
               CASE WHEN now.place > %(as_of)s THEN coalesce(earlier.id, c.id)
                    ELSE coalesce(c.last_message_id, c.id) END AS last_id OFFSET 0
    ) AS p
    WHERE v.user_id = %(viewer_id)s AND c.deleted_at IS NULL
        AND (%(archived)s::boolean IS NULL OR v.archived = %(archived)s::boolean)
        AND (%(favourite)s::boolean IS NULL OR v.favourite = %(favourite)s::boolean)
        -- Made since: on no later page. Where retention has dropped what came before: at the end.
        AND NOT (now.place > %(as_of)s AND earlier.id IS NULL AND c.floor_seq = 0)
        AND (%(place)s::bigint IS NULL OR (p.place, p.last_id) < (%(place)s, %(last_id)s::uuid))
    ORDER BY p.place DESC, p.last_id DESC LIMIT %(limit)s
) AS v JOIN conversations AS c ON c.id = v.id
ORDER BY v.place DESC, v.last_id DESC
