-- Several instances: what they must be told of besides changes, and what presence asks.

-- Users whose connections a batch ends, on every instance.
ALTER TABLE outbox ADD COLUMN dismissed uuid[] NOT NULL DEFAULT '{}';
