-- Parley's tables. Each index names the query it serves. Enums are their wire names, checked.
-- Times that can be read off a UUIDv7 are not stored a second time (messages, sends, files).

CREATE TABLE users (
    id           uuid PRIMARY KEY,
    username     text NOT NULL CHECK (char_length(username) BETWEEN 1 AND 64),
    display_name text NOT NULL CHECK (char_length(display_name) BETWEEN 1 AND 128),
    email        text CHECK (char_length(email) <= 320),
    avatar_url   text CHECK (char_length(avatar_url) <= 2048),
    status       text NOT NULL DEFAULT 'Online' CHECK (status IN ('Online', 'Away', 'Busy', 'Offline')),
    status_text  text CHECK (char_length(status_text) <= 256),
    last_seen_at timestamptz,
    created_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz -- the row stays, anonymised: messages point at it
) WITH (fillfactor = 80);
-- Usernames are unique whatever their case. Serves fetch_user_by_name and, as a range, list_users.
CREATE UNIQUE INDEX users_username ON users (lower(username) text_pattern_ops);
-- Serves list_users (prefix of the display name).
CREATE INDEX users_display_name ON users (lower(display_name) text_pattern_ops) WHERE deleted_at IS NULL;

CREATE TABLE identities (
    provider   text NOT NULL,
    subject    text NOT NULL,
    user_id    uuid NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, subject) -- serves the sign-in
);
-- Serves delete_user.
CREATE INDEX identities_user ON identities (user_id);

CREATE TABLE sessions (
    id            uuid PRIMARY KEY, -- part of the refresh token: serves the refresh
    user_id       uuid NOT NULL REFERENCES users,
    token_hash    bytea NOT NULL, -- of the only refresh token that is good now
    previous_hash bytea, -- of the one before; presenting it again means it was stolen, or the answer was lost
    rotated_at    timestamptz,
    client        text,
    address       text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_used_at  timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    revoked_at    timestamptz
);
-- Serves the list of a user's sessions, and delete_user.
CREATE INDEX sessions_user ON sessions (user_id);
-- Serves the purge of expired sessions.
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE conversations (
    id              uuid PRIMARY KEY,
    kind            text NOT NULL CHECK (kind IN ('Direct', 'Group')),
    title           text CHECK (char_length(title) <= 256),
    created_by      uuid REFERENCES users,
    created_at      timestamptz NOT NULL DEFAULT now(),
    deleted_at      timestamptz, -- the row stays: its head leads everybody to the change that dissolved it
    direct_low      uuid,
    direct_high     uuid,
    last_seq        bigint NOT NULL DEFAULT 0, -- the head; raised only under this row's lock: no gaps
    last_message_id uuid, -- a UUIDv7, so it also says when the conversation was last active
    member_count    integer NOT NULL DEFAULT 0 CHECK (member_count >= 0),
    CHECK ((kind = 'Direct') = (direct_low IS NOT NULL AND direct_high IS NOT NULL)),
    CHECK (direct_low <= direct_high)
) WITH (fillfactor = 60); -- every batch updates it in place: no index holds what changes
-- One conversation per pair. Serves insert_direct.
CREATE UNIQUE INDEX conversations_direct ON conversations (direct_low, direct_high)
    WHERE kind = 'Direct' AND deleted_at IS NULL;

CREATE TABLE members (
    conversation_id uuid NOT NULL REFERENCES conversations,
    user_id         uuid NOT NULL REFERENCES users,
    role            text NOT NULL CHECK (role IN ('Owner', 'Admin', 'Member')),
    joined_at       timestamptz NOT NULL DEFAULT now(),
    delivered_seq   bigint NOT NULL DEFAULT 0,
    read_seq        bigint NOT NULL DEFAULT 0,
    muted_until     timestamptz,
    PRIMARY KEY (conversation_id, user_id) -- serves the lanes, fetch_member, list_members, the cursors
) WITH (fillfactor = 70); -- receipts update it in place
-- Serves list_memberships (at every connect) and list_conversations.
CREATE INDEX members_user ON members (user_id, conversation_id);

