-- The statements of a lane's batch: the lock, and one that writes. They are sent together, so they use libpq's own $1 parameters.
-- PostgreSQL runs them in one transaction (a pipeline up to its Sync), which commits when both succeed.
--
-- There are four that write, as most of what one costs is to begin it: each has all that the one before it has, and what it may
-- meet besides. Their first parameters are the same; of a lone message they are single values.
--
-- Look-ups of single rows are LATERAL with OFFSET 0, which keeps each an index scan of its own: a plan is made when a connection
-- first needs it, maybe while a table is empty, and a join that reads a whole table would be kept while it grows.

-- name: lane_lock
-- conversations_pkey. Every lock on conversations is taken here, in id order, before the second statement takes its
-- snapshot: what it then sees of these conversations and their members cannot change until the commit.
SELECT FROM conversations WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE

-- fragment: given_plain
unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[])
    WITH ORDINALITY AS i (id, conversation_id, sender_id, kind, body, key, position)

-- fragment: given
unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $8::uuid[], $9::uuid[])
    WITH ORDINALITY AS i (id, conversation_id, sender_id, kind, body, key, file_id, reply_to, position)

-- fragment: held
held AS MATERIALIZED (
    -- Until the commit no other transaction can decide that no message holds these files (files.sql, retire_files).
    SELECT * FROM files WHERE id = ANY($8) AND state = 'Ready' FOR SHARE
)

-- fragment: is_unavailable
EXISTS (
    -- The other user of a direct conversation, who has blocked the sender, or is banned. No EXISTS of blocks, of which the planner
    -- makes a hash of all who have blocked the sender.
    SELECT FROM users AS o
    WHERE o.id = CASE WHEN c.direct_low = i.sender_id THEN c.direct_high ELSE c.direct_low END
        AND (o.banned_until > clock_timestamp()
             OR (SELECT b.user_id FROM blocks AS b WHERE b.user_id = o.id AND b.blocked_id = i.sender_id) IS NOT NULL)
)

-- fragment: is_banned
(
    -- The sender: their connections end, but an instance may not have heard of it yet. No EXISTS, of which the planner may
    -- make a hash of all users.
    SELECT u.banned_until FROM users AS u WHERE u.id = i.sender_id
) > clock_timestamp()

-- fragment: state
c.last_seq, c.last_message_id, m.read_seq,
           CASE WHEN c.slow_mode_seconds > 0 AND m.role = 'Member' THEN c.slow_mode_seconds END AS slow_seconds,
           m.last_sent_at, m.muted_until, m.shown_read_seq IS NOT NULL AS is_hidden

-- fragment: problems
WHEN c.id IS NULL THEN 2
                WHEN m.user_id IS NULL THEN 3
                WHEN {is_banned} THEN 12
                WHEN c.kind = 'Direct' AND {is_unavailable} THEN 11
                WHEN m.muted_until > clock_timestamp() THEN 4
                WHEN c.admins_post AND m.role = 'Member' THEN 9
                WHEN c.slow_mode_seconds > 0 AND m.role = 'Member'
                    AND m.last_sent_at > statement_timestamp() - make_interval(secs => c.slow_mode_seconds) THEN 10

-- fragment: beside
LEFT JOIN LATERAL (
        SELECT * FROM conversations AS c WHERE c.id = i.conversation_id AND c.deleted_at IS NULL OFFSET 0
    ) AS c ON true
    LEFT JOIN LATERAL (
        SELECT * FROM members AS m WHERE m.conversation_id = i.conversation_id AND m.user_id = i.sender_id OFFSET 0
    ) AS m ON true

-- fragment: is_duplicate
CASE WHEN i.problem > 0 OR i.slow_seconds IS NOT NULL THEN (
        -- Of others, and of those whose key is being taken, `claimed` knows. No EXISTS, as above.
        SELECT s.message_id FROM sends AS s WHERE s.sender_id = i.sender_id AND s.client_message_id = i.key
    ) IS NOT NULL ELSE false END AS is_duplicate

-- fragment: plain
    SELECT i.*, {state},
           CASE {problems}
                ELSE 0 END AS problem

