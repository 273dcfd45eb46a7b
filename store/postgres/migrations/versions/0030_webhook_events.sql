-- Events for webhooks that are no changes of a conversation: each waits at each endpoint that takes it.
--
-- Expand: code of before writes them by the trigger, without knowing it, and delivers none.
CREATE TABLE webhook_events (
    webhook_id      uuid NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    number          bigint GENERATED ALWAYS AS IDENTITY,
    type            text NOT NULL,
    object_id       uuid NOT NULL, -- the report
    conversation_id uuid,
    seq             bigint,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts        integer NOT NULL DEFAULT 0, -- that failed
    failing_since   timestamptz, -- the first of them
    PRIMARY KEY (webhook_id, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
-- Serves list_webhooks_due.
CREATE INDEX webhook_events_due ON webhook_events (webhook_id, due_at);
-- Serves the purge.
CREATE INDEX webhook_events_age ON webhook_events (created_at);

-- Such an event that was given up names what it is about; a report of a user is in no conversation.
ALTER TABLE webhook_dead_letters
    ADD COLUMN object_id uuid,
    ALTER COLUMN conversation_id DROP NOT NULL,
    ALTER COLUMN seq DROP NOT NULL,
    ALTER COLUMN message_id DROP NOT NULL;

-- In the transaction of the report. An endpoint that is deleted at this moment is left out, by the lock on its row.
CREATE FUNCTION note_report() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO webhook_events (webhook_id, type, object_id, conversation_id)
    SELECT w.id, 'report.created', NEW.id, NEW.conversation_id FROM webhooks AS w
    WHERE w.state <> 'Deleted' AND (w.events = '{}' OR 'report.created' = ANY (w.events))
        AND (w.conversation_id IS NULL OR w.conversation_id = NEW.conversation_id)
    FOR KEY SHARE OF w;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_report AFTER INSERT ON reports FOR EACH ROW EXECUTE FUNCTION note_report();
