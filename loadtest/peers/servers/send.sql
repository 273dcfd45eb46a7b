-- One durable message in one statement and one round trip: membership, the next seq, the row. A repeated
-- client_message_id breaks the unique key and undoes it all; the server then reads the first one.
with head as (
    update conversations set last_seq = last_seq + 1
    where id = $1 and exists (select 1 from members where conversation_id = $1 and user_id = $2)
    returning last_seq
)
insert into messages (id, conversation_id, seq, sender_id, client_message_id, body)
select $3, $1, last_seq, $2, $4, $5 from head
returning id, seq, created_at
