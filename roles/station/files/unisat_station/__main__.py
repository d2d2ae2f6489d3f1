"""unisat-station settings | late-settings | after-imager | show | first-boot | check FILE."""

from __future__ import annotations

import sys
from pathlib import Path

from unisat_station import machine


def main(argv: list[str]) -> int:
    """Runs one command; returns its exit code."""
    match argv:
        case ["settings"]:
            return settings()
        case ["late-settings"]:
            return late_settings()
        case ["after-imager"]:
            return after_imager()
        case ["show"]:
            machine.show()
            return 0
        case ["first-boot"]:
            return first_boot()
        case ["check", file]:
            return check(Path(file))
    sys.stderr.write(f"usage: {__doc__}\n")
    return 2


def settings() -> int:
    """Makes the secrets, then takes over what unisat.toml says."""
    from unisat_station import secrets  # noqa: PLC0415 - each command loads only what it needs

    secrets.make()
    from unisat_station import imager  # noqa: PLC0415
    from unisat_station.apply import apply  # noqa: PLC0415

    applied = apply()
    machine.remember_card(there=applied.card_was_there)
    imager.prepare(keep_password=applied.password_is_set)
    machine.show()
    return 0


def late_settings() -> int:
    """Takes over what unisat.toml says when the boot partition came after its time."""
    from unisat_station.apply import apply  # noqa: PLC0415

    applied = apply()
    machine.remember_card(there=applied.card_was_there)
    try:
        machine.run("nmcli", "connection", "reload")
        machine.run("systemctl", "try-reload-or-restart", "--no-block", "ssh.service")
        if applied.agent_changed:
            machine.run("systemctl", "try-restart", "--no-block", "unisat-agent.service")
    except machine.StationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    machine.show()
    return 0


def after_imager() -> int:
    """Puts what unisat.toml says in place of what Raspberry Pi Imager's files set."""
    from unisat_station import imager  # noqa: PLC0415
    from unisat_station.apply import apply  # noqa: PLC0415

    try:
        renamed = apply().agent_changed
        imager.finish()
        if renamed:
            machine.run("systemctl", "try-restart", "--no-block", "unisat-agent.service")
    except machine.StationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    machine.show()
    return 0


def first_boot() -> int:
    """Does what is left of the first boot; 1 to be tried again."""
    from unisat_station.first_boot import first_boot as run  # noqa: PLC0415

    try:
        run()
    except machine.StationError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def check(file: Path) -> int:
    """Prints the mistakes of an unisat.toml; 2 where there are any."""
    from unisat_station.settings import read  # noqa: PLC0415

    problems = read(file).problems
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