-- fragment: looked_up
    SELECT i.*, {state}, f.key AS file_key, f.name, f.size, f.content_type, f.width, f.height,
           CASE {problems}
                WHEN i.reply_to IS NOT NULL AND r.id IS NULL THEN 5
                WHEN i.file_id IS NOT NULL AND f.id IS NULL THEN 6

-- fragment: beside_files
FROM input AS i
    {beside}
    LEFT JOIN held AS f ON f.id = i.file_id AND f.owner_id = i.sender_id
    LEFT JOIN LATERAL (
        SELECT r.id FROM messages AS r WHERE r.id = i.reply_to AND r.conversation_id = i.conversation_id OFFSET 0
    ) AS r ON true

-- fragment: is_early
c.slow_seconds IS NOT NULL AND EXISTS (
    -- Of those who wait between two messages the first that passed the checks is the only one of a batch. It may be a
    -- duplicate after all, if its key is being taken for another conversation at this moment.
    SELECT FROM checked AS e
    WHERE e.conversation_id = c.conversation_id AND e.sender_id = c.sender_id AND e.position < c.position
        AND e.problem = 0 AND NOT e.is_duplicate
)

-- fragment: accepted
claimed AS (
    -- The first of each key that passed the checks takes it. Inserted in key order, so that two processes wait for
    -- each other one way only; a key that another transaction is taking is waited for, then counts as a duplicate.
    INSERT INTO sends (sender_id, client_message_id, message_id)
    SELECT DISTINCT ON (sender_id, key) sender_id, key, id FROM checked AS c
    WHERE problem = 0 AND NOT is_duplicate AND key IS NOT NULL AND NOT ({is_early})
    ORDER BY sender_id, key, position
    ON CONFLICT DO NOTHING
    RETURNING message_id AS id
), weighed AS MATERIALIZED (
    -- All of them, with a seq if they are accepted.
    SELECT c.*, CASE WHEN c.is_good THEN c.last_seq + count(*) FILTER (WHERE c.is_good) OVER (
            PARTITION BY c.conversation_id ORDER BY c.position ROWS UNBOUNDED PRECEDING
        ) END AS seq
    FROM (
        SELECT c.*, c.problem = 0 AND NOT c.is_duplicate AND (c.key IS NULL OR c.id IN (SELECT id FROM claimed))
                   AND NOT ({is_early}) AS is_good
        FROM checked AS c OFFSET 0
    ) AS c
), accepted AS NOT MATERIALIZED (
    SELECT * FROM weighed WHERE problem = 0 AND seq IS NOT NULL
), advanced AS (
    UPDATE conversations AS c SET last_seq = a.seq, last_message_id = a.id
    FROM (
        SELECT DISTINCT ON (conversation_id) conversation_id, seq, id FROM accepted ORDER BY conversation_id, seq DESC
    ) AS a
    WHERE c.id = a.conversation_id
)

-- fragment: noted
moved AS (
    -- In the order in which receipts are written.
    UPDATE members AS m
    SET delivered_seq = greatest(m.delivered_seq, s.seq), read_seq = greatest(m.read_seq, s.seq),
        last_sent_at = CASE WHEN s.slow_seconds IS NULL THEN m.last_sent_at ELSE statement_timestamp() END
    FROM (
        SELECT conversation_id, sender_id, max(seq) AS seq, max(slow_seconds) AS slow_seconds FROM accepted
        GROUP BY 1, 2 ORDER BY 1, 2
    ) AS s
    WHERE m.conversation_id = s.conversation_id AND m.user_id = s.sender_id
), noted AS (
    INSERT INTO outbox (conversation_id, seq, conversation_ids, seqs)
    SELECT (array_agg(conversation_id ORDER BY position))[1], (array_agg(seq ORDER BY position))[1],
           array_agg(conversation_id ORDER BY position), array_agg(seq ORDER BY position)
    FROM (
        SELECT conversation_id, min(seq) AS seq, min(position) AS position FROM accepted GROUP BY conversation_id
    ) AS first
    HAVING $7::boolean AND count(*) > 0
)

-- fragment: no_file
NULL::text, NULL::text, NULL::bigint, NULL::text, NULL::integer, NULL::integer

