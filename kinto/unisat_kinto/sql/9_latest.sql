-- The newest record by device time, and the count, of each of a bucket's collections; `only_ids` is NULL for all of them.
-- No record is read for it, so that ten thousand stations are one look.
CREATE OR REPLACE FUNCTION unisat_latest(bucket TEXT, only_ids TEXT[], after TEXT, most INTEGER)
RETURNS TABLE (id TEXT, records BIGINT, modified BIGINT, newest TEXT) LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_custom_plan
-- The planner expects a few collections, and would look each of them up.
SET enable_nestloop = off
SET jit = off AS $$
#variable_conflict use_column
DECLARE
    -- All paths of this bucket's collections lie between these two: 0 comes after the slash.
    first CONSTANT TEXT := '/buckets/' || bucket || '/collections/';
    beyond CONSTANT TEXT := '/buckets/' || bucket || '/collections0';
BEGIN
    RETURN QUERY
    SELECT c.id, COALESCE(e.records, 0)::BIGINT,
           GREATEST(k.modified, (EXTRACT(EPOCH FROM t.last_modified) * 1000)::BIGINT, 0), k.newest
      FROM (SELECT o.id, first || o.id AS parent FROM objects o
             WHERE o.parent_id = '/buckets/' || bucket AND o.resource_name = 'collection' AND NOT o.deleted
               AND (only_ids IS NULL OR o.id = ANY (only_ids)) AND o.id > after
             ORDER BY o.id LIMIT most) c
      LEFT JOIN (SELECT e.parent_id, SUM(e.records) AS records FROM unisat_epochs e
                  WHERE e.parent_id >= first AND e.parent_id < beyond GROUP BY e.parent_id) e ON e.parent_id = c.parent
      LEFT JOIN (SELECT t.parent_id, t.last_modified FROM timestamps t
                  WHERE t.parent_id >= first AND t.parent_id < beyond AND t.resource_name = 'record') t
             ON t.parent_id = c.parent
      LEFT JOIN (SELECT k.parent_id, k.modified, k.newest FROM unisat_newest_records k
                  WHERE k.parent_id >= first AND k.parent_id < beyond) k ON k.parent_id = c.parent
     ORDER BY c.id;
END $$;
