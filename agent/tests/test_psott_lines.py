"""PSoTT line by line: which values and names are taken, and what a bad line costs."""

import pytest

from rig.decoding import FRAME, decode, lines, only_package, reasons
from unisat_agent.protocols import psott
from unisat_agent.protocols.events import Package, Rejected, Value
from unisat_agent.protocols.psott import Decoder, Reason


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
    def test_taken(self, line: str, value: Value) -> None:
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
            ("температура=5".encode(), Reason.BAD_NAME),
            (b"x\xff\xfe", Reason.NOT_ASCII),
            (b"x=\x005", Reason.CONTROL_BYTE),
            (b"?\x00", Reason.CONTROL_BYTE),
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
        "line", [b"devID=\xffb", b"?\x00devID=b", b"x=3devID=b", b"devID =" + b"b" * 300]
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
