"""The power goes at random moments while data flows; powercut.py says what the card then keeps.

A witness inside tells on the console which seq was committed. After the last round the hub must
hold every seq from 1 on exactly once, of one epoch, and none below the highest that was witnessed
may be missing.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from collections import Counter
from pathlib import Path

from card import Card
from conftest import figure
from machine import LOGIN_S, Machine
from rig.judge import Key, read_journal, read_records
from rig.kinto import Kinto
from station import (
    HUB_ACCOUNT,
    hub_table,
    set_clock,
    start_witness,
    status,
    toml,
    witnessed,
    write_settings,
)
from unisat_agent.simulator.satellite import Entry

ROUNDS = int(os.environ.get("ROUNDS", "10"))
PASSWORD = secrets.token_hex(12)


def test_a_power_cut_costs_nothing_that_was_committed(
    image: Path, hub: Kinto, seed: int, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    devices = [f"cut{number:03}" for number in range(ROUNDS + 1)]
    secret = secrets.token_hex(16)
    hub.provision_hub(HUB_ACCOUNT, secret, devices)
    card = Card.flash(image, tmp_path / "card.img")
    write_settings(card, toml(PASSWORD, hub=hub_table(secret)))
    committed = dropped = 0
    with Machine(card, tmp_path) as machine:
        for number, device in enumerate(devices):
            machine.power_on(hub.port)
            satellite = machine.satellite(
                tmp_path / f"{device}.journal", device, "--interval", "0.5"
            )
            last = number == ROUNDS
            # Some rounds end inside the boot, the first one inside the first boot.
            first = number == 0
            during_boot = not last and (first or chance.random() < 0.3)
            if during_boot:
                machine.wait_console(r"systemd\[1\]|login:", LOGIN_S)
            else:
                machine.log_in("pi", PASSWORD)
                machine.wait(lambda: bool(status(machine)), 300, "the agent to answer")
                set_clock(machine)
                # The last, for it talks in between what others ask.
                if not last:
                    start_witness(machine)
            if last:
                satellite.end(signal.SIGTERM)
                machine.wait(
                    lambda: not any(
                        sink["pending"] for sink in status(machine)["sinks"].values()
                    ),
                    1800, "nothing to be pending", 5,
                )  # fmt: skip
                machine.run("sudo unisat-agent spool check")
                # What was set aside was damaged.
                assert "corrupt" not in machine.run("sudo ls /var/lib/unisat-agent")
                machine.power_off()
                break
            # The moment is the fault that is tested; nothing is waited for.
            time.sleep(chance.uniform(1, 120 if first else 40))
            done = machine.cut_power(chance)
            dropped += done.dropped
            satellite.end(signal.SIGTERM)
            committed = max(committed, witnessed(machine))
            print(f"round {number + 1}/{ROUNDS}: cut {'in the boot' if during_boot else 'running'},"
                  f" committed up to {committed}, writes kept {done.kept}, lost {done.dropped}",
                  flush=True)  # fmt: skip
    assert dropped, "no cut cost the card a write: nothing was proven"
    records = read_records(hub.client(), devices)
    seqs = Counter(record["seq"] for record in records)
    assert len({record["epoch"] for record in records}) == 1, "the spool was lost"
    assert [seq for seq, times in seqs.items() if times > 1] == []
    assert sorted(seqs) == list(range(1, max(seqs) + 1))
    assert max(seqs) >= committed
    journal: dict[Key, Entry] = {}
    for device in devices:
        journal |= read_journal(tmp_path / f"{device}.journal")
    for record in records:
        sent = journal[record["devID"], record["packet"]]
        assert sent.fields.items() <= record.items()
    figure(f"power cuts: {ROUNDS} rounds, {len(records)} records, none lost, none twice")
