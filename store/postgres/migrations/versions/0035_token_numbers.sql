-- How many times the refresh token of a session was exchanged: refresh tokens have their number in them, so that one which
-- PostgreSQL has lost is not taken for one that was spent.
--
-- Code of before neither reads nor writes it. Its tokens have no number, and a number that is too low loses nothing.
ALTER TABLE sessions ADD COLUMN token_number bigint NOT NULL DEFAULT 0;
