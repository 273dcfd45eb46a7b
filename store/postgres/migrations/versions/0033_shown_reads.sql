-- Two users between whom there is a block see no more of how far the other reads their direct conversation.
--
-- As far as the other one sees it, since then; NULL: as far as the member has read. Code of before shows all of it, and where it blocks
-- or unblocks, nothing changes here.
ALTER TABLE members ADD COLUMN shown_read_seq bigint;
