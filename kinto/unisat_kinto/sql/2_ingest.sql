-- The newest last_modified of a collection's records, in milliseconds; 0 for one that never had any.
CREATE OR REPLACE FUNCTION unisat_newest(parent TEXT) RETURNS BIGINT LANGUAGE plpgsql
-- A plan made for one collection may sort all of it where statistics have not seen it yet.
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN COALESCE(as_epoch(GREATEST(
        (SELECT o.last_modified FROM objects o
          WHERE o.parent_id = parent AND o.resource_name = 'record'
          ORDER BY o.last_modified DESC LIMIT 1),
        (SELECT t.last_modified FROM timestamps t
          WHERE t.parent_id = parent AND t.resource_name = 'record'))), 0);
END $$;

-- Stores a batch in one collection; NULL where there is no such collection. The view has checked the records: each is
-- an object with an id, and its `timestamp`, where there is one, is an integer.
-- bring_back: also what was deleted here, or lies below the floor of retention.
CREATE OR REPLACE FUNCTION unisat_ingest(bucket TEXT, collection TEXT, batch JSONB, bring_back BOOLEAN)
RETURNS JSONB LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    parent CONSTANT TEXT := '/buckets/' || bucket || '/collections/' || collection;
    total CONSTANT INTEGER := jsonb_array_length(batch);
    time_keys CONSTANT TEXT[] := '{timestamp,received_at,clock}';
    metadata JSONB;
    retain_from BIGINT;
    accept_from BIGINT;
    newest BIGINT;
    base BIGINT;
    created TEXT[];
    others JSONB := '{}';
    first_hour BIGINT;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(parent, 0));
    -- From here on each statement sees what earlier writers committed: READ COMMITTED takes one snapshot a statement.
    SELECT o.data INTO metadata FROM objects o
     WHERE o.id = collection AND o.parent_id = '/buckets/' || bucket
       AND o.resource_name = 'collection' AND NOT o.deleted;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- The lock is held: the trigger of stock writers has nothing to do. Not with SET at the function's head, which
    -- PostgreSQL allows a superuser alone.
    PERFORM set_config('unisat.ingest', 'on', TRUE);
    retain_from := unisat_integer(metadata->'retain_from');
    IF bring_back THEN
        DELETE FROM objects o USING jsonb_array_elements(batch) e
         WHERE o.id = e->>'id' AND o.parent_id = parent AND o.resource_name = 'record' AND o.deleted;
    ELSE
        accept_from := retain_from;
    END IF;
    newest := unisat_newest(parent);
    -- In the past where that is possible, because Kinto refuses a _since of the future.
    base := GREATEST(newest + 1, as_epoch(clock_timestamp()::TIMESTAMP) - total + 1);
    WITH stored AS (
        INSERT INTO objects (id, parent_id, resource_name, data, last_modified, deleted)
        SELECT e->>'id', parent, 'record', e - 'id', from_epoch(base + n - 1), FALSE
          FROM jsonb_array_elements(batch) WITH ORDINALITY AS t(e, n)
         -- A clock that was never set says nothing about the age.
         WHERE ((e->'timestamp')::BIGINT < accept_from AND e->>'clock' IS DISTINCT FROM 'unsynced') IS NOT TRUE
         ORDER BY n
        -- With its target: a conflict of last_modified must not be taken for a record that is there already.
        ON CONFLICT (id, parent_id, resource_name) DO NOTHING
        RETURNING id, as_epoch(last_modified) AS modified
    )
    SELECT COALESCE(array_agg(id), '{}'), GREATEST(newest, MAX(modified)) INTO created, newest FROM stored;

    IF cardinality(created) < total THEN
        WITH batched AS (
            SELECT e->>'id' AS id, e - 'id' AS data, n, row_number() OVER (PARTITION BY e->>'id' ORDER BY n) AS nth
              FROM jsonb_array_elements(batch) WITH ORDINALITY AS t(e, n)
        ), judged AS (
            SELECT b.id, b.data, b.n, CASE
                -- Below the floor and not there: retention deleted it.
                WHEN o.id IS NULL OR o.deleted THEN 'deleted'
                WHEN o.data = b.data THEN 'identical'
                WHEN o.data - time_keys <> b.data - time_keys THEN 'different'
                WHEN o.data->>'clock' = 'unsynced' AND b.data->>'clock' = 'corrected' THEN 'corrected'
                -- Sent once more by a station that has not learnt the time yet.
                WHEN o.data->>'clock' = 'corrected' AND b.data->>'clock' = 'unsynced' THEN 'identical'
                ELSE 'different' END AS outcome
              FROM batched b LEFT JOIN objects o
                ON o.id = b.id AND o.parent_id = parent AND o.resource_name = 'record'
             WHERE NOT (b.nth = 1 AND b.id = ANY (created))
        ), corrected AS (
            UPDATE objects o SET data = j.data, last_modified = from_epoch(GREATEST(newest, base - 1) + j.nth)
              FROM (SELECT DISTINCT ON (id) id, data, row_number() OVER (ORDER BY n) AS nth
                      FROM judged WHERE outcome = 'corrected' ORDER BY id, n) j
             WHERE o.id = j.id AND o.parent_id = parent AND o.resource_name = 'record'
            RETURNING as_epoch(o.last_modified) AS modified
        )
        SELECT COALESCE(jsonb_object_agg(k.outcome, k.ids), '{}'),
               GREATEST(newest, (SELECT MAX(modified) FROM corrected)) INTO others, newest
          FROM (SELECT outcome, jsonb_agg(id ORDER BY n) AS ids FROM judged GROUP BY outcome) k;
    END IF;
    IF cardinality(created) > 0 THEN
        -- Hours before those of this batch are rolled up in passing: a live station has one an hour to do.
        SELECT MIN((e->'timestamp')::BIGINT) / 3600 * 3600 INTO first_hour FROM jsonb_array_elements(batch) e;
        BEGIN
            PERFORM unisat_roll_up(parent, COALESCE(retain_from, 0), first_hour, 1, '0');
        EXCEPTION WHEN OTHERS THEN
            -- Never at the expense of the records.
            RAISE WARNING 'unisat: an hour of % is not rolled up: %', parent, SQLERRM;
        END;
    END IF;
    -- Stock writes may follow in the same transaction.
    PERFORM set_config('unisat.ingest', '', TRUE);
    RETURN jsonb_build_object('created', cardinality(created), 'newest', newest, 'corrected', '[]'::JSONB,
        'identical', '[]'::JSONB, 'different', '[]'::JSONB, 'deleted', '[]'::JSONB) || others;
