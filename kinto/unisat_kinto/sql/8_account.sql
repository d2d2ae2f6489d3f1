-- Which numbers are missing in an epoch, from one to another, reading at most `most` records. `next` is where to go on.
CREATE OR REPLACE FUNCTION unisat_gaps(parent TEXT, wanted TEXT, from_seq BIGINT, to_seq BIGINT, most INTEGER)
RETURNS JSONB LANGUAGE plpgsql
-- In the order of the index, so that it stops after `most` records. The planner expects few in any range of seq, and
-- would fetch and sort all of it.
SET enable_sort = off
SET enable_bitmapscan = off
SET jit = off
SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    found RECORD;
    until BIGINT;
BEGIN
    WITH there AS (
        SELECT unisat_integer(data->'seq') AS seq FROM objects
         WHERE parent_id = parent AND resource_name = 'record' AND NOT deleted
           AND data->'seq' >= to_jsonb(from_seq) AND data->'seq' <= to_jsonb(to_seq)
           AND left(COALESCE(data->>'epoch', ''), 64) = wanted
         ORDER BY data->'seq' LIMIT most
    ), followed AS (
        SELECT seq, LAG(seq, 1, from_seq - 1) OVER (ORDER BY seq) AS before FROM there
    )
    SELECT COUNT(*) AS records, COUNT(DISTINCT seq) AS numbers, MAX(seq) AS last,
           COALESCE(jsonb_agg(jsonb_build_array(before + 1, seq - 1) ORDER BY seq) FILTER (WHERE seq > before + 1), '[]')
               AS gaps
      INTO found FROM followed;
    until := CASE WHEN found.records = most AND found.last < to_seq THEN found.last ELSE to_seq END;
    IF until > COALESCE(found.last, from_seq - 1) THEN
        found.gaps := found.gaps || jsonb_build_array(jsonb_build_array(COALESCE(found.last, from_seq - 1) + 1, until));
    END IF;
    RETURN jsonb_build_object('epoch', wanted, 'from', from_seq, 'to', until, 'records', found.records,
        'missing', until - from_seq + 1 - found.numbers, 'gaps', found.gaps,
        'next', CASE WHEN until < to_seq THEN until + 1 END);
END $$;
