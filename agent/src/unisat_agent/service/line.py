"""What the ports and devices say about health: pure functions of what the readers heard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from unisat_agent.serial.status import DeviceHeard, PortHeard
from unisat_agent.text import duration

SILENT_S: Final = 60.0
# A device of which the interval is not known yet.
UNKNOWN_INTERVAL_S: Final = 120.0
INTERVALS_OF_SILENCE: Final = 5
# After a start one may be missed, and half of one is the wait for the next.
INTERVALS_TO_BE_HEARD: Final = 2
# So much without a package is more than one that has not ended yet.
UNREAD_BYTES: Final = 512
UNREAD_S: Final = 15.0
NON_TEXT_SHARE: Final = 0.2
# A devID that came once may be a flipped bit.
PACKAGES_TO_MENTION: Final = 2
# A foreign device that was unplugged is no longer worth a sentence.
FOREIGN_S: Final = 600.0


def line_problems(
    ports: Iterable[PortHeard],
    devices: Iterable[DeviceHeard],
    expected: frozenset[str],
    interval_s: float = 0.0,
    usual_s: Mapping[str, float] | None = None,
) -> dict[str, str]:
    """What is wrong on the serial side.

    Args:
        ports: The open ports.
        devices: All devices heard since the start, on whatever port.
        expected: The devIDs that the configuration names; empty for any.
        interval_s: How often a device is to send; 0 where that is learned.
        usual_s: How often devices sent before the start, by devID.

    Returns:
        A sentence for each problem, by a key that stays the same while the problem lasts.
    """
    ports, devices = list(ports), list(devices)
    found: dict[str, str] = {}
    usual_s = usual_s or {}
    patience_s = _patience_s(interval_s or min(usual_s.values(), default=0.0))
    for port in ports:
        if port.adopted and (text := _port(port, patience_s)):
            found[f"port {port.name}"] = f"port {port.name}: {text}"
    heard = {device.dev_id for device in devices}
    alone = expected.isdisjoint(heard)
    # Beside an expected device, one on a port that is only listened to is a neighbour's.
    read = {device.dev_id for port in ports if port.adopted for device in port.devices}
    foreign = [
        device
        for device in devices
        if expected
        and device.dev_id not in expected
        and device.packages >= PACKAGES_TO_MENTION
        and device.age_s < FOREIGN_S
        and (alone or device.dev_id in read)
    ]
    if foreign:
        found["foreign"] = _foreign(foreign, expected, alone=alone)
    if not (foreign and alone):
        open_s = max((port.open_s for port in ports), default=0.0)
        for dev_id in sorted(expected - heard):
            if open_s >= _patience_s(interval_s or usual_s.get(dev_id, 0.0)):
                found[f"never {dev_id}"] = (
                    f"{dev_id} is expected and has not been heard: is it switched on, connected, "
                    f"and is its devID right?"
                )
    for device in devices:
        known = device.dev_id in expected if expected else device.packages >= PACKAGES_TO_MENTION
        if known and (text := _silence(device, interval_s)):
            found[f"silent {device.dev_id}"] = text
    return found


def _patience_s(interval_s: float) -> float:
    """After how long nothing heard is a problem, of what sends in such intervals."""
    return max(SILENT_S, INTERVALS_TO_BE_HEARD * interval_s)


def _port(port: PortHeard, patience_s: float) -> str:
    """What is wrong with an open port, or nothing."""
    if port.byte_age_s is None:
        if port.open_s < patience_s or port.devices:
            return ""
        return (
            f"nothing has come since it was opened {duration(port.open_s)} ago: is the device "
            f"switched on, and is its TX wired to this port's RX?"
        )
    since_s = port.open_s if port.package_age_s is None else min(port.package_age_s, port.open_s)
    unread = port.unread
    if unread.bytes < UNREAD_BYTES or since_s < UNREAD_S:
        if port.byte_age_s >= patience_s and not port.devices:
            return f"nothing has come for {duration(port.byte_age_s)}, and no package before"
        return ""
    if unread.non_text >= NON_TEXT_SHARE * unread.bytes:
        return (
            "what comes is not text: the wrong speed? Set `baud` in [[serial]] to the device's own"
        )
    if not unread.line_ends:
        return "text comes without any line end: the device must end each line with \\r\\n"
    return "lines come, but no package: another kind of device, or one that sends no devID line"


def _foreign(foreign: list[DeviceHeard], expected: frozenset[str], *, alone: bool) -> str:
    names = ", ".join(sorted(device.dev_id for device in foreign))
    verb = "is" if len(foreign) == 1 else "are"
    wanted = ", ".join(sorted(expected))
    verb_wanted = "is" if len(expected) == 1 else "are"
    every = sorted({device.dev_id for device in foreign} | (set() if alone else expected))
    line = ", ".join(f'"{name}"' for name in every)
    return (
        f"{names} {verb} sending, but only {wanted} {verb_wanted} expected: if that is your "
        f"device, write `devices = [{line}]` under [station]"
    )


def _silence(device: DeviceHeard, interval_s: float) -> str:
    interval_s = interval_s or device.interval_s or UNKNOWN_INTERVAL_S
    if device.age_s < max(SILENT_S, INTERVALS_OF_SILENCE * interval_s):
        return ""
    usual = f" (it sends every {duration(interval_s)})" if device.interval_s else ""
    return f"{device.dev_id} has been silent for {duration(device.age_s)}{usual}"
