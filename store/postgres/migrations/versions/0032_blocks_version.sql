-- Users' own devices hear that their list of blocks is another.
--
-- The version of the last change of the list, drawn from settings_versions. Code of before does not write it; of what that
-- blocks the rows have the version.
ALTER TABLE users ADD COLUMN blocks_version bigint NOT NULL DEFAULT 0;
