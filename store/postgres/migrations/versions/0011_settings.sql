-- What each member has set for themselves in a conversation: muted notifications, archived, favourite.
--
-- Not `muted_until`, which says that a member may not write. The columns have constant defaults, and no row is written.
ALTER TABLE members
    ADD COLUMN archived                  boolean NOT NULL DEFAULT false,
    ADD COLUMN favourite                 boolean NOT NULL DEFAULT false,
    ADD COLUMN notifications_muted_until timestamptz,
    -- When they were changed last: read by an instance that has been cut off from the others.
    ADD COLUMN settings_changed_at       timestamptz;
-- Which of two states of a member's settings is the later one: each change draws the next number while the row is locked.
-- A default, so that a user who joins again begins above what they had before; NULL, in what is older, counts as 0.
-- Without a cache: numbers are in the order in which they were drawn.
CREATE SEQUENCE settings_versions CACHE 1;
ALTER TABLE members ADD COLUMN settings_version bigint;
ALTER TABLE members ALTER COLUMN settings_version SET DEFAULT nextval('settings_versions');

-- The user whose settings of `conversation_id` a row announces, to the user's own connections; its seq is the version,
-- negative. Code of before takes such a row for a batch without changes, and deletes it.
ALTER TABLE outbox ADD COLUMN settings_of uuid;
