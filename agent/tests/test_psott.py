"""PSoTT: what real devices print, what broken ones print, and any bytes at all."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unisat_agent import psott
from unisat_agent.psott import Decoder, Event, Package, Reason, Rejected

FRAME = (
    b"\r\ndevID=u01kz\r\nsubID=gps\r\nlat=43.27534\r\nlong=76.54367\r\nsubID=meteo\r\n"
    b"temperature=39.4\r\nhumidity=42.1\r\nsubID=status\r\nbattery=true\r\n\r\n"
)
ARDUINO = (
    b"\r\n\r\ndevID=u02kz\r\nsubID=air\r\npm25=4.00\r\npm10=11.10\r\nsubID=meteo\r\n"
    b"temperature=32.00\r\nhumidity=20.00\r\npressure=1304.40\r\n\r\n\r\n"
)


def decode(data: bytes, *cuts: int) -> list[Event]:
    decoder, events, start = Decoder(), list[Event](), 0
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        events += decoder.feed(data[start:cut])
        start = cut
    return events + decoder.feed(data[start:]) + decoder.end()


def lines(*texts: str, end: str = "\r\n") -> bytes:
    return "".join(text + end for text in texts).encode()


def only_package(data: bytes) -> Package:
    (package,) = (event for event in decode(data) if isinstance(event, Package))
    return package


def reasons(data: bytes) -> list[Reason]:
    return [event.reason for event in decode(data) if isinstance(event, Rejected)]


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


class TestValues:
    @pytest.mark.parametrize(
        ("line", "value"),
        [
            ("humidity=20", 20.0),
            ("pm25=+4", 4.0),
            ("alt=-0", 0.0),
            ("pressure=99999999999999999999", 1e20),
            ("count=20", 20),
            ("count=-007", -7),
            ("count=9007199254740992", 2**53),
            ("level=20.", 20.0),
            ("level=.5", 0.5),
            ("level=-1.5E-3", -0.0015),
            ("level=1e3", 1000.0),
            ("battery=true", True),
            ("battery=FALSE", False),
        ],
    )
    def test_taken(self, line: str, value: psott.Value) -> None:
        (taken,) = only_package(lines("devID=a", line, "")).fields.values()
        assert taken == value
        assert type(taken) is type(value)

    @pytest.mark.parametrize(
        "value",
        [
            "", "nan", "NAN", "-nan", "inf", "-inf", "infinity", "ovf", "43.2,76.5", "1e999",
            "-1e999", "1_000", "0x1F", "1.2.3", "12a", "1 2", "--1", "e5", ".", "+", "text", '"1"',
            "a=1", "[1]", "9007199254740993", "-9007199254740993", "9" * 200, "none", "yes", "1\t2",
        ],
    )  # fmt: skip
    def test_bad(self, value: str) -> None:
        events = decode(lines("devID=a", "x=1", f"y={value}", "z=2", ""))
        assert events[0] == Rejected(Reason.BAD_VALUE, f"y={value}\r".encode())
        assert isinstance(events[1], Package)
        assert events[1].fields == {"x": 1, "z": 2}

    @pytest.mark.parametrize("name", sorted(psott.MEASUREMENTS))
    def test_a_measurement_is_no_boolean(self, name: str) -> None:
        assert reasons(lines("devID=a", "x=1", f"{name}=true", "")) == [Reason.BAD_VALUE]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("u01kz", True),
        ("u_1-b", True),
        ("A" * 64, True),
        ("", False),
        ("1a", False),
        ("a\n", False),
    ],
)
def test_is_identifier(text: str, expected: bool) -> None:
    assert psott.is_identifier(text) is expected


class TestBadLines:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            (b"hello", Reason.NO_EQUALS),
            (b"temperature 39.4", Reason.NO_EQUALS),
            (b"=5", Reason.BAD_NAME),
            (b"=", Reason.BAD_NAME),
            (b"2x=5", Reason.BAD_NAME),
            (b"_x=5", Reason.BAD_NAME),
            (b"a b=5", Reason.BAD_NAME),
            (b"a.b=5", Reason.BAD_NAME),
            (b"a" * 65 + b"=5", Reason.BAD_NAME),
            (b"x=5\xb0", Reason.NOT_ASCII),
            ("температура=5".encode(), Reason.NOT_ASCII),
            (b"\xff\xfe", Reason.NOT_ASCII),
            (b"x=\x005", Reason.CONTROL_BYTE),
            (b"\x00", Reason.CONTROL_BYTE),
            (b"x=5\x7f", Reason.CONTROL_BYTE),
            (b"x=5\ry=6", Reason.CONTROL_BYTE),
            (b"x=" + b"1" * 255, Reason.TOO_LONG),
            (b" " * 300, Reason.TOO_LONG),
            (b"good=2", Reason.DUPLICATE),
            (b"subID=", Reason.BAD_SUB_ID),
            (b"subID=1air", Reason.BAD_SUB_ID),
            *((f"{name}=5".encode(), Reason.RESERVED_NAME) for name in psott.RESERVED - {"devID"}),
        ],
    )
    def test_costs_the_line_alone(self, line: bytes, reason: Reason) -> None:
        events = decode(b"devID=a\ngood=1\n" + line + b"\nlast=2\n\n")
        assert events == [
            Rejected(reason, line),
            Package("a", {"good": 1, "last": 2}, {}, psott.REQUIRED),
        ]

    def test_the_longest_line_is_taken(self) -> None:
        assert only_package(b"devID=a\nx=0." + b"1" * 252 + b"\n\n").fields["x"] > 0.1

    def test_fields_after_a_bad_sub_id_belong_to_no_group(self) -> None:
        package = only_package(lines("devID=a", "subID=air", "x=1", "subID=?", "y=2", ""))
        assert package.groups == {"air": ("x",)}
        assert package.fields == {"x": 1, "y": 2}

    def test_a_group_in_two_parts_is_one_and_an_empty_one_is_none(self) -> None:
        package = only_package(
            lines("devID=a", "free=0", "subID=g", "x=1", "subID=h", "subID=g", "y=2", "")
        )
        assert package.groups == {"g": ("x", "y")}

    def test_too_many_fields(self) -> None:
        fields = [f"f{n}={n}" for n in range(psott.MAX_FIELDS + 2)]
        data = lines("devID=a", *fields, "f0=9", "")
        assert len(only_package(data).fields) == psott.MAX_FIELDS
        assert reasons(data) == [Reason.TOO_MANY_FIELDS] * 2 + [Reason.DUPLICATE]


class TestBrokenPackages:
    def test_a_fragment_after_opening_the_port(self) -> None:
        events = decode(b"rature=3.5\r\nhumidity=42.1\r\n\r\n" + FRAME)
        assert events == [
            Rejected(Reason.NO_DEV_ID, b"rature=3.5\r\nhumidity=42.1\r"),
            *decode(FRAME),
        ]

    def test_fields_before_the_dev_id_are_a_fragment(self) -> None:
        assert decode(lines("x=1", "devID=a", "y=2", "", end="\n")) == [
            Rejected(Reason.NO_DEV_ID, b"x=1"),
            Package("a", {"y": 2}, {}, psott.REQUIRED),
        ]

    def test_no_good_field(self) -> None:
        assert decode(b"devID=a\ntemperature=nan\nsubID=g\n\n") == [
            Rejected(Reason.BAD_VALUE, b"temperature=nan"),
            Rejected(Reason.NO_FIELDS, b"devID=a\nsubID=g"),
        ]

    @pytest.mark.parametrize("dev_id", ["", "1a", "-a", "a b", "a.b", "a/b", "a" * 65])
    def test_a_bad_dev_id_takes_its_fields_along(self, dev_id: str) -> None:
        assert decode(lines("devID=a", "x=1", f"devID={dev_id}", "y=2", "", end="\n")) == [
            Package("a", {"x": 1}, {}, psott.REQUIRED),
            Rejected(Reason.BAD_DEV_ID, f"devID={dev_id}".encode()),
            Rejected(Reason.NO_DEV_ID, b"y=2"),
        ]

    @pytest.mark.parametrize(
        "line", [b"devID=\xffb", b"\x00devID=b", b"x=3devID=b", b"devID =" + b"b" * 300]
    )
    def test_a_damaged_dev_id_line_gives_no_fields_to_the_device_before(self, line: bytes) -> None:
        events = decode(b"devID=a\nx=1\n" + line + b"\ny=2\n\n")
        assert [type(event) for event in events] == [Package, Rejected, Rejected]
        assert events[0] == Package("a", {"x": 1}, {}, psott.REQUIRED)
        assert events[2] == Rejected(Reason.NO_DEV_ID, b"y=2")

    def test_a_device_reset_in_mid_package(self) -> None:
        events = decode(b"\r\ndevID=u01kz\r\ntemperature=39.4\r\nhumid" + FRAME)
        assert events == [
            Rejected(Reason.NO_EQUALS, b"humid\r"),
            Package(
                "u01kz", {"temperature": 39.4}, {}, ("humidity", "pressure", "pm25")
            ),
            *decode(FRAME),
        ]  # fmt: skip

    def test_a_half_line_at_the_end_is_never_a_value(self) -> None:
        decoder = Decoder()
        assert decoder.feed(b"devID=a\nx=1\ny=1") == []
        assert decoder.in_package
        assert decoder.end() == [
            Rejected(Reason.UNTERMINATED, b"y=1"),
            Package("a", {"x": 1}, {}, psott.REQUIRED),
        ]
        assert not decoder.in_package
        assert decoder.end() == []
        assert decoder.feed(b"2\n") == [Rejected(Reason.NO_EQUALS, b"2")]

    def test_in_package(self) -> None:
        decoder = Decoder()
        assert not decoder.in_package
        for data, expected in (
            (b"\r\n\r", False), (b"\n", False), (b"d", True), (b"evID=a\n", True),
            (b"x=1\n", True), (b"\n", False), (b"x=1\n", True), (b"\n", False),
        ):  # fmt: skip
            decoder.feed(data)
            assert decoder.in_package is expected, data


# Lines that meet every rule, so that random streams reach deep into the decoder.
LINES = st.sampled_from(
    [b"", b"\r", b"devID=a", b"devID=?", b"devID=b\r", b"subID=g", b"subID=", b"x=1", b"x=2",
     b"y=1.5", b"temperature=nan", b"pm25=4\r\r", b"\xff", b"\x00", b"id=1", b"half", b"z" * 300]
)  # fmt: skip
STREAMS = st.one_of(st.binary(max_size=2000), st.lists(LINES, max_size=60).map(b"\n".join))
CUTS = st.lists(st.integers(0, 3000), max_size=20)


@settings(deadline=None)
@given(STREAMS, CUTS)
def test_chunking_does_not_matter(data: bytes, cuts: list[int]) -> None:
    whole = decode(data)
    assert decode(data, *cuts) == whole
    assert decode(data, *range(len(data))) == whole
    for event in whole:
        if isinstance(event, Rejected):
            assert 0 < len(event.raw) <= psott.MAX_RAW_BYTES
        else:
            assert 0 < len(event.fields) <= psott.MAX_FIELDS
            assert {name for names in event.groups.values() for name in names} <= set(event.fields)


@settings(deadline=None)
@given(STREAMS, st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\r\n\r\n"]), CUTS)
def test_after_garbage_the_next_package_is_whole(
    garbage: bytes, end: bytes, cuts: list[int]
) -> None:
    assert decode(garbage + end + FRAME, *cuts)[-1:] == decode(FRAME)


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=1, max_size=64), st.integers(1, 4096))
def test_memory_is_bounded_without_a_newline(seed: bytes, size: int) -> None:
    decoder = Decoder()
    chunk = (seed.replace(b"\n", b"") or b" ") * size
    for _ in range(1 + 2_000_000 // len(chunk)):
        assert decoder.feed(chunk) == []
        assert len(decoder._line) <= psott.MAX_RAW_BYTES
    assert [len(event.raw) for event in decoder.end() if isinstance(event, Rejected)] in (
        [], [psott.MAX_RAW_BYTES],
    )  # fmt: skip


def test_memory_is_bounded_without_a_blank_line() -> None:
    decoder = Decoder()
    for number in range(20_000):
        decoder.feed(f"subID=g{number}\nf{number}=1\n".encode())
        assert len(decoder._open.raw) <= psott.MAX_RAW_BYTES
    decoder.feed(b"devID=a\n")
    for number in range(20_000):
        decoder.feed(f"subID=g{number}\nf{number}=1\n".encode())
    assert len(decoder._open.fields) == psott.MAX_FIELDS
    assert len(decoder._open.groups) <= psott.MAX_FIELDS
