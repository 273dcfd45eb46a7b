-- Which conversations are still to be looked at for members who are offline with unread messages: for webhooks.
--
-- Filled only where an endpoint asks for it. Expand: code of before fills neither, and nothing is looked for in what it notes.
CREATE TABLE unread_scans (
    conversation_id uuid PRIMARY KEY,
    seq             bigint NOT NULL, -- messages up to here were looked at
    noted_seq       bigint NOT NULL, -- there are changes up to here
    due_at          timestamptz -- when to look; NULL: all is done
) WITH (fillfactor = 70);
-- Serves list_unread_scans, and the age of what waits.
CREATE INDEX unread_scans_due ON unread_scans (due_at) WHERE due_at IS NOT NULL;

-- Members with unread messages who had a connection, which may have been lost already: looked at once more.
CREATE TABLE unread_rechecks (
    conversation_id uuid NOT NULL,
    user_id         uuid NOT NULL,
    seq             bigint NOT NULL, -- of the unread message
    due_at          timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, user_id)
) WITH (fillfactor = 70);
-- Serves list_unread_rechecks.
CREATE INDEX unread_rechecks_due ON unread_rechecks (due_at);

-- One event of a user in a conversation waits at an endpoint. Serves insert_unread_events.
CREATE UNIQUE INDEX webhook_events_unread ON webhook_events (webhook_id, conversation_id, object_id)
    WHERE type = 'user.offline_with_unread';
