-- What is known of each collection without reading its records: how many of each epoch, with which numbers; the newest
-- of them; and which hours changed since they were rolled up. Kept by triggers, so it is right whoever writes.

CREATE TABLE IF NOT EXISTS unisat_epochs (
    parent_id TEXT COLLATE "C" NOT NULL,
    -- '' for records without one.
    epoch TEXT COLLATE "C" NOT NULL,
    records BIGINT NOT NULL,
    first_seq BIGINT,
    last_seq BIGINT,
    PRIMARY KEY (parent_id, epoch)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS unisat_newest_records (
    parent_id TEXT COLLATE "C" PRIMARY KEY,
    -- The last_modified of all that was ever there, in milliseconds.
    modified BIGINT NOT NULL,
    -- The newest by device time: that time, its id, and the record as it is sent. NULL where none has a time.
    device_time JSONB,
    record_id TEXT COLLATE "C",
    newest TEXT
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS unisat_stale_hours (
    parent_id TEXT COLLATE "C" NOT NULL,
    hour BIGINT NOT NULL,
    PRIMARY KEY (parent_id, hour)
) WITH (fillfactor = 50);

-- A number as a double; NULL for all else, and for what a double cannot hold.
CREATE OR REPLACE FUNCTION unisat_double(value JSONB) RETURNS FLOAT8 LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN jsonb_typeof(value) = 'number'
                THEN CASE WHEN abs(value::NUMERIC) < 1e300 THEN value::FLOAT8 END END
$$;

-- A number from 0 to 2^53 - 1, rounded down; NULL for all else.
CREATE OR REPLACE FUNCTION unisat_integer(value JSONB) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN jsonb_typeof(value) = 'number'
                THEN CASE WHEN value::NUMERIC >= 0 AND value::NUMERIC < 9007199254740992
                          THEN floor(value::NUMERIC)::BIGINT END END
$$;

-- A record as the text that Kinto sends. (It has a timestamp: what follows the brace is never nothing.)
CREATE OR REPLACE FUNCTION unisat_as_text(id TEXT, last_modified TIMESTAMP, data JSONB) RETURNS TEXT
LANGUAGE sql STABLE AS $$
    SELECT '{"id":' || to_json(id) || ',"last_modified":' || (EXTRACT(EPOCH FROM last_modified) * 1000)::BIGINT || ','
        || substr(data::TEXT, 2)
$$;

CREATE OR REPLACE FUNCTION unisat_count() RETURNS TRIGGER LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        UPDATE unisat_epochs e SET records = e.records - o.records
          FROM (SELECT parent_id, left(COALESCE(data->>'epoch', ''), 64) AS epoch, COUNT(*) AS records
                  FROM old_rows WHERE resource_name = 'record' AND NOT deleted GROUP BY 1, 2) o
         WHERE e.parent_id = o.parent_id AND e.epoch = o.epoch;
        INSERT INTO unisat_stale_hours (parent_id, hour)
        SELECT DISTINCT parent_id, unisat_integer(data->'timestamp') / 3600 * 3600 FROM old_rows
         WHERE resource_name = 'record' AND NOT deleted AND unisat_integer(data->'timestamp') IS NOT NULL
         ORDER BY 1, 2
        ON CONFLICT (parent_id, hour) DO UPDATE SET hour = EXCLUDED.hour;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO unisat_epochs AS e (parent_id, epoch, records, first_seq, last_seq)
        SELECT parent_id, left(COALESCE(data->>'epoch', ''), 64), COUNT(*),
               MIN(unisat_integer(data->'seq')), MAX(unisat_integer(data->'seq'))
          FROM new_rows WHERE resource_name = 'record' AND NOT deleted GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (parent_id, epoch) DO UPDATE
           SET records = e.records + EXCLUDED.records,
               first_seq = LEAST(e.first_seq, EXCLUDED.first_seq),
               last_seq = GREATEST(e.last_seq, EXCLUDED.last_seq);
        INSERT INTO unisat_newest_records AS k (parent_id, modified, device_time, record_id, newest)
        SELECT n.parent_id, (EXTRACT(EPOCH FROM n.newest_modified) * 1000)::BIGINT,
               CASE WHEN n.has_time THEN n.data->'timestamp' END, CASE WHEN n.has_time THEN n.id END,
               CASE WHEN n.has_time THEN unisat_as_text(n.id, n.last_modified, n.data) END
          FROM (SELECT DISTINCT ON (parent_id) parent_id, id, data, last_modified, has_time,
                       MAX(last_modified) OVER (PARTITION BY parent_id) AS newest_modified
                  FROM new_rows,
                       LATERAL (SELECT NOT deleted AND unisat_integer(data->'timestamp') IS NOT NULL) h(has_time)
                 WHERE resource_name = 'record'
                 ORDER BY parent_id, has_time DESC, data->'timestamp' DESC, last_modified DESC) n
        ON CONFLICT (parent_id) DO UPDATE
           SET modified = GREATEST(k.modified, EXCLUDED.modified),
               (device_time, record_id, newest) = (SELECT
                   CASE WHEN newer THEN EXCLUDED.device_time ELSE k.device_time END,
                   CASE WHEN newer THEN EXCLUDED.record_id ELSE k.record_id END,
                   CASE WHEN newer THEN EXCLUDED.newest ELSE k.newest END
                   -- Of two of the same time the one that was stored last, which is this one.
                   FROM (SELECT COALESCE(EXCLUDED.device_time >= k.device_time, k.device_time IS NULL)) n(newer));
        -- An update, not nothing: it holds the mark until COMMIT, and no roll-up can remove it before that.
        INSERT INTO unisat_stale_hours (parent_id, hour)
        SELECT DISTINCT parent_id, unisat_integer(data->'timestamp') / 3600 * 3600 FROM new_rows
         WHERE resource_name = 'record' AND NOT deleted AND unisat_integer(data->'timestamp') IS NOT NULL
         ORDER BY 1, 2
        ON CONFLICT (parent_id, hour) DO UPDATE SET hour = EXCLUDED.hour;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        -- Where the first or the last went, the next one takes its place.
        UPDATE unisat_epochs e SET
               first_seq = (SELECT unisat_integer(r.data->'seq') FROM objects r
                             WHERE r.parent_id = e.parent_id AND r.resource_name = 'record' AND NOT r.deleted
                               AND r.data->'seq' >= '0' AND r.data->'seq' <= '9007199254740991'
                               AND left(COALESCE(r.data->>'epoch', ''), 64) = e.epoch
                             ORDER BY r.data->'seq' LIMIT 1),
               last_seq = (SELECT unisat_integer(r.data->'seq') FROM objects r
                            WHERE r.parent_id = e.parent_id AND r.resource_name = 'record' AND NOT r.deleted
                              AND r.data->'seq' >= '0' AND r.data->'seq' <= '9007199254740991'
                              AND left(COALESCE(r.data->>'epoch', ''), 64) = e.epoch
                            ORDER BY r.data->'seq' DESC LIMIT 1)
          FROM (SELECT parent_id, left(COALESCE(data->>'epoch', ''), 64) AS epoch,
                       MIN(unisat_integer(data->'seq')) AS low, MAX(unisat_integer(data->'seq')) AS high
                  FROM old_rows WHERE resource_name = 'record' AND NOT deleted GROUP BY 1, 2) o
         WHERE e.parent_id = o.parent_id AND e.epoch = o.epoch AND e.records > 0
           AND (o.low <= e.first_seq OR o.high >= e.last_seq);
        DELETE FROM unisat_epochs e USING old_rows o
         WHERE e.parent_id = o.parent_id AND o.resource_name = 'record' AND e.records <= 0;
        UPDATE unisat_newest_records k SET (device_time, record_id, newest) = (
                   SELECT r.data->'timestamp', r.id, unisat_as_text(r.id, r.last_modified, r.data) FROM objects r
                    WHERE r.parent_id = k.parent_id AND r.resource_name = 'record' AND NOT r.deleted
                      AND r.data->'timestamp' >= '0' AND r.data->'timestamp' <= '9007199254740991'
                    ORDER BY r.data->'timestamp' DESC, r.last_modified DESC LIMIT 1)
          FROM old_rows o
         WHERE k.parent_id = o.parent_id AND k.record_id = o.id AND o.resource_name = 'record';
    END IF;
    RETURN NULL;
END $$;

-- A collection that is deleted takes with it what was known of it.
CREATE OR REPLACE FUNCTION unisat_forget_collection() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    parent CONSTANT TEXT := OLD.parent_id || '/collections/' || OLD.id;
BEGIN
    DELETE FROM unisat_rollups WHERE parent_id = parent;
    DELETE FROM unisat_stale_hours WHERE parent_id = parent;
    DELETE FROM unisat_newest_records WHERE parent_id = parent;
    RETURN NULL;
END $$;

-- Nobody writes between the counting and the triggers: this file is one transaction.
CREATE OR REPLACE TRIGGER tgr_unisat_count_new AFTER INSERT ON objects
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION unisat_count();
CREATE OR REPLACE TRIGGER tgr_unisat_count_changed AFTER UPDATE ON objects
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION unisat_count();
CREATE OR REPLACE TRIGGER tgr_unisat_count_gone AFTER DELETE ON objects
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION unisat_count();
CREATE OR REPLACE TRIGGER tgr_unisat_forget_deleted AFTER UPDATE OF data ON objects
    FOR EACH ROW WHEN (NEW.resource_name = 'collection' AND NEW.deleted) EXECUTE FUNCTION unisat_forget_collection();
CREATE OR REPLACE TRIGGER tgr_unisat_forget_gone AFTER DELETE ON objects
    FOR EACH ROW WHEN (OLD.resource_name = 'collection') EXECUTE FUNCTION unisat_forget_collection();

DELETE FROM unisat_epochs;
INSERT INTO unisat_epochs (parent_id, epoch, records, first_seq, last_seq)
SELECT parent_id, left(COALESCE(data->>'epoch', ''), 64), COUNT(*),
       MIN(unisat_integer(data->'seq')), MAX(unisat_integer(data->'seq'))
  FROM objects WHERE resource_name = 'record' AND NOT deleted GROUP BY 1, 2;
INSERT INTO unisat_stale_hours (parent_id, hour)
SELECT DISTINCT parent_id, unisat_integer(data->'timestamp') / 3600 * 3600 FROM objects
 WHERE resource_name = 'record' AND NOT deleted AND unisat_integer(data->'timestamp') IS NOT NULL
ON CONFLICT (parent_id, hour) DO NOTHING;
DELETE FROM unisat_newest_records;
INSERT INTO unisat_newest_records (parent_id, modified, device_time, record_id, newest)
SELECT p.parent, (EXTRACT(EPOCH FROM m.last_modified) * 1000)::BIGINT, n.device_time, n.id, n.newest
  FROM objects c, LATERAL (SELECT c.parent_id || '/collections/' || c.id) p(parent),
       LATERAL (SELECT last_modified FROM objects r WHERE r.parent_id = p.parent AND r.resource_name = 'record'
                 ORDER BY last_modified DESC LIMIT 1) m
  LEFT JOIN LATERAL (
       SELECT r.data->'timestamp' AS device_time, r.id, unisat_as_text(r.id, r.last_modified, r.data) AS newest
         FROM objects r
        WHERE r.parent_id = p.parent AND r.resource_name = 'record' AND NOT r.deleted
          AND r.data->'timestamp' >= '0' AND r.data->'timestamp' <= '9007199254740991'
        ORDER BY r.data->'timestamp' DESC, r.last_modified DESC LIMIT 1) n ON TRUE
 WHERE c.resource_name = 'collection' AND NOT c.deleted;
