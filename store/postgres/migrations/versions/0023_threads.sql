-- Threads: messages (roots) and the replies under them, which are messages of the same conversation.
--
-- No foreign keys, as with messages: rows are written under the lock of the conversation, and `parley purge` removes them
-- when the months of their roots are gone. Expand: code of before writes none of this, and shows replies as any messages.
-- A reply that it deletes stays counted until the next `parley migrate` (store.postgres.migrate).

-- Of a reply, its root, and whether the main history shows it, too. Of a root, what everybody is shown of its replies:
-- {"replyCount", "lastReplyAt", "participantIds"}; NULL: there are none. Written with a change of the root, a moment later.
ALTER TABLE messages ADD COLUMN thread_id uuid, ADD COLUMN also_in_conversation boolean, ADD COLUMN thread jsonb;

-- Each thread, exactly: changed in the transactions that write and delete replies.
CREATE TABLE threads (
    root_id         uuid PRIMARY KEY, -- serves retention, as ids are of time
    conversation_id uuid NOT NULL,
    reply_count     bigint NOT NULL, -- of replies that are there
    last_reply_id   uuid, -- the last one that is there
    last_reply_seq  bigint NOT NULL, -- its seq; 0 if there is none
    is_shown        boolean NOT NULL DEFAULT false -- whether the root shows that much
) WITH (fillfactor = 80);
-- Serves list_unshown: those whose root is to be changed.
CREATE INDEX threads_unshown ON threads (root_id) WHERE NOT is_shown;

-- Who has to do with a thread: has replied, follows it, or has followed it.
CREATE TABLE thread_members (
    user_id         uuid NOT NULL,
    root_id         uuid NOT NULL,
    conversation_id uuid NOT NULL,
    is_following    boolean NOT NULL,
    read_seq        bigint NOT NULL, -- replies up to here are read
    reply_count     bigint NOT NULL DEFAULT 0, -- of their replies that are there
    first_reply_id  uuid, -- their first one; NULL if none is there
    version         bigint NOT NULL DEFAULT 0, -- of what they have set: each change draws from settings_versions
    changed_at      timestamptz, -- when that was: read by an instance that has been cut off from the others
    PRIMARY KEY (user_id, root_id) -- serves the list of a user, the newest roots first, and their export
);
-- Serves the participants of a thread, and retention.
CREATE INDEX thread_members_root ON thread_members (root_id, first_reply_id);
-- Serves list_threads_changed.
CREATE INDEX thread_members_changed ON thread_members (user_id, changed_at) WHERE changed_at IS NOT NULL;

-- The user of whose part in the thread `conversation_id` a row announces to their own connections; its seq is the version,
-- negative. Code of before takes such a row for a batch without changes, and deletes it.
ALTER TABLE outbox ADD COLUMN thread_of uuid;

-- Serves the replies of a thread. Where there are messages, their partitions get theirs afterwards, without a lock that
-- anybody waits for (store.postgres.migrate); new partitions are made with it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM messages) THEN
        CREATE INDEX messages_thread ON ONLY messages (thread_id, seq) WHERE thread_id IS NOT NULL AND deleted_at IS NULL;
    ELSE
        CREATE INDEX messages_thread ON messages (thread_id, seq) WHERE thread_id IS NOT NULL AND deleted_at IS NULL;
    END IF;
END
$$;