-- fragment: file
c.file_key, c.name, c.size, c.content_type, c.width, c.height

-- fragment: details
CASE WHEN c.seq = c.last_seq + 1 THEN c.last_message_id END,
       CASE WHEN c.read_seq < c.seq - 1 THEN c.is_hidden OR coalesce((
           SELECT NOT p.read_receipts FROM privacy AS p WHERE p.user_id = c.sender_id
       ), false) ELSE false END,
       CASE WHEN c.problem = 4 THEN (1000 * extract(epoch FROM least(c.muted_until, '9999-12-31T23:59:59.999Z')))
            WHEN c.problem = 12 THEN (SELECT 1000 * extract(epoch FROM u.banned_until) FROM users AS u WHERE u.id = c.sender_id)
            WHEN c.seq IS NULL AND c.slow_seconds IS NOT NULL THEN 1000 * c.slow_seconds - CASE WHEN c.problem = 10 THEN
           floor(1000 * extract(epoch FROM statement_timestamp() - c.last_sent_at)) ELSE 0 END END::bigint

-- fragment: outcome
CASE WHEN c.seq IS NOT NULL THEN 0
            WHEN c.is_duplicate THEN 1
            WHEN EXISTS (SELECT FROM accepted AS e
                         WHERE e.sender_id = c.sender_id AND e.key = c.key AND e.position < c.position) THEN 1
            WHEN c.problem > 0 THEN c.problem
            WHEN {is_early} THEN 10
            ELSE 1 END, c.seq, c.read_seq

-- name: lane_lock_lone
-- conversations_pkey. The same for a lone message.
SELECT FROM conversations WHERE id = $1 FOR NO KEY UPDATE

-- name: lane_write_lone
-- conversations_pkey, members_pkey, sends_pkey; users_pkey of the sender, and in direct conversations of the other user, with
-- blocks_pkey; privacy_pkey where a sender catches up with what others wrote. Of one message that has no file, is no reply and
-- mentions no member, if there is nothing that lane_write_plain would have to say about it. Where there may be, it writes nothing
-- and returns no row: what it costs to begin a statement is most of what a lone message costs, so this one has only
-- what every message needs.
WITH checked AS MATERIALIZED (
    SELECT c.last_seq + 1 AS seq, m.read_seq, c.last_message_id AS previous, m.shown_read_seq IS NOT NULL AS is_hidden
    FROM conversations AS c, members AS m, users AS i
    WHERE c.id = $2 AND c.deleted_at IS NULL AND m.conversation_id = $2 AND m.user_id = $3 AND i.id = $3
        AND coalesce(greatest(i.banned_until, m.muted_until) <= clock_timestamp(), true)
        AND (m.role <> 'Member' OR NOT c.admins_post AND c.slow_mode_seconds = 0)
        AND (c.kind <> 'Direct' OR NOT EXISTS (
            SELECT FROM users AS o
            WHERE o.id = CASE WHEN c.direct_low = $3 THEN c.direct_high ELSE c.direct_low END
                AND (o.banned_until > clock_timestamp()
                     OR (SELECT b.user_id FROM blocks AS b WHERE b.user_id = o.id AND b.blocked_id = $3) IS NOT NULL)
        ))
), claimed AS (
    -- As below.
    INSERT INTO sends (sender_id, client_message_id, message_id)
    SELECT $3, $6::text, $1 FROM checked WHERE $6 IS NOT NULL
    ON CONFLICT DO NOTHING
    RETURNING message_id
), accepted AS MATERIALIZED (
    SELECT * FROM checked WHERE $6 IS NULL OR EXISTS (SELECT FROM claimed)
), advanced AS (
    UPDATE conversations AS c SET last_seq = a.seq, last_message_id = $1 FROM accepted AS a WHERE c.id = $2
), written AS (
    INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body, client_message_id)
    SELECT $1, $2, seq, seq, $3, $4, $5, $6 FROM accepted
), moved AS (
    UPDATE members AS m SET delivered_seq = greatest(m.delivered_seq, a.seq), read_seq = greatest(m.read_seq, a.seq)
    FROM accepted AS a WHERE m.conversation_id = $2 AND m.user_id = $3
), noted AS (
    INSERT INTO outbox (conversation_id, seq, conversation_ids, seqs)
    SELECT $2, seq, ARRAY[$2], ARRAY[seq] FROM accepted WHERE $7
)
SELECT a.seq, a.read_seq, a.previous, CASE WHEN a.read_seq < a.seq - 1 THEN a.is_hidden OR coalesce((
           SELECT NOT p.read_receipts FROM privacy AS p WHERE p.user_id = $3
       ), false) ELSE false END FROM accepted AS a

