-- Queries on groups that anybody may find.

-- name: delete_group_words
-- public_group_words_pkey, as a range.
DELETE FROM public_group_words WHERE conversation_id = %(conversation_id)s

-- name: insert_group_words
INSERT INTO public_group_words (conversation_id, word)
SELECT %(conversation_id)s, word FROM unnest(%(words)s::text[]) AS given (word)

-- name: list_public_groups
-- public_group_words_word, as a range; conversations_pkey and public_group_words_pkey for each row. Reads what it answers.
-- Last: whether it is shown here; it is where the first word of a group stands that begins so.
SELECT w.word, c.id, c.title, c.description, c.avatar_url, c.member_count,
    c.is_public AND c.deleted_at IS NULL AND NOT EXISTS (
        SELECT FROM public_group_words AS o
        WHERE o.conversation_id = w.conversation_id
            AND o.word >= %(prefix)s::text COLLATE "C" AND o.word < w.word
    )
FROM public_group_words AS w JOIN conversations AS c ON c.id = w.conversation_id
WHERE w.word >= %(prefix)s::text COLLATE "C" AND w.word < %(below)s::text COLLATE "C"
    AND (w.word, w.conversation_id) > (%(after)s::text COLLATE "C", %(after_id)s::uuid)
ORDER BY w.word, w.conversation_id LIMIT %(limit)s
