"""Which part of a Kinto is down, from its `__heartbeat__`, and what to look at."""

from __future__ import annotations

from http import HTTPStatus

from unisat_agent.delivery.kinto import Answer

# The keys of Kinto's answer, and on a station the unit behind each.
_PARTS = {
    "storage": ("database", "postgresql"),
    "permission": ("database", "postgresql"),
    "cache": ("cache", "memcached"),
}


def explain(sink: str, answer: Answer) -> str | None:
    """One sentence for the operator; None where all parts are up."""
    if answer.status == HTTPStatus.OK:
        return None
    parts = answer.body if isinstance(answer.body, dict) else {}
    down = dict.fromkeys(
        _PARTS.get(name, (name, None)) for name, works in parts.items() if works is False
    )
    whose = "the hub's Kinto" if sink == "hub" else "the local Kinto"
    if not down:
        return f"{whose} says that it is not well ({answer.words()}){_look(sink, 'unisat-kinto')}"
    what = " and ".join(f"its {part}" for part, _ in down)
    units = " ".join(unit for _, unit in down if unit)
    verb = "is" if len(down) == 1 else "are"
    return f"{whose} runs, but {what} {verb} down{_look(sink, units or 'unisat-kinto')}"


def _look(sink: str, units: str) -> str:
    if sink == "hub":
        return ": the hub's operator must look"
    return f": sudo systemctl status {units}"
