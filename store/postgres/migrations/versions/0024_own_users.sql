-- API keys of applications, and the ids by which these know their users.
--
-- New tables, so that no index is built on a large one. Expand: code of before does not know them; a user whom it erases
-- loses their external id by the trigger.

-- Of a secret only its SHA-256: who reads the database cannot use a key.
CREATE TABLE api_keys (
    id             uuid PRIMARY KEY, -- a UUIDv7: when. Part of the key: serves fetch_api_key
    name           text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 64),
    scopes         text[] NOT NULL,
    user_id        uuid REFERENCES users, -- as whom it acts by itself; NULL: as no user
    secret_hash    bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    previous_hash  bytea CHECK (octet_length(previous_hash) = 32), -- of the secret before the last rotation
    previous_until timestamptz, -- until when that one is good
    expires_at     timestamptz, -- NULL: never
    revoked_at     timestamptz,
    last_used_at   timestamptz -- to about a minute
);
-- Names of keys that are not revoked are unique. Serves find_api_key.
CREATE UNIQUE INDEX api_keys_name ON api_keys (name) WHERE revoked_at IS NULL;

-- By its SHA-256, which stays when the user is erased: a token that still names the id does not make them again.
CREATE TABLE external_ids (
    hash        bytea PRIMARY KEY CHECK (octet_length(hash) = 32), -- serves fetch_external_id, and decides between two at once
    external_id text CHECK (octet_length(external_id) BETWEEN 1 AND 255), -- NULL: the user was erased
    user_id     uuid NOT NULL UNIQUE REFERENCES users DEFERRABLE INITIALLY DEFERRED -- written before its user. Serves {user}
);

CREATE FUNCTION forget_external_id() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE external_ids SET external_id = NULL WHERE user_id = NEW.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER users_forget_external_id AFTER UPDATE OF deleted_at ON users FOR EACH ROW
    WHEN (NEW.deleted_at IS NOT NULL AND OLD.deleted_at IS NULL)
    EXECUTE FUNCTION forget_external_id();
