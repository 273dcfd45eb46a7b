-- When a member had read all that there was. What is past their cursor was made since, so counting it looks only into the
-- months from then on.
--
-- NULL: not known, and the time of joining counts. Expand: code of before does not write it; cursors only rise, so what was
-- written here before stays true.
ALTER TABLE members ADD COLUMN caught_up_at timestamptz;
