-- Minutes and hours of a collection: how many records, and of each numeric field [count, min, max, sum]. They stay when
-- the records are let go.
CREATE TABLE IF NOT EXISTS unisat_rollups (
    parent_id TEXT COLLATE "C" NOT NULL,
    -- Seconds: 60 or 3600.
    step INTEGER NOT NULL,
    bucket BIGINT NOT NULL,
    records INTEGER NOT NULL,
    fields JSONB NOT NULL,
    PRIMARY KEY (parent_id, step, bucket)
);

-- The floor of retention in seconds UTC; 0 where there is none.
CREATE OR REPLACE FUNCTION unisat_retain_from(bucket TEXT, collection TEXT) RETURNS BIGINT LANGUAGE sql STABLE AS $$
    SELECT COALESCE((SELECT unisat_integer(data->'retain_from') FROM objects
                      WHERE id = collection AND parent_id = '/buckets/' || bucket
                        AND resource_name = 'collection' AND NOT deleted), 0)
$$;

CREATE OR REPLACE FUNCTION unisat_roll_up_hour(parent TEXT, from_s BIGINT) RETURNS VOID LANGUAGE plpgsql
SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    DELETE FROM unisat_rollups
     WHERE parent_id = parent AND step IN (60, 3600) AND bucket >= from_s AND bucket < from_s + 3600;
    WITH minutes AS (
        SELECT unisat_integer(data->'timestamp') / 60 * 60 AS minute, data FROM objects
         WHERE parent_id = parent AND resource_name = 'record' AND NOT deleted
           AND data->'timestamp' >= to_jsonb(from_s) AND data->'timestamp' < to_jsonb(from_s + 3600)
    ), counted AS (
        SELECT minute, COUNT(*) AS records FROM minutes GROUP BY minute
    ), measured AS (
        SELECT minute, key, COUNT(v) AS n, MIN(v) AS low, MAX(v) AS high, SUM(v) AS sum
          FROM (SELECT minute, key, unisat_double(value) AS v FROM minutes, jsonb_each(data)
                 WHERE key NOT IN ('timestamp', 'seq', 'uptime')) each
         WHERE v IS NOT NULL GROUP BY minute, key
    ), levels AS (
        SELECT 60 AS step, minute AS bucket, key, n, low, high, sum FROM measured
        UNION ALL
        SELECT 3600, from_s, key, SUM(n)::BIGINT, MIN(low), MAX(high), SUM(sum) FROM measured GROUP BY key
    ), packed AS (
        SELECT step, bucket, jsonb_object_agg(key, jsonb_build_array(n, low, high, sum)) AS fields
          FROM levels GROUP BY step, bucket
    )
    INSERT INTO unisat_rollups (parent_id, step, bucket, records, fields)
    SELECT parent, c.step, c.bucket, c.records, COALESCE(p.fields, '{}')
      FROM (SELECT 60 AS step, minute AS bucket, records FROM counted
            UNION ALL SELECT 3600, from_s, SUM(records)::BIGINT FROM counted HAVING COUNT(*) > 0) c
      LEFT JOIN packed p USING (step, bucket);
END $$;

-- Rolls up stale hours from the newest on, none twice at the same moment, until `budget` is over. Hours that are
-- younger than 10 minutes are left: they are being written. Returns how many it did.
CREATE OR REPLACE FUNCTION unisat_roll_up(parent TEXT, from_s BIGINT, to_s BIGINT, most INTEGER, budget INTERVAL)
RETURNS INTEGER LANGUAGE plpgsql AS $$
DECLARE
    ended CONSTANT BIGINT := (EXTRACT(EPOCH FROM clock_timestamp())::BIGINT - 600) / 3600 * 3600;
    deadline CONSTANT TIMESTAMPTZ := clock_timestamp() + budget;
    mark RECORD;
    done INTEGER := 0;
