"""What a decoder of PSoTT makes of bytes, cut anywhere."""

from __future__ import annotations

from unisat_agent.protocols.events import Event, Package, Rejected
from unisat_agent.protocols.psott import Decoder

FRAME = (
    b"\r\ndevID=u01kz\r\nsubID=gps\r\nlat=43.27534\r\nlong=76.54367\r\nsubID=meteo\r\n"
    b"temperature=39.4\r\nhumidity=42.1\r\nsubID=status\r\nbattery=true\r\n\r\n"
)


def decode(data: bytes, *cuts: int) -> list[Event]:
    """The events of these bytes, given to a decoder in pieces that end at the cuts."""
    decoder, events, start = Decoder(), list[Event](), 0
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        events += decoder.feed(data[start:cut])
        start = cut
    return events + decoder.feed(data[start:]) + decoder.end()


def lines(*texts: str, end: str = "\r\n") -> bytes:
    """The texts as lines."""
    return "".join(text + end for text in texts).encode()


def only_package(data: bytes) -> Package:
    """The one package that these bytes hold."""
    (package,) = (event for event in decode(data) if isinstance(event, Package))
    return package


def reasons(data: bytes) -> list[str]:
    """Why lines of these bytes are refused."""
    return [event.reason for event in decode(data) if isinstance(event, Rejected)]
