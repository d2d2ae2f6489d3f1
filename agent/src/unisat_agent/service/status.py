"""The document that /status answers with: a pure function of a snapshot.

README.md, "Status", describes it; `unisat-agent status` and the playbooks read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unisat_agent.service.health import assess
from unisat_agent.service.snapshot import PortSnapshot, SinkSnapshot, Snapshot


def document(snapshot: Snapshot, update: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What /status says, ready for JSON.

    Args:
        snapshot: The agent at this moment.
        update: How the station's update stands (`fleet.update_of`); None where nothing updates it.
    """
    health = assess(snapshot)
    return {
        "station": snapshot.station,
        "version": snapshot.version,
        "health": health.word.value,
        "problems": list(health.problems),
        "clock": {
            "synchronised": snapshot.synchronised,
            "waiting_for_time": snapshot.spool.unsynced,
            "steps": snapshot.clock_steps,
        },
        "spool": {
            "path": snapshot.spool.path,
            "bytes": snapshot.spool.bytes,
            "disk_free": snapshot.spool.disk_free,
            "last_seq": snapshot.spool.last_seq,
            "waiting_for_room": snapshot.intake.waiting,
            "quarantined": snapshot.spool.quarantined,
        },
        "last_record": dict(snapshot.last_record) if snapshot.last_record else None,
        "ports": [_port(port) for port in snapshot.ports],
        "sinks": {sink.name: _sink(sink) for sink in snapshot.sinks},
        "retention": {
            "records": snapshot.retention.records,
            "deleted": snapshot.retention.deleted,
            "days": snapshot.retention.days,
            "full_in_days": snapshot.retention.full_in_days,
        },
        "reconcile": {
            "last": snapshot.reconcile.report,
            "failure": snapshot.reconcile.failure or None,
        },
        "update": update,
    }


def _port(port: PortSnapshot) -> dict[str, Any]:
    return {
        "name": port.name,
        "state": port.state,
        "device": port.device,
        "detail": port.detail,
        "bytes": port.bytes,
        "reconnects": port.reconnects,
        "open": [
            {
                "name": heard.name,
                "stored": heard.adopted,
                "last_byte_s": heard.byte_age_s,
                "last_package_s": heard.package_age_s,
                "unread_bytes": heard.unread.bytes,
            }
            for heard in port.heard
        ],
        "devices": [
            {
                "devID": device.dev_id,
                "packages": device.packages,
                "last_package_s": device.age_s,
                "interval_s": device.interval_s,
            }
            for device in port.devices
        ],
    }


def _sink(sink: SinkSnapshot) -> dict[str, Any]:
    return {
        "state": sink.state,
        "pending": sink.pending,
        "oldest_s": sink.oldest_s,
        "acked": sink.acked,
        "retries": sink.retries,
        "dead": sum(sink.dead.values()),
        "detail": "; ".join(sink.troubles),
    }
