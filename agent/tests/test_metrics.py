"""The metrics of a snapshot, without a thread."""

from __future__ import annotations

from unisat_agent.delivery.requests import RequestLog
from unisat_agent.serial.status import DeviceHeard
from unisat_agent.service.metrics import exposition
from unisat_agent.service.snapshot import (
    PortSnapshot,
    RetentionSnapshot,
    SinkSnapshot,
    Snapshot,
    SpoolSnapshot,
)


def lines(snapshot: Snapshot) -> list[str]:
    return exposition(snapshot).decode().splitlines()


def test_dead_letters_by_sink_and_reason() -> None:
    found = lines(Snapshot(sinks=(SinkSnapshot("hub", dead={"refused": 2, "conflict": 1}),)))
    assert 'unisat_agent_dead_letters{reason="refused",sink="hub"} 2.0' in found
    assert 'unisat_agent_dead_letters{reason="conflict",sink="hub"} 1.0' in found


def test_requests_by_status_and_duration() -> None:
    log = RequestLog()
    for seconds, status in ((0.05, 200), (0.3, 200), (60.0, None), (0.3, 999)):
        log.note(seconds, status)
    found = lines(Snapshot(sinks=(SinkSnapshot("hub", requests=log.figures()),)))
    assert [line.removeprefix("unisat_agent_") for line in found if "unisat_agent_req" in line] == [
        "# HELP unisat_agent_requests_total Requests to the sink, by HTTP status",
        "# TYPE unisat_agent_requests_total counter",
        'requests_total{sink="hub",status="200"} 2.0',
        'requests_total{sink="hub",status="none"} 1.0',
        'requests_total{sink="hub",status="other"} 1.0',
        "# HELP unisat_agent_request_seconds How long requests to the sink took",
        "# TYPE unisat_agent_request_seconds histogram",
        'request_seconds_bucket{le="0.05",sink="hub"} 1.0',
        'request_seconds_bucket{le="0.2",sink="hub"} 1.0',
        'request_seconds_bucket{le="1.0",sink="hub"} 3.0',
        'request_seconds_bucket{le="5.0",sink="hub"} 3.0',
        'request_seconds_bucket{le="30.0",sink="hub"} 3.0',
        'request_seconds_bucket{le="+Inf",sink="hub"} 4.0',
        'request_seconds_count{sink="hub"} 4.0',
        'request_seconds_sum{sink="hub"} 60.65',
    ]


def test_age_of_the_last_package_by_device() -> None:
    port = PortSnapshot("auto", devices=(DeviceHeard("u01", packages=3, age_s=1.5),))
    assert 'unisat_agent_last_package_age_seconds{device="u01"} 1.5' in lines(
        Snapshot(ports=(port,))
    )


def test_forecast_and_what_was_let_go() -> None:
    retention = RetentionSnapshot(records=7, deleted=3, full_in_days=12.5)
    found = lines(Snapshot(retention=retention))
    for line in ("disk_full_days 12.5", "local_records 7.0", "retired_records_total 3.0"):
        assert f"unisat_agent_{line}" in found
    assert not any(line.startswith("unisat_agent_disk_full") for line in lines(Snapshot()))


def test_free_disk_that_can_not_be_asked_is_left_out() -> None:
    assert "unisat_agent_disk_free_bytes 5.0" in lines(Snapshot(spool=SpoolSnapshot(disk_free=5)))
    assert not any(line.startswith("unisat_agent_disk_free") for line in lines(Snapshot()))
