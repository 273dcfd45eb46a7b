-- Several instances: what must be announced to them besides changes, and the queries of presence.

-- Users whose connections a batch ends, on every instance.
ALTER TABLE outbox ADD COLUMN dismissed uuid[] NOT NULL DEFAULT '{}';
