-- Queries on messages. Each that returns messages collects their rows in `page` and ends with {described}.

-- fragment: changed
-- When the message was changed last; NULL if it was not. Code of before 0014 does not write changed_at.
greatest(m.changed_at, m.edited_at, m.deleted_at)

-- fragment: size
-- Of what a row is to a reader, in octets, about.
octet_length(body) + coalesce(pg_column_size(reactions), 0) + coalesce(pg_column_size(thread), 0)

-- fragment: senders
(
    SELECT conversation_id, sender_id, coalesce((
        SELECT NOT h.read_receipts FROM privacy AS h WHERE h.user_id = sender_id
    ), false) AS hides
    FROM (SELECT DISTINCT conversation_id, sender_id FROM page) AS of_page
)

-- fragment: hidden_read
-- The same by who hides it, or of who does: nothing that came after they joined.
least(o.joined_seq, o.read_seq)

-- fragment: shown_read
-- How far member o is seen to have read by who hides nothing; p is there if o hides it.
CASE WHEN p.user_id IS NOT NULL THEN {hidden_read} ELSE coalesce(o.shown_read_seq, o.read_seq) END

-- fragment: with_reached
-- Adds what the status is made of: what all the other members have reached, worked out once per sender and not per
-- message. Only those count who were members when it was sent. The others' cursors begin where they joined, above it, so
-- they hold nothing back; it is enough to know that there is somebody else. Who hides read receipts, or whose sender does,
-- has read nothing that came after they joined; between two of whom one has blocked the other, nothing since. All members
-- are read once, however many of them have sent what is on the page: those who have sent none of it are one to each sender.
-- members_pkey, files_pkey, privacy_pkey.
, senders AS MATERIALIZED {senders}, others AS MATERIALIZED (
    SELECT o.conversation_id, s.sender_id, min(o.delivered_seq) AS delivered, min({shown_read}) AS read,
           min({hidden_read}) AS hidden, min(o.joined_seq) AS joined
    FROM (SELECT DISTINCT conversation_id FROM senders) AS c
    JOIN members AS o ON o.conversation_id = c.conversation_id
    LEFT JOIN senders AS s ON s.conversation_id = o.conversation_id AND s.sender_id = o.user_id
    LEFT JOIN privacy AS p ON p.user_id = o.user_id AND NOT p.read_receipts
    GROUP BY 1, 2
), reached AS MATERIALIZED (
    SELECT s.conversation_id, s.sender_id, min(o.delivered) AS delivered,
           min(CASE WHEN s.hides THEN o.hidden ELSE o.read END) AS read, min(o.joined) AS joined
    FROM senders AS s
    JOIN others AS o ON o.conversation_id = s.conversation_id AND o.sender_id IS DISTINCT FROM s.sender_id
    GROUP BY 1, 2
)

-- fragment: with_reached_of_one
-- The same of a page of one message, which takes less time so.
, reached AS MATERIALIZED (
    SELECT s.conversation_id, s.sender_id, min(o.delivered_seq) AS delivered,
           min(CASE WHEN s.hides THEN {hidden_read} ELSE {shown_read} END) AS read, min(o.joined_seq) AS joined
    FROM {senders} AS s
    JOIN members AS o ON o.conversation_id = s.conversation_id AND o.user_id <> s.sender_id
    LEFT JOIN privacy AS p ON p.user_id = o.user_id AND NOT p.read_receipts
    GROUP BY 1, 2
)

-- fragment: columns
m.id, m.conversation_id, m.seq, m.changed_seq, m.sender_id, m.kind, m.body,
       m.file_id, f.key, f.name, f.size, f.content_type, f.width, f.height, m.reply_to, m.client_message_id,
       (extract(epoch FROM m.edited_at) * 1000)::bigint, (extract(epoch FROM m.deleted_at) * 1000)::bigint,
       (extract(epoch FROM {changed}) * 1000)::bigint, m.reactions::text,
       (extract(epoch FROM m.pinned_at) * 1000)::bigint, m.pinned_by,
       CASE WHEN r.joined >= m.seq THEN 0 WHEN r.read >= m.seq THEN 2 WHEN r.delivered >= m.seq THEN 1 ELSE 0 END,
       m.mentions, m.mention_all, m.thread_id, m.also_in_conversation, m.thread::text

-- fragment: sources
-- Adds the file.
FROM page AS m
LEFT JOIN reached AS r ON r.conversation_id = m.conversation_id AND r.sender_id = m.sender_id
LEFT JOIN files AS f ON f.id = m.file_id AND f.state = 'Ready'

