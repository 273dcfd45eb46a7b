-- When each member joined, in the conversation's own order.

-- The seq of the change that made it a member: what was written up to there it has neither got nor read. 0 for those who
-- were members before this column: they count as there from the beginning.
ALTER TABLE members ADD COLUMN joined_seq bigint NOT NULL DEFAULT 0;
