"""A smoke test on QEMU's Raspberry Pi 3B: its kernel, its device tree, its card reader."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

from card import Card
from conftest import figure
from machine import Machine
from station import status, toml, write_settings

PASSWORD = secrets.token_hex(12)


def test_a_pi_3_boots_and_takes_a_record(image: Path, tmp_path: Path) -> None:
    card = Card.flash(image, tmp_path / "card.img")
    write_settings(card, toml(PASSWORD))
    with Machine(card, tmp_path, "raspi3b") as machine:
        machine.power_on()
        satellite = machine.satellite(tmp_path / "pi.journal", "pi3")
        machine.log_in("pi", PASSWORD)
        machine.wait(
            lambda: status(machine).get("spool", {}).get("last_seq", 0) > 0, 600, "a first record"
        )
        seconds = machine.console.seconds("login:")
        figure(f"raspi3b: login prompt after {seconds:.0f} s, and a record in the spool")
        satellite.end(signal.SIGTERM)
        # Debian has no name of its own for the UART on the pins.
        assert machine.run("readlink -f /dev/serial0").strip() == "/dev/ttyS1"
