-- How far back the history of a conversation goes.

-- The highest changed_seq that retention has dropped: whoever has seen less cannot be caught up from what is there.
ALTER TABLE conversations ADD COLUMN floor_seq bigint NOT NULL DEFAULT 0;
