-- Webhooks: applications that are sent what happens, how far each of them has got in each conversation, and what could not
-- be delivered.
--
-- No event is written when it happens: the changes of conversations are the events, and positions say which of them an
-- endpoint has. Expand: code of before fills the queue by the trigger, without knowing it, and delivers nothing.
CREATE TABLE webhooks (
    id               uuid PRIMARY KEY, -- a UUIDv7: when
    url              text NOT NULL CHECK (octet_length(url) BETWEEN 1 AND 2048),
    events           text[] NOT NULL, -- their types; none: all
    conversation_id  uuid, -- NULL: all
    secret           bytea NOT NULL, -- sealed (store.sealing)
    old_secret       bytea, -- signs beside it until then
    old_secret_until timestamptz,
    -- Deleted: until its positions are gone, too.
    state            text NOT NULL DEFAULT 'Active' CHECK (state IN ('Active', 'Paused', 'Disabled', 'Deleted')),
    failing_since    timestamptz, -- the first attempt to fail since the last one that did not
    last_failure     text -- why the last one did
);

-- Up to where an endpoint has the events of a conversation. No foreign keys: rows of a deleted endpoint are removed in
-- batches, by the instance that delivers.
CREATE TABLE webhook_positions (
    webhook_id      uuid NOT NULL,
    conversation_id uuid NOT NULL,
    seq             bigint NOT NULL, -- what is behind it is still to be delivered
    noted_seq       bigint NOT NULL, -- there are changes up to here
    due_at          timestamptz, -- when to go on; NULL: nothing waits
    waiting_since   timestamptz NOT NULL, -- not before then was made what waits
    attempts        integer NOT NULL DEFAULT 0, -- of the event behind `seq`, that failed
    failing_since   timestamptz, -- the first of them
    PRIMARY KEY (webhook_id, conversation_id)
) WITH (fillfactor = 70);
-- Serves list_webhooks_due, and what is asked for in all that waits.
CREATE INDEX webhook_positions_due ON webhook_positions (webhook_id, due_at) WHERE due_at IS NOT NULL;

-- Events that were given up. What they are about is read again when they are replayed.
CREATE TABLE webhook_dead_letters (
    webhook_id      uuid NOT NULL,
    number          bigint GENERATED ALWAYS AS IDENTITY,
    event_id        text NOT NULL, -- the header webhook-id
    type            text NOT NULL,
    conversation_id uuid NOT NULL,
    seq             bigint NOT NULL,
    message_id      uuid NOT NULL,
    attempts        integer NOT NULL,
    failed_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason          text NOT NULL,
    replay_at       timestamptz, -- to be delivered then
    PRIMARY KEY (webhook_id, number), -- serves the list
    UNIQUE (webhook_id, event_id)
);
-- Serves list_webhook_replays.
CREATE INDEX webhook_dead_letters_replay ON webhook_dead_letters (webhook_id, replay_at) WHERE replay_at IS NOT NULL;
-- Serves the purge.
CREATE INDEX webhook_dead_letters_age ON webhook_dead_letters (failed_at);

-- What was committed and then published: batches that have left the outbox.
CREATE TABLE webhook_queue (
    position         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conversation_ids uuid[] NOT NULL,
    seqs             bigint[] NOT NULL, -- the first change of the batch in each conversation
    created_at       timestamptz NOT NULL -- when the batch was written
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- A batch leaves the outbox when it is published: behind the answers to its senders. One trigger for both queues, as each
-- would be called for each batch.
CREATE OR REPLACE FUNCTION note_searchable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO message_search_queue (conversation_ids, seqs, created_at)
    SELECT conversation_ids, seqs, created_at FROM gone WHERE cardinality(conversation_ids) > 0;
    IF EXISTS (SELECT FROM webhooks) THEN
        INSERT INTO webhook_queue (conversation_ids, seqs, created_at)
        SELECT conversation_ids, seqs, created_at FROM gone WHERE cardinality(conversation_ids) > 0;
    END IF;
    RETURN NULL;
END
$$;
