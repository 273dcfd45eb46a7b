-- Names as they are compared: folded by our own code (store.names), not by the database's locale.
--
-- Expand: the columns are filled by code of this release when it writes a name, and in batches by store.postgres.users.fold_old
-- (`parley migrate`, `parley purge`, every registration) for rows that older code has written. `users_username` stays:
-- older code needs it for its ON CONFLICT. A later release drops it.

ALTER TABLE users
    ADD COLUMN username_folded     text COLLATE "C", -- for look-up and search; NULL: not folded yet, or deleted
    ADD COLUMN display_name_folded text COLLATE "C", -- for search
    -- The two that reserve a name. NULL where an older user has what is the same, or looks the same.
    ADD COLUMN username_key        text COLLATE "C",
    ADD COLUMN username_skeleton   text COLLATE "C";
-- No name that is the same as another user's can be registered. Serves insert_user.
CREATE UNIQUE INDEX users_username_key ON users (username_key) WHERE username_key IS NOT NULL;
-- Nor what looks the same.
CREATE UNIQUE INDEX users_username_skeleton ON users (username_skeleton) WHERE username_skeleton IS NOT NULL;
-- Serves fetch_user_by_name, and list_users as a range.
CREATE INDEX users_username_folded ON users (username_folded, id) WHERE username_folded IS NOT NULL;
-- Serves list_users (prefix of the display name).
CREATE INDEX users_display_name_folded ON users (display_name_folded, id) WHERE display_name_folded IS NOT NULL;
-- Serves list_unfolded.
CREATE INDEX users_unfolded ON users (id)
    WHERE (username_folded IS NULL OR display_name_folded IS NULL) AND deleted_at IS NULL;

-- What older code changes without knowing the columns: a deleted user's name is free, a changed display name is to be
-- folded anew.
CREATE FUNCTION forget_folded_names() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.deleted_at IS NOT NULL THEN
        NEW.username_folded := NULL;
        NEW.display_name_folded := NULL;
        NEW.username_key := NULL;
        NEW.username_skeleton := NULL;
    ELSIF NEW.display_name_folded IS NOT DISTINCT FROM OLD.display_name_folded
        AND lower(NEW.display_name) <> lower(OLD.display_name) THEN
        NEW.display_name_folded := NULL;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER users_forget_folded_names BEFORE UPDATE OF display_name, deleted_at ON users
    FOR EACH ROW EXECUTE FUNCTION forget_folded_names();
