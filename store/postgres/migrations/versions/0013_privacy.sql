-- What users hide from others, who hide as much from them.
--
-- A row for each who has ever chosen: a few of all users, so that it is looked up without cost. Code of before does not
-- look at it.
CREATE TABLE privacy (
    user_id       uuid PRIMARY KEY REFERENCES users, -- serves every look-up
    read_receipts boolean NOT NULL, -- false: neither shown to others, nor theirs to the user; the same for the others
    typing        boolean NOT NULL,
    last_seen     boolean NOT NULL,
    version       bigint NOT NULL -- rises with each change: of two that instances hear of, the higher counts
);
