-- Who is mentioned in which message.

-- As the message shows it; NULL where it mentions none. Expand: code of before writes neither, and shows neither.
ALTER TABLE messages ADD COLUMN mentions uuid[], ADD COLUMN mention_all boolean;

-- A row for each user who is mentioned by name, but for the sender; of a message that mentions all, one row of no user
-- instead (ids of 0), whatever it names. So no message counts twice for anybody, and a mention of 10,000 members is one row.
CREATE TABLE mentions (
    user_id         uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq             bigint NOT NULL, -- that of the message, however late an edit has mentioned somebody
    message_id      uuid NOT NULL,
    sender_id       uuid NOT NULL,
    PRIMARY KEY (user_id, conversation_id, seq) -- serves the counts, from the index alone
);
-- Serves list_mentions.
CREATE INDEX mentions_listed ON mentions (user_id, conversation_id, message_id);
-- Serves edits, deletions and the purge.
CREATE INDEX mentions_message ON mentions (message_id);
