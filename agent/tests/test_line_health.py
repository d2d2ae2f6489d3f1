"""What the serial side says about health: silence, noise, foreign and missing devices."""

from __future__ import annotations

from typing import Any

from unisat_agent.serial.status import DeviceHeard, PortHeard, Unread, merged
from unisat_agent.service.line import line_problems

OURS = frozenset({"u01kz"})


def port(**facts: Any) -> PortHeard:
    usual: dict[str, Any] = {"name": "tty", "device": "/dev/tty", "adopted": True, "open_s": 300.0}
    return PortHeard(**usual | facts)


def device(dev_id: str = "u01kz", **facts: Any) -> DeviceHeard:
    usual: dict[str, Any] = {"packages": 100, "age_s": 1.0, "interval_s": 3.0}
    return DeviceHeard(dev_id, **usual | facts)


def healthy(**facts: Any) -> PortHeard:
    usual: dict[str, Any] = {"bytes": 9000, "byte_age_s": 1.0, "package_age_s": 1.0}
    return port(**usual | {"devices": (device(),)} | facts)


def sentences(
    ports: list[PortHeard],
    expected: frozenset[str] = frozenset(),
    interval_s: float = 0.0,
    usual_s: dict[str, float] | None = None,
) -> list[str]:
    devices = merged(device for port in ports for device in port.devices)
    return list(line_problems(ports, devices, expected, interval_s, usual_s).values())


class TestPorts:
    def test_a_healthy_one(self) -> None:
        assert sentences([healthy()]) == []
        assert sentences([healthy()], OURS) == []

    def test_a_silent_one(self) -> None:
        (text,) = sentences([port()])
        assert text.startswith("port tty: nothing has come since it was opened 5 min ago")
        assert sentences([port(open_s=30)]) == []

    def test_one_that_fell_silent_before_a_package(self) -> None:
        (text,) = sentences([port(bytes=20, byte_age_s=200.0, unread=Unread(20, 1, 0))])
        assert text == "port tty: nothing has come for 3 min, and no package before"

    def test_a_wrong_baud(self) -> None:
        (text,) = sentences([port(bytes=9000, byte_age_s=0.0, unread=Unread(9000, 70, 5000))])
        assert "the wrong speed? Set `baud` in [[serial]]" in text

    def test_no_line_end(self) -> None:
        (text,) = sentences([port(bytes=9000, byte_age_s=0.0, unread=Unread(9000, 0, 0))])
        assert "without any line end" in text

    def test_another_kind_of_device(self) -> None:
        (text,) = sentences([port(bytes=9000, byte_age_s=0.0, unread=Unread(9000, 300, 0))])
        assert "lines come, but no package" in text

    def test_a_long_package_that_has_not_ended_is_no_noise(self) -> None:
        assert sentences([healthy(unread=Unread(4000, 100, 0))]) == []

    def test_noise_after_packages(self) -> None:
        (text,) = sentences([healthy(package_age_s=20.0, unread=Unread(9000, 70, 5000))])
        assert "the wrong speed" in text

    def test_a_port_that_is_only_listened_to_is_not_this_stations(self) -> None:
        assert sentences([healthy(), port(adopted=False)]) == []


class TestDevices:
    def test_only_a_foreign_one(self) -> None:
        (text,) = sentences([healthy(devices=(device("zz9"),))], OURS)
        assert text == (
            "zz9 is sending, but only u01kz is expected: if that is your device, write "
            '`devices = ["zz9"]` under [station]'
        )

    def test_a_foreign_one_beside_ours(self) -> None:
        (text,) = sentences([healthy(devices=(device(), device("zz9")))], OURS)
        assert 'write `devices = ["u01kz", "zz9"]`' in text

    def test_a_neighbours_board_on_another_port(self) -> None:
        neighbour = healthy(name="other", adopted=False, devices=(device("zz9"),))
        assert sentences([healthy(), neighbour], OURS) == []
        assert len(sentences([neighbour], OURS)) == 1

    def test_a_foreign_one_that_is_gone_is_forgotten(self) -> None:
        gone = device("zz9", age_s=3600.0)
        assert sentences([healthy(devices=(device(), gone))], OURS) == []

    def test_a_flipped_bit_is_not_mentioned(self) -> None:
        assert sentences([healthy(devices=(device(), device("u01kx", packages=1)))], OURS) == []

    def test_an_expected_one_that_was_never_heard(self) -> None:
        (text,) = sentences([healthy()], OURS | {"u02kz"})
        assert text.startswith("u02kz is expected and has not been heard")
        assert sentences([healthy(open_s=30.0)], OURS | {"u02kz"}) == []

    def test_silence_is_judged_by_the_interval_that_was_learned(self) -> None:
        (text,) = sentences([healthy(devices=(device(age_s=90.0),))], OURS)
        assert text == "u01kz has been silent for 90 s (it sends every 3 s)"
        assert sentences([healthy(devices=(device(age_s=90.0, interval_s=75.0),))], OURS) == []
        assert len(sentences([healthy(devices=(device(age_s=400.0, interval_s=75.0),))])) == 1

    def test_silence_is_judged_by_the_interval_that_is_configured(self) -> None:
        slow = [healthy(devices=(device(age_s=900.0, packages=1, interval_s=None),))]
        assert sentences(slow, OURS, interval_s=600.0) == []
        assert len(sentences(slow, OURS)) == 1

    def test_after_a_start_a_slow_device_has_time_for_two_packages(self) -> None:
        silent = [port(open_s=300.0)]
        assert len(sentences(silent, OURS)) == 2
        assert sentences(silent, OURS, interval_s=200.0) == []
        assert sentences(silent, OURS, usual_s={"u01kz": 200.0}) == []
        assert len(sentences(silent, OURS, usual_s={"u01kz": 100.0})) == 2

    def test_a_silent_port_is_told_once_by_its_device(self) -> None:
        (text,) = sentences(
            [healthy(byte_age_s=500.0, package_age_s=500.0, devices=(device(age_s=500.0),))], OURS
        )
        assert text.startswith("u01kz has been silent")

    def test_one_device_on_two_ports(self) -> None:
        assert merged([device(packages=3, age_s=90.0), device(packages=4)]) == (device(packages=7),)
