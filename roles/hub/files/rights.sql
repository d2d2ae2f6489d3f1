WITH gone AS (
    DELETE FROM access_control_entries
    WHERE (object_id LIKE '/accounts/%' AND object_id <> '/accounts/admin')
       OR object_id LIKE '/buckets/%/collections/%/records/%'
    RETURNING 1
)
SELECT count(*) FROM gone;