END $$;

-- As unisat_ingest(), for an account of which the caller knows that its password is the one with this hash: a station
-- sends one record at a time, and asking for its account, its groups and its permission would cost more than storing it.
-- NULL where the account has another password by now, or nothing here gives it the permission: Kinto then has to be asked,
-- which knows more reasons. So a right that was taken away counts at once, without anything that could be out of date.
CREATE OR REPLACE FUNCTION unisat_ingest_as(account TEXT, hashed TEXT, bucket TEXT, collection TEXT, batch JSONB)
RETURNS JSONB LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    bucket_uri CONSTANT TEXT := '/buckets/' || bucket;
    principals CONSTANT TEXT[] := ARRAY['account:' || account, 'system.Authenticated', 'system.Everyone'];
BEGIN
    IF EXISTS (SELECT FROM objects o
                WHERE o.id = account AND o.parent_id = account AND o.resource_name = 'account' AND NOT o.deleted
                  AND o.data->>'password' = hashed)
       AND EXISTS (SELECT FROM access_control_entries a
                    WHERE (a.object_id, a.permission) IN ((bucket_uri || '/collections/' || collection, 'record:create'),
                              (bucket_uri || '/collections/' || collection, 'write'), (bucket_uri, 'write'))
                      AND (a.principal = ANY (principals) OR a.principal IN (
                              SELECT u.principal FROM user_principals u WHERE u.user_id = ANY (principals[1:2])))) THEN
        RETURN unisat_ingest(bucket, collection, batch, FALSE);
    END IF;
    RETURN NULL;
END $$;
