-- Pins: messages that a conversation keeps at hand, up to fifty of them.
--
-- When and by whom stands in the message, which everybody is shown; the table says where to look. Its rows are changed under
-- the lock of the conversation, together with the message. Expand: what code of before deletes keeps its row here, which
-- counts for nothing, as the message says that it is deleted; `parley purge` takes it with the month of the message.
ALTER TABLE messages ADD COLUMN pinned_at timestamptz, ADD COLUMN pinned_by uuid;
CREATE TABLE pins (
    conversation_id uuid NOT NULL,
    message_id      uuid NOT NULL,
    PRIMARY KEY (conversation_id, message_id) -- serves list_pins, count_pins
);
-- Serves the purge.
CREATE INDEX pins_message ON pins (message_id);
