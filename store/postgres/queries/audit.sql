-- The audit log.

-- name: insert_audit
INSERT INTO audit (id, act, actor_id, user_id, conversation_id, object_id, until, detail, reason)
VALUES (%(id)s, %(act)s, %(actor_id)s, %(user_id)s, %(conversation_id)s, %(object_id)s, %(until)s, %(detail)s, %(reason)s)

-- name: insert_sign_in
-- audit_user. One entry for what one user does from one network in a while.
INSERT INTO audit (id, act, actor_id, user_id, object_id, address)
SELECT %(id)s, %(act)s, %(user_id)s, %(user_id)s, %(session_id)s, %(address)s
WHERE NOT EXISTS (
    SELECT FROM audit AS a
    WHERE a.user_id = %(user_id)s AND a.id > uuid7_floor(statement_timestamp() - make_interval(secs => %(seconds)s))
        AND a.act = %(act)s AND a.address IS NOT DISTINCT FROM %(address)s::text
)

-- name: list_audit
-- audit_user, audit_actor, audit_conversation or audit_act where there is a filter, else audit_pkey; backwards.
SELECT a.id, a.act, a.actor_id, a.user_id, a.conversation_id, a.object_id, (extract(epoch FROM a.until) * 1000)::bigint,
    a.detail, a.reason, a.address
FROM audit AS a
WHERE a.id < %(before)s AND a.id >= %(after)s
    AND (%(act)s::text IS NULL OR a.act = %(act)s) AND (%(actor_id)s::uuid IS NULL OR a.actor_id = %(actor_id)s)
    AND (%(user_id)s::uuid IS NULL OR a.user_id = %(user_id)s)
    AND (%(conversation_id)s::uuid IS NULL OR a.conversation_id = %(conversation_id)s)
ORDER BY a.id DESC LIMIT %(limit)s

-- name: forget_audit_of
-- audit_user, audit_actor. What is left of a user who was erased is their id.
WITH mine AS MATERIALIZED (
    (SELECT id FROM audit WHERE user_id = %(user_id)s AND (address IS NOT NULL OR reason IS NOT NULL) LIMIT %(limit)s)
    UNION
    (SELECT id FROM audit WHERE actor_id = %(user_id)s AND address IS NOT NULL LIMIT %(limit)s)
), forgotten AS (
    UPDATE audit SET address = NULL, reason = CASE WHEN user_id = %(user_id)s THEN NULL ELSE reason END
    WHERE id = ANY(ARRAY(SELECT id FROM mine))
)
SELECT FROM mine

-- name: delete_old_audit
-- audit_pkey: ids are of time.
DELETE FROM audit WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM audit WHERE id < %(bound)s ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
