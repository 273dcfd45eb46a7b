-- What a user's files take, from the index alone: the sum is asked for whenever an upload begins, and somebody may have a
-- hundred thousand files. Serves fetch_storage, list_files_of (in order), give_up_files_of. Code of before is served, too.
CREATE INDEX files_owned ON files (owner_id, id) INCLUDE (size, state, created_at) WHERE state <> 'Deleted';
DROP INDEX files_owner;
