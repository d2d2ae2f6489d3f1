-- Records of one collection become visible in the order of last_modified: one writer at a time per collection, from its
-- first record to its COMMIT. Whoever polls with _since then misses nothing.
--
-- Triggers are replaced, here and in 5_counts.sql, and not dropped first: that takes a stronger lock on top of the one
-- that CREATE TRIGGER has, and a writer that has read already would be ended for a deadlock.

-- Stock writers take the same lock as unisat_ingest(), before Kinto's own trigger looks for the newest record: triggers
-- fire in the order of their names, and in READ COMMITTED each statement of a VOLATILE function sees what the previous
-- holder of the lock committed. last_modified is the server's alone: one that a client sends could lie behind what
-- pollers have read already.
CREATE OR REPLACE FUNCTION unisat_lock_record() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.parent_id, 0));
    NEW.last_modified := NULL;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER tgr_a_unisat_lock_record BEFORE INSERT OR UPDATE OF data ON objects
    FOR EACH ROW
    WHEN (NEW.resource_name = 'record' AND COALESCE(current_setting('unisat.ingest', TRUE), '') <> 'on')
    EXECUTE FUNCTION unisat_lock_record();

-- Kinto's own trigger, but not for unisat_ingest(), which numbers its records itself: it looks for the newest one before
-- each of them, a third of what a batch cost PostgreSQL.
CREATE OR REPLACE TRIGGER tgr_objects_last_modified BEFORE INSERT OR UPDATE OF data ON objects
    FOR EACH ROW WHEN (COALESCE(current_setting('unisat.ingest', TRUE), '') <> 'on')
    EXECUTE FUNCTION bump_timestamp();

-- A collection that is changed or deleted waits for the writer of its records: nothing is stored in one that is gone,
-- nor below a floor that has just been raised.
CREATE OR REPLACE FUNCTION unisat_lock_collection() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(OLD.parent_id || '/collections/' || OLD.id, 0));
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
CREATE OR REPLACE TRIGGER tgr_a_unisat_lock_collection BEFORE UPDATE OR DELETE ON objects
    FOR EACH ROW WHEN (OLD.resource_name = 'collection')
    EXECUTE FUNCTION unisat_lock_collection();

-- The moment from which a collection can be polled is set with the collection. Kinto sets it at the first GET, where it
-- may lie above a record that is being written, which a poller would then never see; and two at once get a 500.
CREATE OR REPLACE FUNCTION unisat_start_records() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO timestamps (parent_id, resource_name, last_modified)
    VALUES (NEW.parent_id || '/collections/' || NEW.id, 'record', clock_timestamp()::TIMESTAMP)
    ON CONFLICT (parent_id, resource_name) DO NOTHING;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER tgr_unisat_start_records AFTER INSERT OR UPDATE OF data ON objects
    FOR EACH ROW WHEN (NEW.resource_name = 'collection' AND NOT NEW.deleted)
    EXECUTE FUNCTION unisat_start_records();
INSERT INTO timestamps (parent_id, resource_name, last_modified)
SELECT c.parent_id || '/collections/' || c.id, 'record', GREATEST(clock_timestamp()::TIMESTAMP, (
           SELECT r.last_modified FROM objects r
            WHERE r.parent_id = c.parent_id || '/collections/' || c.id AND r.resource_name = 'record'
            ORDER BY r.last_modified DESC LIMIT 1))
  FROM objects c WHERE c.resource_name = 'collection' AND NOT c.deleted
ON CONFLICT (parent_id, resource_name) DO NOTHING;
