"""PSoTT as real devices send it: line ends, stray bytes, checksums."""

import pytest

from rig.decoding import FRAME, decode, lines, only_package, reasons
from unisat_agent.protocols import PROTOCOLS, psott
from unisat_agent.protocols.events import Package, Rejected
from unisat_agent.protocols.psott import Decoder, Reason

ARDUINO = (
    b"\r\n\r\ndevID=u02kz\r\nsubID=air\r\npm25=4.00\r\npm10=11.10\r\nsubID=meteo\r\n"
    b"temperature=32.00\r\nhumidity=20.00\r\npressure=1304.40\r\n\r\n\r\n"
)


class TestRealDevices:
    def test_the_frame_of_the_protocol(self) -> None:
        assert decode(FRAME) == [
            Package(
                dev_id="u01kz",
                fields={
                    "lat": 43.27534,
                    "long": 76.54367,
                    "temperature": 39.4,
                    "humidity": 42.1,
                    "battery": True,
                },
                groups={
                    "gps": ("lat", "long"),
                    "meteo": ("temperature", "humidity"),
                    "status": ("battery",),
                },
                missing=("pressure", "pm25"),
            )
        ]

    def test_arduino_println_of_crlf(self) -> None:
        assert decode(ARDUINO * 2) == 2 * [
            Package(
                dev_id="u02kz",
                fields={
                    "pm25": 4.0,
                    "pm10": 11.1,
                    "temperature": 32.0,
                    "humidity": 20.0,
                    "pressure": 1304.4,
                },
                groups={"air": ("pm25", "pm10"), "meteo": ("temperature", "humidity", "pressure")},
                missing=(),
            )
        ]

    def test_arduino_without_the_air_sensor(self) -> None:
        data = ARDUINO.replace(b"subID=air\r\npm25=4.00\r\npm10=11.10\r\n", b"")
        package = only_package(data)
        assert package.missing == ("pm25",)
        assert package.groups == {"meteo": ("temperature", "humidity", "pressure")}

    @pytest.mark.parametrize("end", [b"\n", b"\r\r\n", b" \r\n", b"\t\r\n", b"\r\n\r"])
    def test_line_ends(self, end: bytes) -> None:
        assert decode(FRAME.replace(b"\r\n", end)) == decode(FRAME)

    def test_blanks_around_line_name_and_value(self) -> None:
        assert only_package(b"  devID = u01 \n\t temperature\t=  1.5 \n\n").fields == {
            "temperature": 1.5
        }

    def test_one_blank_line_between_packages_serves_both(self) -> None:
        data = lines("devID=a", "x=1", "", "devID=b", "x=2", "")
        assert [event.dev_id for event in decode(data) if isinstance(event, Package)] == ["a", "b"]

    def test_two_devices_without_a_blank_line(self) -> None:
        assert [
            (event.dev_id, dict(event.fields))
            for event in decode(lines("devID=a", "x=1", "devID=b", "y=2", ""))
            if isinstance(event, Package)
        ] == [("a", {"x": 1}), ("b", {"y": 2})]

    def test_no_bytes_and_blank_lines_are_nothing(self) -> None:
        assert decode(b"") == []
        assert decode(b"\r\n\n \r\n\t\n\r") == []


THREE = 3 * [
    Package("u01kz", {"temperature": 23.5}, {"meteo": ("temperature",)}, psott.REQUIRED[1:])
]


class TestStrayBytes:
    """What a BREAK, a floating line or an adapter leaves costs itself, not the package."""

    def test_nul_before_each_package(self) -> None:
        data = (
            b"\x00devID=u01kz\r\nsubID=meteo\r\ntemperature=23.50\r\nhumidity=40\r\n"
            b"pressure=1001.2\r\npm25=4\r\n\r\n"
        ) * 3
        package = Package(
            "u01kz",
            {"temperature": 23.5, "humidity": 40.0, "pressure": 1001.2, "pm25": 4.0},
            {"meteo": ("temperature", "humidity", "pressure", "pm25")},
            (),
        )
        assert decode(data) == [package] * 3

    def test_ff_before_each_package(self) -> None:
        data = b"\xffdevID=u01kz\r\nsubID=meteo\r\ntemperature=23.50\r\n\r\n" * 3
        assert decode(data) == THREE

    @pytest.mark.parametrize("stray", [b"\x00", b"\xff", b"\x80\x00\x00\xfe", b"\x7f\x1b"])
    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\r", b"\r"])
    def test_before_every_line(self, stray: bytes, end: bytes) -> None:
        frame = b"devID=u01kz\nsubID=meteo\ntemperature=23.50\n\n" * 3
        noisy = b"".join(stray + line + end for line in frame.split(b"\n")[:-1])
        # One on the blank line means that it is none: the next devID ends the package.
        assert decode(noisy) == THREE

    def test_alone_on_a_line_in_a_package(self) -> None:
        data = b"devID=a\nx=1\n\xff\x00\ny=2\n\n"
        assert decode(data) == [Package("a", {"x": 1, "y": 2}, {}, psott.REQUIRED)]

    def test_while_the_line_floats_nothing_is_in_hand(self) -> None:
        decoder = Decoder()
        assert decoder.feed(b"\x00" * 100_000) == []
        assert not decoder.in_package
        assert decoder.feed(b"devID=a\nx=1\n\n") == [Package("a", {"x": 1}, {}, psott.REQUIRED)]


