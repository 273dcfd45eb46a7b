select id, seq, created_at from messages where sender_id = $1 and client_message_id = $2
