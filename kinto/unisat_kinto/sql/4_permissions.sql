-- Stock Kinto left each record's author the right to rewrite and delete it. (Kinto keeps permissions in this database,
-- or in another one, where this table is not.)
DO $$
BEGIN
    IF to_regclass('access_control_entries') IS NOT NULL THEN
        DELETE FROM access_control_entries WHERE object_id LIKE '/buckets/%/collections/%/records/%';
    END IF;
END $$;
