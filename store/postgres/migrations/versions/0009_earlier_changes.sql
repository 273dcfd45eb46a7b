-- Which changes a message has had between the one that made it and the last one: a cursor that names one of them can be
-- proved (store.postgres.cursors).
--
-- Pairs, oldest first: the changed_seq, and the time of the last edit or deletion by then (milliseconds, 0 for none). NULL
-- for a message that was changed once at most. Expand: code of before changes messages without keeping this; a cursor at
-- such a change cannot be proved, and its client reads the conversation anew.
ALTER TABLE messages ADD COLUMN earlier_changes bigint[];