-- No foreign keys: the lanes check what they insert under the conversation's lock, and retention drops
-- whole partitions. (conversation_id, seq) is unique by that lock; an index could not enforce it across partitions.
CREATE TABLE messages (
    id                uuid NOT NULL,
    conversation_id   uuid NOT NULL,
    seq               bigint NOT NULL CHECK (seq > 0),
    changed_seq       bigint NOT NULL,
    sender_id         uuid NOT NULL,
    reply_to          uuid,
    file_id           uuid,
    edited_at         timestamptz,
    deleted_at        timestamptz,
    kind              text NOT NULL CHECK (kind IN ('Text', 'Image', 'File', 'Emoji', 'System')),
    client_message_id text,
    body              text NOT NULL,
    CHECK (changed_seq >= seq),
    PRIMARY KEY (id) -- serves fetch_message, edits, deletes, the reply check
) PARTITION BY RANGE (id);
-- Serves list_messages, list_changes (messages never changed since), unread counts.
CREATE INDEX messages_seq ON messages (conversation_id, seq);
-- Serves list_changes (messages edited or deleted since). Partial, so a plain send does not pay for it.
CREATE INDEX messages_changed_seq ON messages (conversation_id, changed_seq) WHERE changed_seq > seq;
-- Serves "who may see this file" and the purge of orphaned files.
CREATE INDEX messages_file ON messages (file_id) WHERE file_id IS NOT NULL;

CREATE TABLE sends (
    sender_id         uuid NOT NULL,
    client_message_id text NOT NULL CHECK (char_length(client_message_id) BETWEEN 1 AND 128),
    message_id        uuid NOT NULL,
    PRIMARY KEY (sender_id, client_message_id) -- the promise of no duplicates
);
-- Serves the purge: what is older than the idempotency window.
CREATE INDEX sends_message ON sends (message_id);

-- One row per committed batch, keyed by its first change, until its changes are published.
CREATE TABLE outbox (
    conversation_id  uuid NOT NULL,
    seq              bigint NOT NULL,
    conversation_ids uuid[] NOT NULL,
    seqs             bigint[] NOT NULL, -- the first change of the batch in each conversation
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (conversation_id, seq) -- serves the delete; the relay scans what is left, a few rows
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE files (
    id           uuid PRIMARY KEY,
    owner_id     uuid NOT NULL REFERENCES users,
    key          text NOT NULL UNIQUE, -- serves the look-up by fileKey
    name         text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 255),
    content_type text NOT NULL CHECK (char_length(content_type) BETWEEN 1 AND 255),
    size         bigint NOT NULL CHECK (size >= 0),
    sha256       bytea CHECK (octet_length(sha256) = 32),
    state        text NOT NULL CHECK (state IN ('Pending', 'Ready', 'Deleted')),
    created_at   timestamptz NOT NULL DEFAULT now()
);
-- Serves the purge of uploads that were never completed, and of objects whose row says deleted.
CREATE INDEX files_unfinished ON files (created_at) WHERE state <> 'Ready';
-- Serves the purge of ready files that no message holds.
CREATE INDEX files_owner ON files (owner_id);

-- The smallest UUIDv7 of a moment; the same as store.ids.id_floor.
CREATE FUNCTION uuid7_floor(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000000000000000')::uuid
$$;

-- Makes the partitions from the month before `at` (clocks differ) to `ahead` months after it; returns the
-- new ones. A table is made first and attached then, which does not stop readers and writers. Two at once are fine.
CREATE FUNCTION ensure_message_partitions(at timestamptz, ahead integer) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    this_month timestamp := date_trunc('month', at AT TIME ZONE 'UTC');
    first timestamp;
    partition text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('parley.partitions'));
    FOR i IN -1 .. ahead LOOP
        first := this_month + make_interval(months => i);
        partition := to_char(first, '"messages_y"YYYY"m"MM');
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE messages INCLUDING ALL)', partition);
        EXECUTE format(
            'ALTER TABLE messages ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition,
            uuid7_floor(first AT TIME ZONE 'UTC'),
            uuid7_floor((first + interval '1 month') AT TIME ZONE 'UTC'));
        RETURN NEXT partition;
    END LOOP;
END
$$;

SELECT ensure_message_partitions(now(), 3);
