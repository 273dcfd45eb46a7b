-- Groups that were dissolved, of which members are left that are deleted a bounded number at a time.
--
-- A row is made with the dissolution, and goes when no member is left. While it is there, that group has no members, whatever
-- `members` has. Code of before does not look here: it takes them for members until their rows are gone, which is soon.
CREATE TABLE dissolutions (
    conversation_id uuid PRIMARY KEY REFERENCES conversations (id)
);
