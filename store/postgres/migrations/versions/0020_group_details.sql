-- What admins set for a group besides its title: description, picture, who sends messages, and slow mode.
--
-- Columns with constant defaults and constraints that old rows are not read for. Expand: code of before lets everybody send
-- in such a group, and shows none of it.
ALTER TABLE conversations
    ADD COLUMN description       text,
    ADD COLUMN avatar_url        text,
    ADD COLUMN admins_post       boolean NOT NULL DEFAULT false, -- only they send messages
    ADD COLUMN slow_mode_seconds integer NOT NULL DEFAULT 0; -- between two messages of one member; 0: none
ALTER TABLE conversations ADD CONSTRAINT conversations_details CHECK (
    char_length(description) <= 1024 AND octet_length(avatar_url) <= 2048 AND slow_mode_seconds BETWEEN 0 AND 21600
) NOT VALID;

-- When a member sent a message last. Written where slow mode is on, and only for those who wait for it.
ALTER TABLE members ADD COLUMN last_sent_at timestamptz;
