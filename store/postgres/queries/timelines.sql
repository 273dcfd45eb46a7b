-- Timelines: which branch of PostgreSQL's history a server is on. An ordinary role may call all of these functions.

-- name: fetch_timeline
-- Nothing on a standby. The checkpoint in pg_control still has the old timeline right after a promotion: the log has the
-- new one. timelines_pkey; the last one that was seen is found by walking a table of a few rows.
WITH here AS MATERIALIZED (
    SELECT (SELECT system_identifier FROM pg_control_system()) AS system,
           (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database,
           'conversations'::regclass::oid::bigint AS relation,
           (SELECT coalesce(max(generation), 0) FROM restorations WHERE finished_at IS NOT NULL) AS generation,
           ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint AS timeline
    WHERE NOT pg_is_in_recovery()
)
SELECT h.system, h.database, h.relation, h.generation, h.timeline, t.mark, pg_postmaster_start_time(), l.timeline
FROM here AS h
LEFT JOIN timelines AS t USING (system, database, relation, generation, timeline)
LEFT JOIN (SELECT timeline FROM timelines ORDER BY position DESC LIMIT 1) AS l ON true

-- name: insert_timeline
-- Of several instances the first one draws the mark.
INSERT INTO timelines (system, database, relation, generation, timeline)
VALUES (%(system)s, %(database)s, %(relation)s, %(generation)s, %(timeline)s)
ON CONFLICT DO NOTHING

-- name: lift_versions
-- Versions that were drawn on a timeline before, and lost with it, are known to instances and clients: what is drawn from here on is
-- above them. A sequence that is lent for use only goes up by being drawn from.
SELECT max(nextval('settings_versions')) FROM generate_series(1, %(lift)s)

-- name: fetch_last_mark
-- On a replica: the timeline that it follows, as soon as it has replayed the row.
SELECT mark FROM timelines ORDER BY position DESC LIMIT 1