-- name: lane_write_plain
-- The same indexes, for each message: of several such messages, or one that may be refused.
-- Outcomes: 0 accepted, 1 duplicate, then the reasons in the order of group_commit.REFUSALS.
WITH checked AS MATERIALIZED (
    SELECT i.*, {is_duplicate} FROM (
    {plain}
    FROM {given_plain}
    {beside}
    OFFSET 0) AS i
), {accepted}, written AS (
    INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body, client_message_id)
    SELECT id, conversation_id, seq, seq, sender_id, kind, body, key FROM accepted ORDER BY position
), {noted}
SELECT {outcome}, {no_file}, {details} FROM weighed AS c ORDER BY c.position

-- name: lane_write
-- And files_pkey and messages_pkey. Of a batch in which a message has a file or is a reply: $8, $9.
WITH input AS MATERIALIZED (
    SELECT * FROM {given}
), {held}, checked AS MATERIALIZED (
    SELECT i.*, {is_duplicate} FROM (
    {looked_up}
                ELSE 0 END AS problem
    {beside_files}
    OFFSET 0) AS i
), {accepted}, written AS (
    INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body, file_id, reply_to, client_message_id)
    SELECT id, conversation_id, seq, seq, sender_id, kind, body, file_id, reply_to, key FROM accepted ORDER BY position
), {noted}
SELECT {outcome}, {file}, {details} FROM weighed AS c ORDER BY c.position

