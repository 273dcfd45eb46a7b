-- Users who may not come into a conversation again until a time.
--
-- Written under the lock of the conversation; no foreign keys, as rows go with it. Expand: code of before lets them join.
CREATE TABLE member_bans (
    conversation_id uuid NOT NULL,
    user_id         uuid NOT NULL,
    until           timestamptz NOT NULL, -- for ever: the last millisecond of the year 9999
    created_by      uuid NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (conversation_id, user_id) -- serves every look-up
);
-- Serves delete_member_bans_of.
CREATE INDEX member_bans_user ON member_bans (user_id);
