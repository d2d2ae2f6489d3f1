-- What accounts had in their default buckets, which an earlier hub gave them, goes to the bucket that unisat.bucket names
-- (PGOPTIONS), where readers and the mobile app look for it. Says how many records went. Such a bucket has the id that
-- Kinto made of the account's name, which has the form of a UUID. What is at the new address already, with other content,
-- stays where it was; so does what cannot be stored there, and what the new address has let go (retain_from).
DO $$
DECLARE
    target CONSTANT TEXT := current_setting('unisat.bucket');
    had RECORD;
    after TEXT;
    ids TEXT[];
    batch JSONB;
    gone BIGINT;
    moved BIGINT := 0;
BEGIN
    FOR had IN
        SELECT c.id, c.parent_id || '/collections/' || c.id AS parent
          FROM objects b JOIN objects c ON c.parent_id = '/buckets/' || b.id
         WHERE b.parent_id = '' AND b.resource_name = 'bucket' AND NOT b.deleted
           AND b.id ~ '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$'
           AND c.resource_name = 'collection' AND NOT c.deleted
         ORDER BY 2
    LOOP
        IF EXISTS (SELECT FROM objects WHERE parent_id = had.parent AND resource_name = 'record' AND NOT deleted) THEN
            INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted)
            VALUES (had.id, '/buckets/' || target, 'collection', NULL, '{}', FALSE) ON CONFLICT DO NOTHING;
        END IF;
        after := '';
        LOOP
            SELECT array_agg(r.id), jsonb_agg(r.data || jsonb_build_object('id', r.id)) INTO ids, batch
              FROM (SELECT id, data FROM objects
                     WHERE parent_id = had.parent AND resource_name = 'record' AND NOT deleted AND id > after
                       AND (NOT data ? 'timestamp' OR unisat_integer(data->'timestamp') IS NOT NULL)
                     ORDER BY id LIMIT 1000) r;
            EXIT WHEN ids IS NULL;
            after := ids[cardinality(ids)];
            PERFORM unisat_ingest(target, had.id, batch, FALSE);
            DELETE FROM objects o USING objects n
             WHERE o.parent_id = had.parent AND o.resource_name = 'record' AND o.id = ANY (ids)
               AND n.parent_id = '/buckets/' || target || '/collections/' || had.id AND n.resource_name = 'record'
               AND n.id = o.id AND NOT n.deleted AND n.data = o.data;
            GET DIAGNOSTICS gone = ROW_COUNT;
            moved := moved + gone;
            -- Stations wait for a thousand records, not for all.
            COMMIT;
        END LOOP;
    END LOOP;
    PERFORM set_config('unisat.moved', moved::TEXT, FALSE);
END $$;
SELECT current_setting('unisat.moved');
