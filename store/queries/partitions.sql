-- Queries on the monthly partitions of messages.

-- name: ensure_partitions
SELECT ensure_message_partitions(%(now)s, %(ahead)s)

-- name: list_partitions
-- Catalogue only.
SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'messages'::regclass ORDER BY 1

-- name: list_expired_partitions
-- Catalogue only. The upper bound is the second quoted text of the partition's definition. A partition whose
-- concurrent detachment was interrupted is listed as such: it only needs to be finalised.
SELECT p.name, p.detaching
FROM (
    SELECT c.relname::text AS name, i.inhdetachpending AS detaching,
           substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([^'']+)''\)') AS upper_bound
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'messages'::regclass
) AS p
WHERE p.upper_bound::uuid <= %(bound)s::uuid
ORDER BY p.name
