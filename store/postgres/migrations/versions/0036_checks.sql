-- Conversations and members are checked where what the checks are about is written, and not by each message.
--
-- PostgreSQL reads a CHECK anew in every statement that writes a row, whatever it writes: a lone message, which raises last_seq
-- and the sender's cursors, spent a sixth of its statement on checks of columns that it left alone. A trigger names its
-- columns. What is refused, and under which name, is the same. Expand: code of before writes what it wrote.
CREATE FUNCTION check_conversation() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    broken text := CASE
        WHEN NOT NEW.kind IN ('Direct', 'Group') THEN 'conversations_kind_check'
        WHEN NOT char_length(NEW.title) <= 256 THEN 'conversations_title_check'
        WHEN NOT NEW.member_count >= 0 THEN 'conversations_member_count_check'
        WHEN NOT (NEW.kind = 'Direct') = (NEW.direct_low IS NOT NULL AND NEW.direct_high IS NOT NULL) THEN 'conversations_check'
        WHEN NOT NEW.direct_low <= NEW.direct_high THEN 'conversations_check1'
        WHEN NOT (char_length(NEW.description) <= 1024 AND octet_length(NEW.avatar_url) <= 2048
                  AND NEW.slow_mode_seconds BETWEEN 0 AND 21600) THEN 'conversations_details'
    END;
BEGIN
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION 'new row for relation "conversations" violates check %', broken
            USING ERRCODE = 'check_violation', CONSTRAINT = broken, TABLE = 'conversations';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_conversation
    AFTER INSERT OR UPDATE OF kind, title, direct_low, direct_high, member_count, description, avatar_url, slow_mode_seconds
    ON conversations FOR EACH ROW EXECUTE FUNCTION check_conversation();
ALTER TABLE conversations
    DROP CONSTRAINT conversations_kind_check,
    DROP CONSTRAINT conversations_title_check,
    DROP CONSTRAINT conversations_member_count_check,
    DROP CONSTRAINT conversations_check,
    DROP CONSTRAINT conversations_check1,
    DROP CONSTRAINT conversations_details;

CREATE FUNCTION check_member() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT NEW.role IN ('Owner', 'Admin', 'Member') THEN
        RAISE EXCEPTION 'new row for relation "members" violates check members_role_check'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'members_role_check', TABLE = 'members';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER check_member AFTER INSERT OR UPDATE OF role ON members FOR EACH ROW EXECUTE FUNCTION check_member();
ALTER TABLE members DROP CONSTRAINT members_role_check;
