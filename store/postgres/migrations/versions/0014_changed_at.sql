-- When a message was changed last, by whatever: also by what is neither an edit nor a deletion. A cursor that names such a
-- change is proved by it (store.postgres.cursors).
--
-- NULL for a message that was not changed since. Expand: code of before does not write it, so the last change was at the
-- latest of changed_at, edited_at and deleted_at. That code keeps a touch among earlier_changes with the time of the edit
-- before; a cursor at such a touch cannot be proved then, and its client reads the conversation anew.
ALTER TABLE messages ADD COLUMN changed_at timestamptz;