-- fragment: described
{with_reached}
SELECT {columns}
{sources}

-- name: fetch_message
-- messages_pkey, one partition.
WITH page AS MATERIALIZED (SELECT * FROM messages WHERE id = %(id)s) {with_reached_of_one}
SELECT {columns}
{sources}

-- name: fetch_message_for
-- messages_pkey, one partition; members_pkey. Behind the standing of a user: a row in any case, without a message that is not
-- theirs to see.
WITH page AS MATERIALIZED (
    SELECT m.* FROM messages AS m
    JOIN members AS v ON v.conversation_id = m.conversation_id AND v.user_id = %(user_id)s
    WHERE m.id = %(id)s
        AND v.conversation_id <> ALL({dissolved})
) {with_reached_of_one}
SELECT s.*, {columns}
{sources}
RIGHT JOIN ({standing}) AS s ON true

-- name: list_messages_by_id
-- messages_pkey, one partition for each.
WITH page AS MATERIALIZED (SELECT * FROM messages WHERE id = ANY(%(ids)s::uuid[])) {described}

-- name: list_seen_messages
-- messages_pkey, members_pkey: those of these that the user may see now, the newest first.
WITH page AS MATERIALIZED (
    SELECT m.* FROM messages AS m
    JOIN members AS v ON v.conversation_id = m.conversation_id AND v.user_id = %(user_id)s
    WHERE m.id = ANY(%(ids)s::uuid[]) AND m.deleted_at IS NULL
        AND v.conversation_id <> ALL({dissolved})
) {described} ORDER BY m.id DESC

