-- Sign-in sessions that end, pictures' sizes, and requests that may come twice.

-- Parallel to `dismissed`: the one sign-in session that a batch ends, or NULL for all of the user's connections.
ALTER TABLE outbox ADD COLUMN dismissed_sessions uuid[] NOT NULL DEFAULT '{}';

-- Pixels; NULL for what is no picture.
ALTER TABLE files ADD COLUMN width integer CHECK (width > 0), ADD COLUMN height integer CHECK (height > 0);

-- What was made by a request with an Idempotency-Key; written by the transaction that made it. Messages have `sends`.
CREATE TABLE creations (
    scope       uuid NOT NULL, -- the user who asked; the nil UUID for a registration
    key         text NOT NULL CHECK (char_length(key) BETWEEN 1 AND 128),
    fingerprint bytea NOT NULL, -- SHA-256 of what was asked for: a key is good for one request
    resource_id uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, key) -- serves the claim, and delete_user as a range
);
-- Serves the purge: what is older than the idempotency window.
CREATE INDEX creations_age ON creations (created_at);
