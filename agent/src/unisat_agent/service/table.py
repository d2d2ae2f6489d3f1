"""The plain page: health, ports, sinks and the newest records as HTML without scripts or styles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from unisat_agent.service.health import assess
from unisat_agent.service.snapshot import Snapshot

RELOAD_S = 10
_FIRST = ("received_at", "devID", "temperature", "humidity", "pressure", "pm25")
_LEFT_OUT = frozenset({"id", "timestamp", "epoch", "boot_id", "uptime", "groups", "missing"})


def table(snapshot: Snapshot, records: Sequence[Mapping[str, Any]]) -> str:
    """The page; every text in it is escaped, for fields and health come from outside.

    Args:
        snapshot: The agent at this moment.
        records: Newest first.
    """
    health = assess(snapshot)
    columns = list(_FIRST)
    for record in records:
        columns += [name for name in record if name not in columns and name not in _LEFT_OUT]
    return "".join(
        (
            '<!doctype html><html lang="en"><meta charset="utf-8">',
            f'<meta http-equiv="refresh" content="{RELOAD_S}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{escape(snapshot.station)}</title>",
            f"<h1>{escape(snapshot.station)}: {escape(health.word.value)}</h1>",
            "<ul>",
            *(f"<li>{escape(problem)}</li>" for problem in health.problems),
            "</ul>",
            _rows(
                "Ports and sinks",
                ("name", "state", "waiting"),
                (
                    *((port.name, port.state, "") for port in snapshot.ports),
                    *((sink.name, sink.state, sink.pending) for sink in snapshot.sinks),
                ),
            ),
            _rows(
                "Newest records, times in UTC",
                columns,
                ([record.get(name, "") for name in columns] for record in records),
            ),
            "</html>\n",
        )
    )


def _rows(caption: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return (
        f'<table border="1"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
