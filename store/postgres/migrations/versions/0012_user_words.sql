-- Users are found as people type: without accents, and by later words of their names (store.names.words).
--
-- Expand: new tables, so that no index is built on a large one. Code of this release writes the words of a name together with
-- it. Of names that are there already, or that older code writes, they are filled in in batches (`parley migrate`,
-- `parley purge`, every registration); until then such a user is found as before.

CREATE TABLE user_words (
    user_id uuid NOT NULL REFERENCES users,
    word    text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_id, word) -- serves the triggers
);
-- Serves list_users_by_word, as a range.
CREATE INDEX user_words_word ON user_words (word, user_id);

-- Users whose words are to be written: a name was written, and no words after it.
CREATE TABLE wordless_users (
    user_id uuid PRIMARY KEY REFERENCES users
);
-- How far the users are done who were there before this migration, in the order of ids. No row: all are.
CREATE TABLE words_progress (
    last_id uuid NOT NULL
);
INSERT INTO words_progress VALUES ('00000000-0000-0000-0000-000000000000');

CREATE FUNCTION forget_words() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM user_words WHERE user_id = NEW.id;
    IF NEW.deleted_at IS NULL THEN
        INSERT INTO wordless_users VALUES (NEW.id) ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM wordless_users WHERE user_id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER users_new_words AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION forget_words();
CREATE TRIGGER users_other_words AFTER UPDATE OF username, display_name, deleted_at ON users FOR EACH ROW
    WHEN ((NEW.username, NEW.display_name, NEW.deleted_at) IS DISTINCT FROM (OLD.username, OLD.display_name, OLD.deleted_at))
    EXECUTE FUNCTION forget_words();
