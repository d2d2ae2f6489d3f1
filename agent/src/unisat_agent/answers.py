"""What Kinto's answer to a batch of PUTs means, as a pure function (design: the answer table)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from unisat_agent.kinto import Answer, asked_wait_s


class Fate(Enum):
    """What an answer means for one record."""

    TAKEN = auto()
    EXISTS = auto()
    REFUSED = auto()
    MISSING = auto()
    DENIED = auto()
    LATER = auto()


class Meaning(Enum):
    """What an answer means for the whole batch."""

    EACH = auto()
    """Every record has its own fate."""
    UNKNOWN = auto()
    """Nothing is believed: the same batch again."""
    BROKEN = auto()
    """A server error: nothing is believed, and a record in the batch may be the cause."""
    REFUSED = auto()
    """400 for the whole: some record in it makes it so."""
    TOO_LARGE = auto()
    DENIED = auto()
    LATER = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The meaning of an answer; `fates` and `bodies` go with the batch where it is EACH."""

    meaning: Meaning
    reason: str = ""
    fates: tuple[Fate, ...] = ()
    bodies: tuple[Any, ...] = ()
    wait_s: float | None = None


_FATES: Mapping[int, Fate] = {
    200: Fate.TAKEN,
    201: Fate.TAKEN,
    400: Fate.REFUSED,
    401: Fate.DENIED,
    403: Fate.DENIED,
    404: Fate.MISSING,
    412: Fate.EXISTS,
    413: Fate.REFUSED,
    429: Fate.LATER,
}


def read_answer(answer: Answer, record_ids: Sequence[str]) -> Verdict:
    """Says what the answer to a batch of PUTs means.

    Args:
        answer: The answer to `POST /batch`.
        record_ids: The ids that the batch put, in its order.
    """
    wait_s = answer.wait_s()
    match answer.status:
        case 200:
            return _read_items(answer, record_ids, wait_s)
        case 400:
            return Verdict(Meaning.REFUSED, answer.words())
        case 413:
            return Verdict(Meaning.TOO_LARGE, answer.words())
        case 401 | 403:
            return Verdict(Meaning.DENIED, answer.words())
        case 429:
            return Verdict(Meaning.LATER, answer.words(), wait_s=wait_s)
        case status if status >= 500:
            return Verdict(Meaning.BROKEN, answer.words(), wait_s=wait_s)
        case 404:
            return Verdict(Meaning.UNKNOWN, "404: there is no Kinto under this url", wait_s=wait_s)
        case _:
            return Verdict(Meaning.UNKNOWN, answer.words(), wait_s=wait_s)


def _read_items(answer: Answer, record_ids: Sequence[str], wait_s: float | None) -> Verdict:
    items = answer.body.get("responses") if isinstance(answer.body, dict) else None
    if not isinstance(items, list) or len(items) != len(record_ids):
        return Verdict(Meaning.UNKNOWN, "the answer does not match the batch", wait_s=wait_s)
    fates: list[Fate] = []
    bodies: list[Any] = []
    for item, record_id in zip(items, record_ids, strict=True):
        status = item.get("status") if isinstance(item, dict) else None
        if not isinstance(status, int) or not str(item.get("path", "")).endswith(record_id):
            return Verdict(Meaning.UNKNOWN, "the answer does not match the batch", wait_s=wait_s)
        if status == 409:
            # Kinto rolled the transaction back and went on: a 201 beside it may be a lie.
            return Verdict(Meaning.UNKNOWN, "409: another writer was in the way", wait_s=wait_s)
        if status not in _FATES:
            # Such as 405, of a Kinto that is read-only for a while: no record's fault.
            meaning = Meaning.BROKEN if status >= 500 else Meaning.UNKNOWN
            return Verdict(meaning, f"{status} for record {record_id}", wait_s=wait_s)
        if _FATES[status] is Fate.LATER:
            wait_s = max(wait_s or 0.0, asked_wait_s(_lower(item.get("headers"))) or 0.0)
        fates.append(_FATES[status])
        bodies.append(item.get("body"))
    return Verdict(Meaning.EACH, "", tuple(fates), tuple(bodies), wait_s)


def _lower(headers: object) -> dict[str, str]:
    if not isinstance(headers, dict):
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}
