-- The order of a list of conversations, by the database's own count and not by the clock of whichever instance a message
-- went through.
--
-- A default, so that instances of before fill it too; NULL in what is older, which is ordered by id, as before. Without a
-- cache: the numbers of two sessions are in the order in which they were drawn. In a conversation they rise with seq, as
-- its row is locked when they are drawn.
CREATE SEQUENCE message_places CACHE 1;
ALTER TABLE messages ADD COLUMN place bigint;
ALTER TABLE messages ALTER COLUMN place SET DEFAULT nextval('message_places');
