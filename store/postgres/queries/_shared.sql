-- Fragments for statements of several files, which are read after this one.

-- fragment: standing
-- users_pkey, sessions_pkey. Whether the user exists, whether their session is live (there may be none), until when they are banned.
SELECT EXISTS (SELECT FROM users WHERE id = %(user_id)s AND deleted_at IS NULL) AS exists,
    %(session_id)s::uuid IS NULL OR EXISTS (
        SELECT FROM sessions
        WHERE id = %(session_id)s AND user_id = %(user_id)s AND revoked_at IS NULL AND expires_at > clock_timestamp()
    ) AS is_signed_in,
    (
        SELECT (extract(epoch FROM banned_until) * 1000)::bigint FROM users
        WHERE id = %(user_id)s AND banned_until > clock_timestamp()
    ) AS banned_until

-- fragment: dissolved
-- Large groups that were dissolved, and whose members are not all deleted yet: mostly none, so this is read once for a statement.
-- Their members count as deleted wherever they are read; a conversation that is read as well says so itself (deleted_at).
ARRAY(SELECT d.conversation_id FROM dissolutions AS d)