-- fragment: newest_first
WITH page AS MATERIALIZED (
    SELECT * FROM (
        SELECT *, sum({size}) OVER (ORDER BY seq DESC) AS total,
               row_number() OVER (ORDER BY seq DESC) AS position
        FROM (

-- fragment: oldest_first
WITH page AS MATERIALIZED (
    SELECT * FROM (
        SELECT *, sum({size}) OVER (ORDER BY seq) AS total,
               row_number() OVER (ORDER BY seq) AS position
        FROM (

-- fragment: fitting
-- Stops before the row that would bring the bodies past max_bytes, but never before the first.
        ) AS found
    ) AS summed
    WHERE total <= %(max_bytes)s OR position = 1
)

-- fragment: is_main
-- What the main history shows: no replies but those that are in the conversation, too.
(thread_id IS NULL OR also_in_conversation)

-- fragment: for_member
-- members_pkey. Of a user who is no member there is no row; of one who is there is one without a message where the page
-- has none.
RIGHT JOIN (
    SELECT FROM members WHERE conversation_id = %(conversation_id)s AND user_id = %(viewer_id)s
        AND conversation_id <> ALL({dissolved})
) AS viewer ON true

-- fragment: for_caller
-- members_pkey. Behind the standing of a user, and whether they are a member: a row in any case.
{with_reached}
SELECT s.*, viewer.user_id IS NOT NULL, {columns}
{sources}
RIGHT JOIN ({standing}) AS s ON true
LEFT JOIN members AS viewer ON viewer.conversation_id = %(conversation_id)s AND viewer.user_id = %(user_id)s
    AND viewer.conversation_id <> ALL({dissolved})

-- fragment: messages_before
{newest_first}
    SELECT * FROM messages
    WHERE conversation_id = %(conversation_id)s AND seq < %(before)s
    ORDER BY seq DESC LIMIT %(limit)s
{fitting}

-- fragment: messages_after
{oldest_first}
    SELECT * FROM messages
    WHERE conversation_id = %(conversation_id)s AND seq > %(after)s AND seq < %(before)s
    ORDER BY seq LIMIT %(limit)s
{fitting}

-- fragment: main_before
{newest_first}
    SELECT * FROM (
        SELECT * FROM messages
        WHERE conversation_id = %(conversation_id)s AND seq < %(before)s
        ORDER BY seq DESC LIMIT %(scan)s
    ) AS scanned
    WHERE {is_main} ORDER BY seq DESC LIMIT %(limit)s
{fitting}

-- fragment: main_after
{oldest_first}
    SELECT * FROM (
        SELECT * FROM messages
        WHERE conversation_id = %(conversation_id)s AND seq > %(after)s AND seq < %(before)s
        ORDER BY seq LIMIT %(scan)s
    ) AS scanned
    WHERE {is_main} ORDER BY seq LIMIT %(limit)s
{fitting}

-- name: list_messages_before
-- messages_seq, backwards.
{messages_before} {described} ORDER BY m.seq DESC

-- name: list_messages_after
-- messages_seq, likewise.
{messages_after} {described} ORDER BY m.seq

-- name: list_main_before
-- messages_seq, backwards: as far as the page goes, past %(scan)s entries at most.
{main_before} {described} ORDER BY m.seq DESC

-- name: list_main_after
-- messages_seq, likewise.
{main_after} {described} ORDER BY m.seq

-- name: list_messages_before_for
{messages_before} {described} {for_member} ORDER BY m.seq DESC

-- name: list_messages_after_for
{messages_after} {described} {for_member} ORDER BY m.seq

-- name: list_main_before_for
{main_before} {described} {for_member} ORDER BY m.seq DESC

-- name: list_main_after_for
{main_after} {described} {for_member} ORDER BY m.seq

-- name: list_messages_before_for_caller
{messages_before} {for_caller} ORDER BY m.seq DESC

-- name: list_messages_after_for_caller
{messages_after} {for_caller} ORDER BY m.seq

-- name: list_main_before_for_caller
{main_before} {for_caller} ORDER BY m.seq DESC

-- name: list_main_after_for_caller
{main_after} {for_caller} ORDER BY m.seq

-- name: fetch_scan_before
-- messages_seq, backwards. What list_main_before has scanned: how many entries, up to which seq, and whether there is more
-- to be shown below one.
SELECT count(*), min(seq), coalesce(bool_or({is_main} AND seq < %(last)s), false) FROM (
    SELECT seq, thread_id, also_in_conversation FROM messages
    WHERE conversation_id = %(conversation_id)s AND seq < %(before)s
    ORDER BY seq DESC LIMIT %(scan)s
) AS scanned

-- name: fetch_scan_after
-- messages_seq, likewise.
SELECT count(*), max(seq), coalesce(bool_or({is_main} AND seq > %(last)s), false) FROM (
    SELECT seq, thread_id, also_in_conversation FROM messages
    WHERE conversation_id = %(conversation_id)s AND seq > %(after)s AND seq < %(before)s
    ORDER BY seq LIMIT %(scan)s
) AS scanned

-- name: list_replies_before
-- messages_thread of each partition, backwards.
{newest_first}
    SELECT * FROM messages
    WHERE thread_id = %(root_id)s AND deleted_at IS NULL AND seq < %(before)s
    ORDER BY seq DESC LIMIT %(limit)s
{fitting} {described} ORDER BY m.seq DESC

-- name: list_replies_after
-- messages_thread, likewise.
{oldest_first}
    SELECT * FROM messages
    WHERE thread_id = %(root_id)s AND deleted_at IS NULL AND seq > %(after)s AND seq < %(before)s
    ORDER BY seq LIMIT %(limit)s
{fitting} {described} ORDER BY m.seq

-- name: has_replies_between
-- messages_thread.
SELECT EXISTS (
    SELECT FROM messages
    WHERE thread_id = %(root_id)s AND deleted_at IS NULL AND seq > %(after)s AND seq < %(before)s
)

-- name: has_messages_between
-- messages_seq.
SELECT EXISTS (
    SELECT FROM messages WHERE conversation_id = %(conversation_id)s AND seq > %(after)s AND seq < %(before)s
)

-- fragment: changes
-- Rows changed after a seq, from two indexes that do not overlap: messages_changed_seq (partial) for the ones changed since
-- they were made, messages_seq for the others, and only as far as the page can go: messages_seq has the first kind, too,
-- and would be walked past all of them, for each page.
    WITH changed AS MATERIALIZED (
        SELECT * FROM messages
        WHERE conversation_id = %(conversation_id)s AND changed_seq > %(after)s AND changed_seq > seq
        ORDER BY changed_seq LIMIT %(limit)s
    )
    SELECT * FROM changed
    UNION ALL
    (SELECT * FROM messages
     WHERE conversation_id = %(conversation_id)s AND seq > %(after)s AND changed_seq = seq
       AND seq <= (SELECT CASE WHEN count(*) < %(limit)s THEN 9223372036854775807 ELSE max(changed_seq) END FROM changed)
     ORDER BY seq LIMIT %(limit)s)

-- name: list_changes
-- Stops before the row that would bring the bodies past max_bytes, but never before the first.
WITH changes AS (
    {changes}
), page AS MATERIALIZED (
    SELECT * FROM (
        SELECT *, sum({size}) OVER (ORDER BY changed_seq) AS total,
               row_number() OVER (ORDER BY changed_seq) AS position
        FROM changes ORDER BY changed_seq LIMIT %(limit)s
    ) AS summed
    WHERE total <= %(max_bytes)s OR position = 1
) {described} ORDER BY m.changed_seq

-- name: count_changes_after
WITH changes AS (
    {changes}
)
SELECT least(count(*), %(limit)s) FROM changes

-- name: lock_message
-- messages_pkey, conversations_pkey. Locks the message's conversation.
SELECT c.id FROM messages AS m JOIN conversations AS c ON c.id = m.conversation_id
WHERE m.id = %(id)s FOR NO KEY UPDATE OF c

-- fragment: advance
-- The conversation is locked, so the message cannot change between the check and the write: no seq is lost. Of two
-- changes of a message the later one has the later time, also if the clock was put back.
WITH target AS MATERIALIZED (
    SELECT m.id, m.conversation_id,
           greatest(date_trunc('milliseconds', clock_timestamp()), {changed} + interval '1 millisecond') AS at
    FROM messages AS m WHERE m.id = %(id)s AND m.deleted_at IS NULL AND m.kind <> 'System'
), advanced AS (
    UPDATE conversations AS c SET last_seq = c.last_seq + 1
    FROM target AS t WHERE c.id = t.conversation_id
    RETURNING t.id, t.at, c.last_seq AS seq, c.last_message_id AS previous
)

-- fragment: advance_root
-- The same of a message that may be deleted: its replies are there.
WITH target AS MATERIALIZED (
    SELECT m.id, m.conversation_id,
           greatest(date_trunc('milliseconds', clock_timestamp()), {changed} + interval '1 millisecond') AS at
    FROM messages AS m WHERE m.id = %(id)s
), advanced AS (
    UPDATE conversations AS c SET last_seq = c.last_seq + 1
    FROM target AS t WHERE c.id = t.conversation_id
    RETURNING t.id, t.at, c.last_seq AS seq, c.last_message_id AS previous
)

-- fragment: kept
-- What the message's last change was, for cursors that name it; of the last 128. The one that made it is known by seq. The
-- time of a touch, which is no edit, is negative.
earlier_changes = CASE WHEN m.changed_seq > m.seq THEN
    m.earlier_changes[cardinality(m.earlier_changes) - 253:] || ARRAY[
        m.changed_seq, coalesce((extract(epoch FROM {changed}) * 1000)::bigint
            * CASE WHEN m.changed_at > coalesce(m.deleted_at, m.edited_at, '-infinity') THEN -1 ELSE 1 END, 0)
    ] END

-- name: update_message
-- messages_pkey, conversations_pkey.
{advance}
UPDATE messages AS m
SET body = %(content)s, changed_seq = a.seq, changed_at = a.at, edited_at = a.at,
    {kept}
FROM advanced AS a WHERE m.id = a.id AND m.id = %(id)s
RETURNING a.previous

-- name: delete_message
-- messages_pkey, conversations_pkey, reactions_message, pins_pkey, mentions_message. The content goes, and at most so many reactions; the row stays, so that
-- everybody hears of it. What is left of more reactions is noted for the purge.
{advance}, cleared AS (
    DELETE FROM reactions WHERE ctid = ANY(ARRAY(
        SELECT r.ctid FROM reactions AS r JOIN advanced AS a ON a.id = r.message_id
        WHERE r.message_id = %(id)s LIMIT %(limit)s
    ))
    RETURNING 1
), noted AS (
    INSERT INTO reactions_left (message_id)
    SELECT a.id FROM advanced AS a WHERE (SELECT count(*) FROM cleared) = %(limit)s
    ON CONFLICT DO NOTHING
), unmentioned AS (
    DELETE FROM mentions AS n USING target AS t WHERE n.message_id = t.id
), unpinned AS (
    DELETE FROM pins AS p USING target AS t WHERE p.conversation_id = t.conversation_id AND p.message_id = t.id
)
UPDATE messages AS m
SET body = '', file_id = NULL, reactions = NULL, pinned_at = NULL, pinned_by = NULL, mentions = NULL, mention_all = NULL, changed_seq = a.seq, changed_at = a.at, deleted_at = a.at,
    {kept}
FROM advanced AS a WHERE m.id = a.id AND m.id = %(id)s
RETURNING a.previous

-- name: touch_message
-- messages_pkey, conversations_pkey. A change of what is shown with the message, and of none of its columns here.
{advance}
UPDATE messages AS m
SET changed_seq = a.seq, changed_at = a.at,
    {kept}
FROM advanced AS a WHERE m.id = a.id AND m.id = %(id)s
RETURNING a.previous

-- name: update_reactions
-- messages_pkey, conversations_pkey. What the message shows of its reactions, whose rows are changed by the same transaction.
{advance}
UPDATE messages AS m
SET reactions = %(reactions)s::jsonb, changed_seq = a.seq, changed_at = a.at,
    {kept}
FROM advanced AS a WHERE m.id = a.id AND m.id = %(id)s
RETURNING a.previous

-- name: show_thread
-- messages_pkey, conversations_pkey, threads_pkey. What a root shows of its replies.
{advance_root}, shown AS (
    UPDATE threads SET is_shown = true WHERE root_id = %(id)s
)
UPDATE messages AS m
SET thread = %(thread)s::jsonb, changed_seq = a.seq, changed_at = a.at,
    {kept}
FROM advanced AS a WHERE m.id = a.id AND m.id = %(id)s
RETURNING a.previous

-- name: pin_message
-- messages_pkey, conversations_pkey, pins_pkey.
{advance}, kept AS (
    INSERT INTO pins (conversation_id, message_id) SELECT t.conversation_id, t.id FROM target AS t ON CONFLICT DO NOTHING
)
UPDATE messages AS m
SET pinned_at = a.at, pinned_by = %(user_id)s, changed_seq = a.seq, changed_at = a.at,
    {kept}
FROM advanced AS a WHERE m.id = a.id AND m.id = %(id)s
RETURNING a.previous

-- name: unpin_message
-- messages_pkey, conversations_pkey, pins_pkey.
{advance}, gone AS (
    DELETE FROM pins AS p USING target AS t WHERE p.conversation_id = t.conversation_id AND p.message_id = t.id
)
UPDATE messages AS m
SET pinned_at = NULL, pinned_by = NULL, changed_seq = a.seq, changed_at = a.at,
    {kept}
FROM advanced AS a WHERE m.id = a.id AND m.id = %(id)s
RETURNING a.previous

-- name: count_pins
-- pins_pkey as a range, messages_pkey. Of the messages that are there.
SELECT count(*) FROM pins AS p JOIN messages AS m ON m.id = p.message_id
WHERE p.conversation_id = %(conversation_id)s AND m.pinned_at IS NOT NULL AND m.deleted_at IS NULL

-- name: list_pins
-- pins_pkey as a range, messages_pkey. The last one to be pinned first, from behind one; stops as list_messages_before does.
WITH page AS MATERIALIZED (
    SELECT * FROM (
        SELECT *, sum({size}) OVER (ORDER BY pinned_at DESC, id DESC) AS total,
               row_number() OVER (ORDER BY pinned_at DESC, id DESC) AS position
        FROM (
            SELECT m.* FROM pins AS p JOIN messages AS m ON m.id = p.message_id
            WHERE p.conversation_id = %(conversation_id)s AND m.pinned_at IS NOT NULL AND m.deleted_at IS NULL
                AND (%(before)s::timestamptz IS NULL OR (m.pinned_at, m.id) < (%(before)s::timestamptz, %(before_id)s::uuid))
            ORDER BY m.pinned_at DESC, m.id DESC LIMIT %(limit)s
        ) AS found
    ) AS summed
    WHERE total <= %(max_bytes)s OR position = 1
) {described} ORDER BY m.pinned_at DESC, m.id DESC

-- name: delete_old_pins
-- pins_message: ids are of time.
DELETE FROM pins WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM pins WHERE message_id < %(bound)s ORDER BY message_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))

-- name: list_first_messages
-- sends_pkey, messages_pkey: the messages that took these idempotency keys.
WITH page AS MATERIALIZED (
    SELECT m.* FROM unnest(%(sender_ids)s::uuid[], %(keys)s::text[]) AS k (sender_id, key)
    JOIN sends AS s ON s.sender_id = k.sender_id AND s.client_message_id = k.key
    JOIN messages AS m ON m.id = s.message_id
) {described}

-- name: list_sent_by_strangers
-- messages_pkey, members_pkey. Those of these messages whose sender is no member of the conversation any more.
SELECT m.id FROM messages AS m
LEFT JOIN members AS v
    ON v.conversation_id = m.conversation_id AND v.user_id = m.sender_id AND v.conversation_id <> ALL({dissolved})
WHERE m.id = ANY(%(ids)s::uuid[]) AND v.user_id IS NULL
