-- How far back the history of a conversation goes.

-- The highest changed_seq that retention has dropped: a client with a lower cursor cannot be caught up.
ALTER TABLE conversations ADD COLUMN floor_seq bigint NOT NULL DEFAULT 0;
