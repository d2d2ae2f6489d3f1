"""Rows of years, made by SQL: one collection of two million records, and ten thousand others."""

from __future__ import annotations

import psycopg2

LONG_ROWS = 2_000_000
STATIONS = 10_000
EACH = 50
INTERVAL_S = 3
START = 1660917600
LONG = "long"
BUCKET = "telemetry"

# Records lie in the table as they would have come: those of the long collection between others.
_RECORDS = """
INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted)
SELECT md5(c.name || i)::UUID::TEXT, '/buckets/{bucket}/collections/' || c.name, 'record',
       from_epoch(({start} + i * {interval}::BIGINT) * 1000 + 500),
       jsonb_build_object(
           'devID', c.name, 'timestamp', {start} + i * {interval}, 'seq', i + 1, 'clock', 'synced',
           'received_at', '2022-08-19T14:09:52.431Z', 'uptime', i * {interval} + 12.5,
           'epoch', '7d0c7f0e-6a2e-4d3a-9c1e-0d6a2f5b9a11',
           'boot_id', '1b4c6c1e-43f7-4a5e-8a55-0f3cf9d0a111',
           'groups', '{{"meteo": ["temperature", "humidity", "pressure"],
                        "air": ["pm25", "pm10"]}}'::JSONB,
           'temperature', 20 + 10 * sin(i / 4584.0), 'humidity', 20.0 + i % 30,
           'pressure', 1304.4, 'pm25', 4.0 + i % 7, 'pm10', 11.1), FALSE
  FROM generate_series({first}, {last}) i,
       LATERAL (SELECT '{long}' UNION ALL
                SELECT 'u' || lpad((i / {every} % {stations})::TEXT, 5, '0')
                 WHERE i % {every} = 0) c(name)
"""
_COLLECTIONS = """
INSERT INTO objects (id, parent_id, resource_name, last_modified, data, deleted)
SELECT name, '/buckets/{bucket}', 'collection', from_epoch({start}000::BIGINT + n), '{{}}', FALSE
  FROM (SELECT 0, '{long}' UNION ALL
        SELECT i + 1, 'u' || lpad(i::TEXT, 5, '0')
          FROM generate_series(0, {stations} - 1) i) c(n, name)
"""


def fill(database: str, rows: int = LONG_ROWS, stations: int = STATIONS, each: int = EACH) -> None:
    """Fills the database of a stock Kinto; the bucket has to be there.

    The database has not had the plugin yet, and no trigger of Kinto's runs: the plugin's migration
    then meets rows, as on a hub that is updated.
    """
    connection = psycopg2.connect(database)
    values = {
        "bucket": BUCKET, "long": LONG, "start": START, "interval": INTERVAL_S,
        "stations": stations, "every": max(1, rows // (stations * each)),
    }  # fmt: skip
    with connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
        cursor.execute(_COLLECTIONS.format(**values))
        for first in range(0, rows, 100_000):
            last = min(rows, first + 100_000) - 1
            cursor.execute(_RECORDS.format(**values, first=first, last=last))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE objects")
    connection.close()
