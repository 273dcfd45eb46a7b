-- Reports of messages and users.

-- fragment: report
r.id, r.user_id, r.message_id, r.conversation_id, r.category, r.comment, r.resolved_at IS NOT NULL, r.reporter_id, r.content,
r.note, r.resolved_by, (extract(epoch FROM r.resolved_at) * 1000)::bigint

-- name: insert_report
-- reports_reporter decides between two at once.
INSERT INTO reports AS r (id, reporter_id, user_id, message_id, conversation_id, category, comment, content)
VALUES (%(id)s, %(reporter_id)s, %(user_id)s, %(message_id)s, %(conversation_id)s, %(category)s, %(comment)s, %(content)s)
ON CONFLICT (reporter_id, user_id, coalesce(message_id, user_id)) WHERE reporter_id IS NOT NULL AND resolved_at IS NULL
    DO NOTHING
RETURNING {report}

-- name: fetch_open_report
-- reports_reporter.
SELECT {report} FROM reports AS r
WHERE r.reporter_id = %(reporter_id)s AND r.user_id = %(user_id)s
    AND coalesce(r.message_id, r.user_id) = coalesce(%(message_id)s::uuid, %(user_id)s) AND r.resolved_at IS NULL

-- name: count_open_reports
-- reports_reporter, as a range.
SELECT count(*) FROM reports WHERE reporter_id = %(reporter_id)s AND resolved_at IS NULL

-- name: list_reports
-- reports_user where there is a user, reports_open, or reports_pkey. Not those about the viewer, who may be a moderator.
SELECT {report} FROM reports AS r
WHERE r.id > %(after)s AND (%(user_id)s::uuid IS NULL OR r.user_id = %(user_id)s)
    AND (%(is_open)s::boolean IS NULL OR (r.resolved_at IS NULL) = %(is_open)s)
    AND r.user_id IS DISTINCT FROM %(viewer_id)s::uuid
ORDER BY r.id LIMIT %(limit)s

-- name: list_open_reports
-- reports_open. The same of those that are open.
SELECT {report} FROM reports AS r
WHERE r.id > %(after)s AND r.resolved_at IS NULL AND r.user_id IS DISTINCT FROM %(viewer_id)s::uuid
ORDER BY r.id LIMIT %(limit)s

-- name: fetch_report_backlog
-- reports_open: a bounded part of it, and its first entry.
SELECT (SELECT count(*) FROM (SELECT FROM reports WHERE resolved_at IS NULL LIMIT %(limit)s) AS first),
    (SELECT id FROM reports WHERE resolved_at IS NULL ORDER BY id LIMIT 1)

-- name: list_own_reports
-- reports_own, as a range.
SELECT {report} FROM reports AS r WHERE r.reporter_id = %(reporter_id)s AND r.id > %(after)s ORDER BY r.id LIMIT %(limit)s

-- name: fetch_report
-- reports_pkey.
SELECT {report} FROM reports AS r WHERE r.id = %(id)s

-- name: lock_report
-- reports_pkey.
SELECT {report} FROM reports AS r WHERE r.id = %(id)s FOR UPDATE

-- name: resolve_report
-- reports_pkey. What was said is not kept any longer.
UPDATE reports AS r SET resolved_at = clock_timestamp(), resolved_by = %(by)s, note = %(note)s, content = NULL
WHERE r.id = %(id)s RETURNING {report}

-- name: forget_reports_of
-- reports_own, reports_user. Of a user who is erased: who they were as a reporter, and what they had said.
WITH mine AS MATERIALIZED (
    (SELECT id FROM reports WHERE reporter_id = %(user_id)s LIMIT %(limit)s)
    UNION
    (SELECT id FROM reports WHERE user_id = %(user_id)s AND content IS NOT NULL LIMIT %(limit)s)
), forgotten AS (
    UPDATE reports SET
        reporter_id = CASE WHEN reporter_id = %(user_id)s THEN NULL ELSE reporter_id END,
        comment = CASE WHEN reporter_id = %(user_id)s THEN NULL ELSE comment END,
        content = CASE WHEN user_id = %(user_id)s THEN NULL ELSE content END
    WHERE id = ANY(ARRAY(SELECT id FROM mine))
)
SELECT FROM mine

-- name: delete_old_reports
-- reports_pkey: ids are of time.
DELETE FROM reports WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM reports WHERE id < %(bound)s ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
