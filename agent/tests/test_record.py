"""What a package is in Kinto, and when two records are the same package."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unisat_agent.clock import ClockState
from unisat_agent.protocols.events import Package
from unisat_agent.protocols.psott import Decoder
from unisat_agent.record import (
    Row,
    Stamp,
    format_utc,
    payload_of,
    record_id,
    row_of,
    same_package,
    same_time,
)

EPOCH = uuid.UUID("0b6f7c1e-4f0a-4ab4-9a0e-6a3c6f1f2a3b")
TEXT = (
    b"devID=u01kz\nsubID=air\npm25=4\npm10=11.1\nsubID=meteo\ntemperature=32\nhumidity=20\n"
    b"pressure=1304.4\nsubID=status\nbattery=true\nrounds=7\n\n"
)


def package(text: bytes = TEXT) -> Package:
    (event,) = Decoder().feed(text)
    assert isinstance(event, Package)
    return event


def row(text: bytes = TEXT) -> Row:
    payload = payload_of(package(text))
    stamp = Stamp(1_660_918_192_431, 5_123_400, "b00t", ClockState.SYNCED)
    ident = record_id(EPOCH, 1234, payload)
    return Row(1234, ident, "u01kz", stamp, payload, 0, EPOCH, 1234)


def as_stored(record: dict[str, Any]) -> dict[str, Any]:
    """The record as a Kinto gives it back."""
    stored: dict[str, Any] = json.loads(json.dumps(record))
    return stored | {"last_modified": 1_700_000_000_000}


def test_record_has_the_shape_of_the_design() -> None:
    assert row().record() == {
        "id": str(row().record_id),
        "devID": "u01kz",
        "timestamp": 1660918192,
        "received_at": "2022-08-19T14:09:52.431Z",
        "clock": "synced",
        "epoch": str(EPOCH),
        "seq": 1234,
        "boot_id": "b00t",
        "uptime": 5123.4,
        "groups": {
            "air": ["pm25", "pm10"],
            "meteo": ["temperature", "humidity", "pressure"],
            "status": ["battery", "rounds"],
        },
        "pm25": 4.0,
        "pm10": 11.1,
        "temperature": 32.0,
        "humidity": 20.0,
        "pressure": 1304.4,
        "battery": True,
        "rounds": 7,
    }


def test_types_are_those_that_the_mobile_app_reads() -> None:
    text = json.dumps(row().record())
    assert '"timestamp": 1660918192' in text
    assert '"humidity": 20.0' in text
    assert '"pm25": 4.0' in text
    assert '"rounds": 7' in text
    assert '"battery": true' in text


def test_missing_fields_are_said_only_where_there_are_some() -> None:
    assert "missing" not in row().record()
    said = row(b"devID=u01kz\ntemperature=1\nx=2\n\n").record()
    assert said["missing"] == ["humidity", "pressure", "pm25"]


def test_id_depends_on_epoch_number_and_payload_alone() -> None:
    payload = payload_of(package())
    ident = record_id(EPOCH, 5, payload)
    assert ident == record_id(EPOCH, 5, payload)
    assert ident == uuid.UUID("0232da56-09fa-58c8-8507-db72429de39b")
    assert len({ident, record_id(EPOCH, 6, payload), record_id(uuid.UUID(int=1), 5, payload),
                record_id(EPOCH, 5, payload + " ")}) == 4  # fmt: skip


def test_payload_does_not_depend_on_the_order_of_the_fields() -> None:
    other = package(b"devID=u01kz\nb=1\na=2\n\n"), package(b"devID=u01kz\na=2\nb=1\n\n")
    assert payload_of(other[0]) == payload_of(other[1])


class TestSamePackage:
    def test_times_and_what_the_server_adds_are_ignored(self) -> None:
        ours = row().record()
        theirs = as_stored(ours) | {"clock": "unsynced", "timestamp": 0, "received_at": "1970"}
        assert same_package(ours, theirs)
        assert not same_time(ours, theirs)
        assert same_time(ours, as_stored(ours))

    @pytest.mark.parametrize(
        "change", [{"pm25": 4.1}, {"seq": 1235}, {"extra": 1}, {"devID": "u02"}, {"groups": {}}]
    )
    def test_other_content_is_another(self, change: dict[str, Any]) -> None:
        ours = row().record()
        assert not same_package(ours, as_stored(ours) | change)

    def test_lost_field_is_another(self) -> None:
        theirs = as_stored(row().record())
        del theirs["pm10"]
        assert not same_package(row().record(), theirs)

    def test_boolean_is_no_number(self) -> None:
        ours = row().record()
        assert not same_package(ours, as_stored(ours) | {"battery": 1})

    def test_numbers_are_compared_as_postgresql_gives_them_back(self) -> None:
        ours = row(b"devID=u01kz\nx=1e23\ny=-0.0\n\n").record()
        assert same_package(ours, as_stored(ours) | {"x": 10**23, "y": 0})

    def test_number_beyond_a_double_is_another(self) -> None:
        ours = row().record()
        assert not same_package(ours, as_stored(ours) | {"rounds": 10**400})


class TestRowOf:
    def test_is_the_row_that_made_the_record(self) -> None:
        made = row()
        assert row_of(as_stored(made.record()), 1234) == made

    @given(
        received_ms=st.integers(0, 2**41),
        uptime_ms=st.integers(0, 2**40),
        clock=st.sampled_from(ClockState),
    )
    def test_no_millisecond_is_lost(
        self, received_ms: int, uptime_ms: int, clock: ClockState
    ) -> None:
        made = replace(row(), stamp=Stamp(received_ms, uptime_ms, "b00t", clock))
        assert row_of(as_stored(made.record()), 1234) == made

    @pytest.mark.parametrize(
        "change",
        [
            {"epoch": None},
            {"epoch": "x"},
            {"id": "x"},
            {"id": 5},
            {"seq": None},
            {"seq": "x"},
            {"seq": 0},
            {"seq": 2**63},
            {"seq": 1.5},
            {"clock": "fast"},
            {"uptime": "x"},
            {"uptime": 1e300},
            {"received_at": "yesterday"},
            {"received_at": 5},
            {"devID": None},
            {"uptime": -1},
            {"devID": "1"},
            {"boot_id": None},
        ],
    )
    def test_record_of_nobody_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="not a record of an agent"):
            row_of(as_stored(row().record()) | change, -1)

    @pytest.mark.parametrize("key", ["id", "devID", "epoch", "seq", "uptime", "received_at"])
    def test_record_without_a_key_is_refused(self, key: str) -> None:
        record = row().record()
        del record[key]
        with pytest.raises(ValueError, match="not a record of an agent"):
            row_of(record, -1)


@pytest.mark.parametrize(
    ("wall_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (999, "1970-01-01T00:00:00.999Z"),
        (1_660_918_192_431, "2022-08-19T14:09:52.431Z"),
        (4_102_444_800_001, "2100-01-01T00:00:00.001Z"),
    ],
)
def test_time_is_iso_8601_in_utc(wall_ms: int, text: str) -> None:
    assert format_utc(wall_ms) == text
