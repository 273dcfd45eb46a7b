-- What the peers keep: as little as the promise needs. The same tables for each of them, emptied between rounds.
drop table if exists messages, members, conversations;
create table conversations (
    id bigint primary key,
    last_seq bigint not null default 0
);
create table members (
    conversation_id bigint not null references conversations,
    user_id bigint not null,
    primary key (conversation_id, user_id)
);
create index on members (user_id);
create table messages (
    id uuid primary key,
    conversation_id bigint not null references conversations,
    seq bigint not null,
    sender_id bigint not null,
    client_message_id uuid not null,
    body text not null,
    created_at timestamptz not null default now(),
    unique (conversation_id, seq),
    unique (sender_id, client_message_id)
);
