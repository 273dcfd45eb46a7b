-- Users who are erased, of whom rows are left that are deleted a bounded number at a time.
--
-- A row is made with the erasure, and goes when nothing is left. Code of before deletes all of it with the user.
CREATE TABLE erasures (
    user_id uuid PRIMARY KEY REFERENCES users (id)
);