class TestCarriageReturns:
    """Devices whose lines end in a carriage return alone."""

    @pytest.mark.parametrize("repeat", [1, 3])
    def test_are_read(self, repeat: int) -> None:
        data = FRAME.replace(b"\r\n", b"\r") * repeat
        assert decode(data) == decode(FRAME) * repeat

    def test_a_package_is_complete_with_its_blank_line(self) -> None:
        decoder = Decoder()
        events = decoder.feed(b"devID=a\rx=1\r\r")
        events += decoder.feed(b"devID=a\rx=2\r\r")
        assert [event.fields for event in events if isinstance(event, Package)] == [
            {"x": 1},
            {"x": 2},
        ]

    def test_silence_ends_the_first_package(self) -> None:
        assert decode(b"devID=a\rx=1\r") == [Package("a", {"x": 1}, {}, psott.REQUIRED)]

    def test_after_noise_without_any_line_end(self) -> None:
        events = decode(b"z" * 5000 + b"\r" + b"devID=a\rx=1\r\r" * 2)
        assert events == [
            Rejected(Reason.TOO_LONG, b"z" * psott.MAX_RAW_BYTES),
            *[Package("a", {"x": 1}, {}, psott.REQUIRED)] * 2,
        ]

    def test_another_device_takes_over_with_newlines(self) -> None:
        data = FRAME.replace(b"\r\n", b"\r") + FRAME + FRAME.replace(b"\r\n", b"\n")
        assert decode(data) == decode(FRAME) * 3

    def test_one_inside_a_line_with_a_newline_ends_no_line(self) -> None:
        assert reasons(b"devID=a\nx=1\r\ry=2\nz=3\n\n") == [Reason.CONTROL_BYTE]


CHECKED = b"devID=u01kz\r\ntemperature=21.50\r\nhumidity=40\r\n"


class TestChecksum:
    """An optional last line: CRC-16/CCITT-FALSE over the bytes from devID to the line before."""

    def test_the_algorithm_is_the_catalogued_one(self) -> None:
        # The check value of CRC-16/CCITT-FALSE (also called CRC-16/IBM-3740).
        assert psott.crc_of(b"123456789") == 0x29B1
        assert psott.crc_of(CHECKED) == 0x66C2

    @pytest.mark.parametrize("digits", ["66C2", "66c2"])
    @pytest.mark.parametrize("before", [b"", b"\r\n", b"\x00", b"rest=of\r\n"])
    def test_right(self, digits: str, before: bytes) -> None:
        (package,) = (
            event
            for event in decode(before + CHECKED + f"crc={digits}\r\n\r\n".encode())
            if isinstance(event, Package)
        )
        assert package.checked
        assert package.fields == {"temperature": 21.5, "humidity": 40.0}

    @pytest.mark.parametrize("end", [b"\n", b"\r"])
    def test_is_over_the_line_ends_as_sent(self, end: bytes) -> None:
        body = CHECKED.replace(b"\r\n", end)
        crc = b"crc=%04X" % psott.crc_of(body)
        events = decode((body + crc + end + end) * 2)
        assert [event.checked for event in events if isinstance(event, Package)] == [True, True]

    def test_is_over_the_line_ends_of_a_device_that_takes_over(self) -> None:
        other = FRAME.replace(b"\r\n", b"\r")
        events = decode(other + CHECKED + b"crc=66C2\r\n\r\n")
        assert [event.checked for event in events if isinstance(event, Package)] == [False, True]

    def test_wrong_costs_the_package(self) -> None:
        damaged = CHECKED.replace(b"21.50", b"2150")
        assert decode(damaged + b"crc=66C2\r\n\r\n") == [
            Rejected(
                Reason.BAD_CRC, b"devID=u01kz\r\ntemperature=2150\r\nhumidity=40\r\ncrc=66C2\r"
            )
        ]

    def test_covers_lines_that_are_rejected(self) -> None:
        body = CHECKED + b"pm25=nan\r\n"
        events = decode(body + b"crc=%04x\r\n\r\n" % psott.crc_of(body))
        assert [type(event) for event in events] == [Rejected, Package]
        assert isinstance(events[1], Package)
        assert events[1].checked

    @pytest.mark.parametrize("digits", ["", "12", "0x66C2", "66C2B", "word"])
    def test_a_line_that_is_none_costs_itself(self, digits: str) -> None:
        events = decode(CHECKED + f"crc={digits}\r\n\r\n".encode())
        assert events[0] == Rejected(Reason.BAD_VALUE, f"crc={digits}\r".encode())
        assert isinstance(events[1], Package)
        assert not events[1].checked

    def test_what_follows_it_is_not_covered_and_not_taken(self) -> None:
        events = decode(CHECKED + b"crc=66C2\r\nx=1\r\n\r\n")
        assert events[0] == Rejected(Reason.AFTER_CRC, b"x=1\r")
        assert isinstance(events[1], Package)
        assert "x" not in events[1].fields


def test_the_registry() -> None:
    assert isinstance(PROTOCOLS["psott"](), Decoder)