-- name: lane_write_full
-- The same, of a batch with a message that has more than that: it mentions somebody, or is a reply in a thread. members_pkey
-- for each who is named, messages_pkey for each root. $10: of each message that mentions all, how many members a conversation
-- may have for any of them to; $11, $12: who is named, by which message; $13: the root of each reply, $14: 1 if it is in the
-- conversation, too.
WITH named AS MATERIALIZED (
    SELECT * FROM unnest($11::bigint[], $12::uuid[]) WITH ORDINALITY AS n (position, user_id, nth)
), input AS MATERIALIZED (
    SELECT i.*, ($10::bigint[])[i.position::integer] AS all_up_to, n.mentions,
           ($13::uuid[])[i.position::integer] AS thread_id, ($14::bigint[])[i.position::integer] = 1 AS is_also
    FROM {given}
    LEFT JOIN (
        SELECT position, array_agg(user_id ORDER BY nth) AS mentions FROM named GROUP BY position
    ) AS n ON n.position = i.position
), strangers AS MATERIALIZED (
    SELECT DISTINCT n.position
    FROM named AS n JOIN input AS i ON i.position = n.position
    LEFT JOIN members AS m ON m.conversation_id = i.conversation_id AND m.user_id = n.user_id
    WHERE m.user_id IS NULL
), {held}, checked AS MATERIALIZED (
    SELECT i.*, {is_duplicate} FROM (
    {looked_up}
                WHEN i.position IN (SELECT position FROM strangers) THEN 7
                WHEN c.member_count > i.all_up_to AND m.role = 'Member' THEN 8
                WHEN i.thread_id IS NOT NULL AND t.id IS NULL THEN 20
                WHEN t.thread_id IS NOT NULL THEN 21
                WHEN t.kind = 'System' THEN 22
                WHEN t.deleted_at IS NOT NULL THEN 23
                ELSE 0 END AS problem, t.sender_id AS root_author, t.mentions AS root_mentions
    {beside_files}
    LEFT JOIN LATERAL (
        SELECT * FROM messages AS t WHERE t.id = i.thread_id AND t.conversation_id = i.conversation_id OFFSET 0
    ) AS t ON true
    OFFSET 0) AS i
), {accepted}, written AS (
    INSERT INTO messages (id, conversation_id, seq, changed_seq, sender_id, kind, body, file_id, reply_to, client_message_id,
        mentions, mention_all, thread_id, also_in_conversation)
    SELECT id, conversation_id, seq, seq, sender_id, kind, body, file_id, reply_to, key,
        mentions, CASE WHEN all_up_to IS NOT NULL THEN true END, thread_id, is_also
    FROM accepted ORDER BY position
), mentioned AS (
    INSERT INTO mentions (user_id, conversation_id, seq, message_id, sender_id)
    SELECT n.user_id, a.conversation_id, a.seq, a.id, a.sender_id
    FROM accepted AS a JOIN named AS n ON n.position = a.position
    WHERE a.all_up_to IS NULL AND n.user_id <> a.sender_id
    UNION ALL
    SELECT '00000000-0000-0000-0000-000000000000', conversation_id, seq, id, sender_id
    FROM accepted WHERE all_up_to IS NOT NULL
), replies AS MATERIALIZED (
    -- threads_pkey.
    SELECT a.*, b.root_id IS NULL AS is_first
    FROM accepted AS a LEFT JOIN threads AS b ON b.root_id = a.thread_id
    WHERE a.thread_id IS NOT NULL
), threaded AS (
    INSERT INTO threads AS t (root_id, conversation_id, reply_count, last_reply_id, last_reply_seq)
    SELECT thread_id, conversation_id, count(*), (array_agg(id ORDER BY seq DESC))[1], max(seq)
    FROM replies GROUP BY thread_id, conversation_id ORDER BY thread_id
    ON CONFLICT (root_id) DO UPDATE
    SET reply_count = t.reply_count + excluded.reply_count, last_reply_id = excluded.last_reply_id,
        last_reply_seq = excluded.last_reply_seq, is_shown = false
), concerned AS MATERIALIZED (
    -- Who follows the thread by this: its sender, who is named in the reply; and by its first reply the author of the root, and
    -- who is named there, as far as they are members and have not decided before. thread_members_pkey, members_pkey.
    SELECT sender_id AS user_id, thread_id, conversation_id, seq, seq AS read_seq, id AS reply_id FROM replies
    UNION ALL
    SELECT n.user_id, r.thread_id, r.conversation_id, r.seq, r.seq - 1, NULL
    FROM replies AS r JOIN named AS n ON n.position = r.position
    UNION ALL
    SELECT k.user_id, r.thread_id, r.conversation_id, r.seq, r.seq - 1, NULL
    FROM (SELECT DISTINCT ON (thread_id) * FROM replies WHERE is_first ORDER BY thread_id, seq) AS r
    CROSS JOIN LATERAL (SELECT r.root_author UNION SELECT unnest(r.root_mentions)) AS k (user_id)
    JOIN members AS m ON m.conversation_id = r.conversation_id AND m.user_id = k.user_id
    LEFT JOIN thread_members AS b ON b.user_id = k.user_id AND b.root_id = r.thread_id
    WHERE b.user_id IS NULL
), following AS (
    -- Locked in the order of users and roots. Who replies has read the thread up to there; who begins to follow, or does so
    -- again, up to what was before.
    INSERT INTO thread_members AS f (user_id, root_id, conversation_id, is_following, read_seq, reply_count, first_reply_id)
    SELECT user_id, thread_id, conversation_id, true,
           coalesce(max(read_seq) FILTER (WHERE reply_id IS NOT NULL), min(read_seq)), count(reply_id),
           (array_agg(reply_id ORDER BY seq) FILTER (WHERE reply_id IS NOT NULL))[1]
    FROM concerned GROUP BY user_id, thread_id, conversation_id ORDER BY user_id, thread_id
    ON CONFLICT (user_id, root_id) DO UPDATE
    SET is_following = true, reply_count = f.reply_count + excluded.reply_count,
        first_reply_id = coalesce(f.first_reply_id, excluded.first_reply_id),
        read_seq = CASE WHEN excluded.reply_count > 0 OR NOT f.is_following
                        THEN greatest(f.read_seq, excluded.read_seq) ELSE f.read_seq END
), {noted}
SELECT {outcome}, {file}, {details} FROM weighed AS c ORDER BY c.position
