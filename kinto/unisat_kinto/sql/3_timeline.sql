-- Which life of the database this is. It changes by itself where the tables are made anew (a dump is loaded), where the
-- cluster is (initdb), and where a standby or a restored backup is promoted (PostgreSQL's own timeline).
CREATE OR REPLACE FUNCTION unisat_timeline() RETURNS TEXT LANGUAGE sql AS $$
    SELECT left(md5(concat_ws(' ',
        (SELECT system_identifier FROM pg_control_system()),
        -- Of the WAL that is written now: the control file lags behind a promotion.
        CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id::TEXT FROM pg_control_checkpoint())
             ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::BIT(32)::BIGINT::TEXT END,
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        'objects'::REGCLASS::OID,
        (SELECT MAX(value) FROM metadata WHERE name = 'unisat_timeline'))), 12)
$$;

-- For what PostgreSQL cannot see, such as a copy of the data directory or of the disk put back.
CREATE OR REPLACE FUNCTION unisat_new_timeline() RETURNS TEXT LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM metadata WHERE name = 'unisat_timeline';
    INSERT INTO metadata (name, value) VALUES ('unisat_timeline', gen_random_uuid()::TEXT);
    RETURN unisat_timeline();
END $$;
