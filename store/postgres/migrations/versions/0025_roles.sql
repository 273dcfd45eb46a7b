-- Roles of users in the whole service, bans, and the audit log.
--
-- Columns without a default, and a constraint that old rows are not read for. Expand: code of before knows the roles in
-- tokens only, lets in who is banned, and writes no audit log.
ALTER TABLE users
    ADD COLUMN role         text, -- NULL: User
    ADD COLUMN banned_until timestamptz; -- for ever: the last millisecond of the year 9999
ALTER TABLE users ADD CONSTRAINT users_role CHECK (role IN ('Moderator', 'Administrator')) NOT VALID;

-- What moderators and administrators have done, and who has signed in. No foreign keys, no content of messages: it outlives
-- what it is about.
CREATE TABLE audit (
    id              uuid PRIMARY KEY, -- a UUIDv7: when; serves list_audit, the purge
    act             text NOT NULL,
    actor_id        uuid, -- NULL: an operator, by `parley admin`
    user_id         uuid, -- whom it is about
    conversation_id uuid,
    object_id       uuid, -- a message, a session, or a report
    until           timestamptz,
    detail          text CHECK (char_length(detail) <= 256), -- a role, for example
    reason          text CHECK (char_length(reason) <= 512),
    address         text CHECK (char_length(address) <= 64) -- the network of a sign-in
);
-- Serve list_audit, the limit of sign-ins, and forget_audit_of.
CREATE INDEX audit_user ON audit (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX audit_actor ON audit (actor_id, id) WHERE actor_id IS NOT NULL;
CREATE INDEX audit_conversation ON audit (conversation_id, id) WHERE conversation_id IS NOT NULL;
CREATE INDEX audit_act ON audit (act, id);

-- Entries are only added, and removed by retention. When a user is erased they lose what is personal besides ids.
CREATE FUNCTION keep_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (new.id, new.act, new.actor_id, new.user_id, new.conversation_id, new.object_id, new.until, new.detail)
            IS DISTINCT FROM
            (old.id, old.act, old.actor_id, old.user_id, old.conversation_id, old.object_id, old.until, old.detail)
        OR new.reason IS DISTINCT FROM old.reason AND new.reason IS NOT NULL
        OR new.address IS DISTINCT FROM old.address AND new.address IS NOT NULL
    THEN
        RAISE EXCEPTION 'entries of the audit log are not changed';
    END IF;
    RETURN new;
END
$$;
CREATE TRIGGER keep_audit BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION keep_audit();

-- Why the connections of a user or session end; NULL: the user was deleted, or the session ended. Code of before says that.
ALTER TABLE outbox ADD COLUMN end_reason text;
