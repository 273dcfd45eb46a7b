-- Reports of messages and users, which moderators decide on.
--
-- No foreign keys: a report outlives its message. Expand: code of before does not know them.
CREATE TABLE reports (
    id              uuid PRIMARY KEY, -- a UUIDv7: when; serves list_reports, the purge
    reporter_id     uuid, -- NULL: erased
    user_id         uuid NOT NULL, -- who is reported
    message_id      uuid, -- for what; NULL: for something else
    conversation_id uuid,
    category        text NOT NULL,
    comment         text CHECK (char_length(comment) <= 1000), -- the reporter's
    content         text, -- of the message, as it was then; kept while the report is open
    note            text CHECK (char_length(note) <= 1000), -- of who has decided on it
    resolved_by     uuid, -- NULL: an operator, if it is resolved
    resolved_at     timestamptz
);
-- One open report of a user about one thing. Serves insert_report, count_open_reports, delete_reports_of.
CREATE UNIQUE INDEX reports_reporter ON reports (reporter_id, user_id, coalesce(message_id, user_id))
    WHERE reporter_id IS NOT NULL AND resolved_at IS NULL;
-- Serves list_reports.
CREATE INDEX reports_open ON reports (id) WHERE resolved_at IS NULL;
CREATE INDEX reports_user ON reports (user_id, id);
-- Serves list_own_reports.
CREATE INDEX reports_own ON reports (reporter_id, id) WHERE reporter_id IS NOT NULL;
