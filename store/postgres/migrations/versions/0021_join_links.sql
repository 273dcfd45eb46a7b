-- Links by which people join a group.
--
-- Of a token only its SHA-256: who reads the database cannot join by it. No foreign keys: rows are written under the lock of
-- the conversation, go with it, and `parley purge` takes those that have expired. Expand: code of before does not know them.
CREATE TABLE join_links (
    conversation_id uuid NOT NULL,
    id              uuid NOT NULL, -- a UUIDv7: when
    token_hash      bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32), -- serves find_link, use_link
    created_by      uuid NOT NULL,
    expires_at      timestamptz NOT NULL,
    max_uses        integer CHECK (max_uses > 0), -- NULL: any number
    uses            integer NOT NULL DEFAULT 0,
    CHECK (uses <= max_uses),
    PRIMARY KEY (conversation_id, id) -- serves list_links, count_links
);
-- Serves the purge.
CREATE INDEX join_links_expiry ON join_links (expires_at);
