"""A dump is proven by what is read off it."""

from __future__ import annotations

from kinto_dump import content_of

COLLECTION = "/buckets/telemetry/collections/u01kz"
# As pg_dump 15 writes them; the sums below are those that the database itself had of these rows.
OBJECTS = (
    ("1", COLLECTION, "record", "2026-11-25 09:00:00.123", '{"temperature": 39.5}', "f"),
    ("2", COLLECTION, "record", "2026-11-25 09:00:01",
     r'{"t": "tab\\t back\\\\ line\\n Алматы"}', "f"),
    (r"3\t\\x", "p", "record", "2026-11-25 09:00:02", "{}", "t"),
    ("4", "", "bucket", "2026-11-25 09:00:03", r"\N", "f"),
)  # fmt: skip
CONTENT = {
    "record": {"count": 2, "sum": "8364688043"},
    "bucket": {"count": 1, "sum": "3675923083"},
    "permission": {"count": 2, "sum": ""},
}


def dump(objects: tuple[tuple[str, ...], ...], permissions: str = "a\tb\tc\nd\te\tf\n") -> bytes:
    columns = "id, parent_id, resource_name, last_modified, data, deleted"
    rows = "".join("\t".join(row) + "\n" for row in objects)
    return (
        "SET client_encoding = 'UTF8';\n"
        "COPY public.access_control_entries (object_id, permission, principal) FROM stdin;\n"
        f"{permissions}\\.\n\n\nCOPY public.objects ({columns}) FROM stdin;\n{rows}\\.\n"
    ).encode()


def test_a_dump_says_what_the_database_says() -> None:
    assert content_of(dump(OBJECTS).splitlines(keepends=True)) == CONTENT


def test_a_dump_that_lost_or_changed_a_row_says_otherwise() -> None:
    changed = ((*OBJECTS[0][:4], '{"temperature": 39.6}', "f"), *OBJECTS[1:])
    for other in (dump(OBJECTS[1:]), dump(changed), dump(OBJECTS, "a\tb\tc\n"), b""):
        assert content_of(other.splitlines(keepends=True)) != CONTENT
