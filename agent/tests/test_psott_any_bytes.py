"""PSoTT's decoder and any bytes at all: how they are cut, what follows them, what they hold."""

import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from rig.decoding import FRAME, decode
from unisat_agent.protocols import psott
from unisat_agent.protocols.events import Package, Rejected
from unisat_agent.protocols.psott import Decoder

# Lines that meet every rule, so that random streams reach deep into the decoder.
LINES = st.sampled_from(
    [b"", b"\r", b"devID=a", b"devID=?", b"devID=b\r", b"subID=g", b"subID=", b"x=1", b"x=2",
     b"y=1.5", b"temperature=nan", b"pm25=4\r\r", b"\xff", b"devID=a\rx=1\r", b"crc=12AB",
     b"\x00", b"id=1", b"half", b"z" * 300]
)  # fmt: skip
STREAMS = st.one_of(
    st.binary(max_size=2000),
    st.lists(LINES, max_size=60).map(b"\n".join),
    st.lists(LINES, max_size=60).map(b"\r".join),
)
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


def held_bytes(decoder: Decoder) -> int:
    """What the decoder would take up in a file, and so about what it holds in memory."""
    return len(pickle.dumps(decoder))


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=1, max_size=64), st.integers(1, 4096))
def test_memory_is_bounded_without_a_newline(seed: bytes, size: int) -> None:
    decoder = Decoder()
    chunk = (seed.replace(b"\n", b"").replace(b"\r", b"") or b" ") * size
    for _ in range(1 + 20 * psott.MAX_RAW_BYTES // len(chunk)):
        assert decoder.feed(chunk) == []
    assert held_bytes(decoder) < 2 * psott.MAX_RAW_BYTES
    assert [len(event.raw) for event in decoder.end() if isinstance(event, Rejected)] in (
        [], [psott.MAX_RAW_BYTES],
    )  # fmt: skip


def test_memory_is_bounded_without_a_blank_line() -> None:
    decoder = Decoder()
    for begin in (b"", b"devID=a\n"):
        decoder.feed(begin)
        for number in range(20_000):
            decoder.feed(b"subID=g%d\nf%d=1\n" % (number, number))
        assert held_bytes(decoder) < 50 * psott.MAX_FIELDS
    package = decoder.end()[-1]
    assert isinstance(package, Package)
    assert len(package.fields) == psott.MAX_FIELDS
