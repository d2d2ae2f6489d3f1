-- Deletes what is older than a mark, without tombstones, and raises the floor in the collection's metadata. At most
-- `most` hours are rolled up for it; where more are due, the mark that was reached is lower than the one asked for.
-- NULL where there is no such collection. Records with `clock: unsynced` stay: their time says nothing.
CREATE OR REPLACE FUNCTION unisat_retain(bucket TEXT, collection TEXT, before BIGINT, most INTEGER)
RETURNS JSONB LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    parent CONSTANT TEXT := '/buckets/' || bucket || '/collections/' || collection;
    previous BIGINT;
    wanted BIGINT;
    mark BIGINT;
    gone BIGINT;
    due RECORD;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(parent, 0));
    IF NOT EXISTS (SELECT FROM objects o WHERE o.id = collection AND o.parent_id = '/buckets/' || bucket
                      AND o.resource_name = 'collection' AND NOT o.deleted) THEN
        RETURN NULL;
    END IF;
    previous := unisat_retain_from(bucket, collection);
    -- Whole hours: one of which only a part is left could not be rolled up again.
    wanted := GREATEST(before / 3600 * 3600, previous);
    mark := wanted;
    FOR due IN SELECT hour, row_number() OVER (ORDER BY hour) AS nth FROM unisat_stale_hours
                WHERE parent_id = parent AND hour >= previous AND hour < wanted ORDER BY hour LIMIT most + 1 LOOP
        IF due.nth > most THEN
            mark := due.hour;
            EXIT;
        END IF;
        PERFORM unisat_roll_up_hour(parent, due.hour);
    END LOOP;
    DELETE FROM objects o
     WHERE o.parent_id = parent AND o.resource_name = 'record' AND NOT o.deleted
       AND o.data->'timestamp' >= '0' AND o.data->'timestamp' < to_jsonb(mark)
       AND o.data->>'clock' IS DISTINCT FROM 'unsynced';
    GET DIAGNOSTICS gone = ROW_COUNT;
    DELETE FROM unisat_stale_hours WHERE parent_id = parent AND hour < mark;
    IF mark > previous THEN
        UPDATE objects o SET data = o.data || jsonb_build_object('retain_from', mark), last_modified = NULL
         WHERE o.id = collection AND o.parent_id = '/buckets/' || bucket AND o.resource_name = 'collection';
    END IF;
    IF gone > 0 THEN
        -- The list has changed, so has its ETag; and it never goes back, whichever record was the newest.
        INSERT INTO timestamps AS t (parent_id, resource_name, last_modified)
        VALUES (parent, 'record', GREATEST(clock_timestamp()::TIMESTAMP, from_epoch(unisat_newest(parent) + 1)))
        ON CONFLICT (parent_id, resource_name) DO UPDATE SET last_modified = EXCLUDED.last_modified;
    END IF;
    RETURN jsonb_build_object('deleted', gone, 'retain_from', mark, 'complete', mark = wanted);
END $$;
