-- Whether PostgreSQL still has the history that was seen before: the timelines that have served this database, and the
-- restorations that an operator has announced. Code of before does not look at either.
--
-- A timeline is one branch of PostgreSQL's history, on one system (cluster), in one database; `conversations` as a table
-- of its own distinguishes a database that was restored from the one before. Of two servers that were both promoted to timeline 2,
-- each has its own mark: the first instance that comes draws it.
CREATE TABLE timelines (
    system     bigint NOT NULL, -- pg_control_system().system_identifier
    database   bigint NOT NULL, -- pg_database.oid
    relation   bigint NOT NULL, -- the oid of conversations
    generation bigint NOT NULL, -- restorations.generation: the restorations that were completed before
    timeline   bigint NOT NULL,
    mark       uuid NOT NULL DEFAULT gen_random_uuid(),
    position   bigint GENERATED ALWAYS AS IDENTITY, -- the highest is the last one that was seen
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (system, database, relation, generation, timeline)
);
CREATE TABLE restorations (
    generation    bigint PRIMARY KEY CHECK (generation > 0),
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at   timestamptz, -- NULL: it was interrupted; the next `parley restored` goes on behind `last_id`
    last_id       uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    conversations bigint NOT NULL DEFAULT 0,
    -- Where it was done: on another server, or a database that was restored since, it counts as undone.
    system        bigint NOT NULL,
    database      bigint NOT NULL,
    relation      bigint NOT NULL,
    timeline      bigint NOT NULL
);
