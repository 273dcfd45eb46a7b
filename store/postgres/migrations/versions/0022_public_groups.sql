-- Groups that anybody may find and join.
--
-- What they are found by stands in a table of its own, so that no index is built on a large one. Expand: code of before shows
-- nothing of it; a group that it renames is found by its old title, until it is changed by code of this release.
ALTER TABLE conversations ADD COLUMN is_public boolean NOT NULL DEFAULT false;

-- A row for each beginning of a word of the title and the description (store.names.beginnings), and one with none, by which
-- all are listed. Written with them, under the lock of the conversation.
CREATE TABLE public_group_words (
    conversation_id uuid NOT NULL,
    word            text COLLATE "C" NOT NULL,
    PRIMARY KEY (conversation_id, word) -- serves the changes, and that a group is listed once
);
-- Serves list_public_groups, as a range.
CREATE INDEX public_group_words_word ON public_group_words (word, conversation_id);