BEGIN
    FOR mark IN SELECT hour FROM unisat_stale_hours
                 WHERE parent_id = parent AND hour >= from_s AND hour < LEAST(to_s, ended)
                 ORDER BY hour DESC LIMIT most FOR UPDATE SKIP LOCKED LOOP
        PERFORM unisat_roll_up_hour(parent, mark.hour);
        DELETE FROM unisat_stale_hours WHERE parent_id = parent AND hour = mark.hour;
        done := done + 1;
        EXIT WHEN clock_timestamp() > deadline;
    END LOOP;
    RETURN done;
END $$;

-- The buckets of a range, one row for each with records and each of the fields; the field '' counts the records. Of the
-- hours that are not rolled up yet, the newest `most` are read from the records; never one below the floor of
-- retention, of which the roll-up is all that is left.
CREATE OR REPLACE FUNCTION unisat_series(parent TEXT, fields TEXT[], from_s BIGINT, to_s BIGINT, width BIGINT,
    retain_from BIGINT, most INTEGER)
RETURNS TABLE (bucket BIGINT, field TEXT, n BIGINT, low FLOAT8, high FLOAT8, total FLOAT8) LANGUAGE plpgsql
SET plan_cache_mode = force_custom_plan
-- The planner knows nothing of how few hours are read from the records: it would compile, and call other processes.
SET jit = off
SET max_parallel_workers_per_gather = 0 AS $$
#variable_conflict use_column
DECLARE
    source CONSTANT INTEGER := CASE WHEN width % 3600 = 0 THEN 3600 WHEN width % 60 = 0 THEN 60 END;
    wanted CONSTANT TEXT[] := fields || ARRAY[''];
    raw_hours BIGINT[];
BEGIN
    raw_hours := ARRAY(SELECT hour FROM unisat_stale_hours
                        WHERE parent_id = parent AND hour > from_s - 3600 AND hour < to_s AND hour >= retain_from
                        ORDER BY hour DESC LIMIT most);
    RETURN QUERY
    WITH parts AS (
        SELECT r.bucket / width * width AS bucket, f.field, (v.v->>0)::BIGINT AS n, (v.v->>1)::FLOAT8 AS low,
               (v.v->>2)::FLOAT8 AS high, (v.v->>3)::FLOAT8 AS total
          FROM unisat_rollups r, unnest(wanted) f(field),
               LATERAL (SELECT CASE f.field WHEN '' THEN jsonb_build_array(r.records) ELSE r.fields->f.field END) v(v)
         WHERE r.parent_id = parent AND r.step = source AND r.bucket >= from_s AND r.bucket < to_s
           AND r.bucket / 3600 * 3600 <> ALL (raw_hours) AND v.v IS NOT NULL
        UNION ALL
        SELECT unisat_integer(o.data->'timestamp') / width * width, f.field, COUNT(*), MIN(x.x), MAX(x.x), SUM(x.x)
          FROM (SELECT DISTINCT GREATEST(h, from_s) AS low, LEAST(h + 3600, to_s) AS high
                  FROM unnest(CASE WHEN source IS NULL THEN
                       ARRAY(SELECT generate_series(from_s / 3600 * 3600, to_s, 3600)) ELSE raw_hours END) h) hours,
               LATERAL (SELECT data FROM objects
                         WHERE parent_id = parent AND resource_name = 'record' AND NOT deleted
                           AND data->'timestamp' >= to_jsonb(hours.low) AND data->'timestamp' < to_jsonb(hours.high)
                       ) o,
               unnest(wanted) f(field),
               LATERAL (SELECT CASE f.field WHEN '' THEN 0 ELSE unisat_double(o.data->f.field) END) x(x)
         WHERE x.x IS NOT NULL
         GROUP BY 1, 2
    )
    SELECT p.bucket, p.field, SUM(p.n)::BIGINT, MIN(p.low), MAX(p.high), SUM(p.total) FROM parts p
     GROUP BY 1, 2 ORDER BY 1, 2;
END $$;
