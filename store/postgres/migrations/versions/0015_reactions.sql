-- Reactions: who has put which emoji under which message, once each. What everybody is shown of them stands in the message.
--
-- No foreign keys, as with messages: rows are checked under the lock of the conversation, and `parley purge` removes them
-- when the months of their messages are gone. Expand: code of before writes none of this; what it deletes keeps its rows.
CREATE TABLE reactions (
    id         uuid NOT NULL, -- a UUIDv7: when
    message_id uuid NOT NULL,
    user_id    uuid NOT NULL,
    emoji      text COLLATE "C" NOT NULL CHECK (octet_length(emoji) BETWEEN 1 AND 128),
    PRIMARY KEY (user_id, message_id, emoji) -- serves list_reactors, the erasure and the export of a user
);
-- Serves the list of who has reacted, the first of each kind, and the purge.
CREATE INDEX reactions_message ON reactions (message_id, emoji, id);

-- Deleted messages of which reactions were left: too many for the transaction of the deletion. For `parley purge`.
CREATE TABLE reactions_left (
    message_id uuid PRIMARY KEY
);

-- [{"emoji", "count", "userIds"}]: each kind in the order of its first, with the first ten users. NULL: none. Written with
-- every change of the rows, so that who reads a message counts nothing.
ALTER TABLE messages ADD COLUMN reactions jsonb;
