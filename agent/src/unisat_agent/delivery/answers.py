"""What a Kinto's answer to a batch means, as pure functions (design: the answer table)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from unisat_agent.delivery.kinto import Answer, asked_wait_s


class Fate(Enum):
    """What an answer means for one record."""

    TAKEN = auto()
    EXISTS = auto()
    """The record is there already, perhaps with other content."""
    DELETED = auto()
    """The sink had the record, and let it go."""
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
    SERVER_ERROR = auto()
    """Nothing is believed, and a record in the batch may be the cause."""
    REFUSED = auto()
    """Nothing was stored: some record in it, or the sink as it is now, makes it so."""
    TOO_LARGE = auto()
    MISSING = auto()
    """The collection is not there."""
    DENIED = auto()
    """The account is refused."""
    DENIED_HERE = auto()
    """The account is refused for this collection."""
    UNSUPPORTED = auto()
    """The sink does not know this kind of request any more."""
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
# Of the server, its address or its network, and not of a body: 404 is another server's, 405 and 410
# are said for a while by a Kinto that is read-only or closed, 407 by a proxy that wants a login.
_NO_RECORD_S_FAULT = frozenset({404, 405, 407, 408, 409, 410, 421, 425, 426, 428})


def read_batch_answer(answer: Answer, record_ids: Sequence[str]) -> Verdict:
    """Says what the answer to a batch of PUTs means.

    Args:
        answer: The answer to `POST /batch`.
        record_ids: The ids that the batch put, in its order.
    """
    if answer.status == 200:
        return _read_items(answer, record_ids)
    if answer.status == 404:
        return Verdict(Meaning.UNKNOWN, "404: there is no Kinto under this url")
    return read_refusal(answer)


def read_refusal(answer: Answer) -> Verdict:
    """Says what a status means that is said of the whole request, whatever the request was."""
    wait_s, words = answer.wait_s(), answer.words()
    match answer.status:
        case 413:
            return Verdict(Meaning.TOO_LARGE, words)
        case 429:
            return Verdict(Meaning.LATER, words, wait_s=wait_s)
        case 401 | 403 if answer.by_kinto:
            return Verdict(Meaning.DENIED, words)
        case status if status >= 500:
            return Verdict(Meaning.SERVER_ERROR, words, wait_s=wait_s)
        case status if 400 <= status < 500 and status not in _NO_RECORD_S_FAULT:
            return Verdict(Meaning.REFUSED, words, wait_s=wait_s)
        case _:
            return Verdict(Meaning.UNKNOWN, words, wait_s=wait_s)


def _read_items(answer: Answer, record_ids: Sequence[str]) -> Verdict:
    wait_s = answer.wait_s()
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
            meaning = Meaning.SERVER_ERROR if status >= 500 else Meaning.UNKNOWN
            return Verdict(meaning, f"{status} for record {record_id}", wait_s=wait_s)
        if _FATES[status] is Fate.LATER:
            wait_s = max(wait_s or 0.0, asked_wait_s(_lower(item.get("headers"))) or 0.0)
        fates.append(_FATES[status])
        bodies.append(item.get("body"))
    return Verdict(Meaning.EACH, "", tuple(fates), tuple(bodies), wait_s)


def read_ingest_answer(answer: Answer, record_ids: Sequence[str]) -> Verdict:
    """Says what the answer to `records:ingest` means: one transaction, an outcome per id.

    Args:
        answer: The answer.
        record_ids: The ids that were sent, in their order, each once.
    """
    wait_s = answer.wait_s()
    match answer.status:
        case 200:
            return _read_outcomes(answer, record_ids)
        case 404 if answer.by_kinto and _names_collection(answer.body):
            return Verdict(Meaning.MISSING, answer.words())
        case 404 | 405 | 415:
            return Verdict(Meaning.UNSUPPORTED, answer.words(), wait_s=wait_s)
        case 403 if answer.by_kinto:
            return Verdict(Meaning.DENIED_HERE, answer.words())
    return read_refusal(answer)


def _names_collection(body: Mapping[str, Any]) -> bool:
    details = body.get("details")
    return isinstance(details, dict) and "resource_name" in details


def _read_outcomes(answer: Answer, record_ids: Sequence[str]) -> Verdict:
    """The outcomes have to account for every record that was sent, or none of them is believed."""
    wait_s = answer.wait_s()
    unknown = Verdict(Meaning.UNKNOWN, "the answer does not match the batch", wait_s=wait_s)
    data = answer.body.get("data") if isinstance(answer.body, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("created"), int):
        return unknown
    fates: dict[str, Fate] = {}
    bodies: dict[str, Any] = {}
    for key, fate in (
        ("identical", Fate.TAKEN),
        ("corrected", Fate.TAKEN),
        ("different", Fate.EXISTS),
        ("deleted", Fate.DELETED),
        ("invalid", Fate.REFUSED),
    ):
        items = data.get(key, [])
        if not isinstance(items, list):
            return unknown
        for item in items:
            name = item.get("id") if isinstance(item, dict) else item
            if not isinstance(name, str) or name in fates:
                return unknown
            fates[name] = fate
            if fate is Fate.REFUSED:
                bodies[name] = {"code": 400, "message": item.get("reason")}
    if not fates.keys() <= set(record_ids) or data["created"] + len(fates) != len(record_ids):
        return unknown
    return Verdict(
        Meaning.EACH,
        "",
        tuple(fates.get(record_id, Fate.TAKEN) for record_id in record_ids),
        tuple(bodies.get(record_id) for record_id in record_ids),
        wait_s,
    )


def words_of(body: Any) -> str:
    """The error of one item, in words."""
    if isinstance(body, dict):
        parts = (body.get("code"), body.get("message") or body.get("error"))
        return " ".join(str(part) for part in parts if part)
    return str(body)


def _lower(headers: object) -> dict[str, str]:
    if not isinstance(headers, dict):
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}
