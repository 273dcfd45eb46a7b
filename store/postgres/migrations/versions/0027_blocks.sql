-- Users who have blocked others.
--
-- A row for each block: few of all users have any, so that it is looked up without cost. Code of before lets the blocked write.
CREATE TABLE blocks (
    user_id    uuid NOT NULL REFERENCES users,
    blocked_id uuid NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    version    bigint NOT NULL, -- drawn from settings_versions: of two changes that instances hear of, the higher counts
    PRIMARY KEY (user_id, blocked_id), -- serves the lanes, list_unavailable, list_blocks
    CHECK (user_id <> blocked_id)
);
-- Serves list_blocks_around, and delete_blocks_of.
CREATE INDEX blocks_blocked ON blocks (blocked_id, user_id);
