-- Search of messages: their terms (store.search_text), and which conversations have changes that are not in them yet.
--
-- Expand: all of it stands beside the messages. Instances of before fill the queue by the trigger, without knowing it.
-- What was written before this revision is brought in by the first rebuild, which instances of this version carry out.

-- The terms of one message, in order. No index but the key: they are read for the newest messages of a conversation, and
-- for those of a block.
CREATE TABLE message_search (
    conversation_id uuid NOT NULL,
    id              uuid NOT NULL,
    terms           tsvector NOT NULL,
    PRIMARY KEY (conversation_id, id)
);

-- Messages of one conversation that follow each other by id, together: the index has an entry for each term of a block
-- and not of each message. All but the newest messages of a conversation are in one. Blocks do not overlap.
CREATE TABLE message_search_blocks (
    conversation_id uuid NOT NULL,
    first_id        uuid NOT NULL,
    last_id         uuid NOT NULL,
    terms           tsvector NOT NULL, -- without their numbers; and the conversation's own
    PRIMARY KEY (conversation_id, first_id) INCLUDE (last_id)
) WITH (toast_tuple_target = 8160);
-- Without a list of pending entries, which every search would have to read.
CREATE INDEX message_search_blocks_terms ON message_search_blocks USING gin (terms) WITH (fastupdate = off);

-- Up to which change a conversation is in these tables. A conversation that has no row: see store.postgres.search.
CREATE TABLE message_search_positions (
    conversation_id uuid PRIMARY KEY,
    seq             bigint NOT NULL
) WITH (fillfactor = 70);

-- What was committed and then published: batches that have left the outbox.
CREATE TABLE message_search_queue (
    position         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conversation_ids uuid[] NOT NULL,
    seqs             bigint[] NOT NULL, -- the first change of the batch in each conversation
    created_at       timestamptz NOT NULL -- when the batch was written
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Conversations before this one are in the tables, and of this one what changed up to `seq`.
CREATE TABLE message_search_rebuilds (
    number          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at     timestamptz,
    conversation_id uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    seq             bigint NOT NULL DEFAULT 0,
    messages        bigint NOT NULL DEFAULT 0
);
INSERT INTO message_search_rebuilds DEFAULT VALUES;

-- A batch leaves the outbox when it is published: behind the answers to its senders.
CREATE FUNCTION note_searchable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO message_search_queue (conversation_ids, seqs, created_at)
    SELECT conversation_ids, seqs, created_at FROM gone WHERE cardinality(conversation_ids) > 0;
    RETURN NULL;
END
$$;
CREATE TRIGGER outbox_note_searchable AFTER DELETE ON outbox REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION note_searchable();
