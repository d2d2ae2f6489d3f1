"""Stations update themselves with no network: each test goes on from the one before."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bundles import CRASHING, GOOD, HANGING, USELESS, bundle, spoil
from pulling import (
    FLASHED,
    HOSTS,
    IN_THE_GATE,
    IN_THE_SWITCH,
    Cost,
    bring,
    cut_update,
    everything,
    goes_back,
    offer,
    pause_s,
    run_unit,
    runs,
    serve,
    state,
)

from outside import inside, note
from station import STATION, judge, status, well

DAMAGED = "is damaged or not complete: copy it once more; nothing was changed."


def side_by_side(*jobs: Callable[[], None]) -> None:
    """Does all at once, and fails where one has failed."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(job) for job in jobs]:
            done.result()


def now() -> str:
    """This moment as in `received_at`."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def test_1_what_is_not_ours_or_not_whole_is_refused_and_changes_nothing() -> None:
    whole = bring(STATION, bundle(GOOD))
    size = bundle(GOOD).stat().st_size
    for what, command in {
        "flipped": f"printf X | dd of=/root/flipped.update bs=1 seek={size // 2} conv=notrunc",
        "truncated": f"truncate --size={size // 2} /root/truncated.update",
    }.items():
        inside(STATION, "sh", "-ec", f"cp {whole} /root/{what}.update; {command} 2>/dev/null")
    other_arch = "arm64" if inside(STATION, "uname", "-m").strip() == "x86_64" else "amd64"
    sentences = {
        bring(STATION, spoil("foreign", key="foreign")): "is not signed by a key",
        bring(STATION, spoil("arch", arch=other_arch)): f"is for {other_arch}, and this station is",
        bring(STATION, spoil("older", serial=1)): "is not newer: version 2.0, a newer one runs",
        "/root/flipped.update": DAMAGED,
        "/root/truncated.update": DAMAGED,
    }
    before = everything(STATION)
    for path, sentence in sentences.items():
        said = offer(STATION, path)
        assert sentence in said
        assert everything(STATION) == before, said
    inside(STATION, "sh", "-c", "rm /root/*.update")
    kept = bring(STATION, bundle(GOOD))
    inside(STATION, "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", "/var/lib/unisat-update")
    try:
        said = offer(STATION, kept)
    finally:
        inside(STATION, "umount", "/var/lib/unisat-update")
    assert re.search(r"needs \d+ MB of room on the card, and \d+ MB are free", said), said
    assert everything(STATION) == before
    inside(STATION, "rm", kept)


def test_2_both_come_to_the_new_version_one_of_them_over_a_kill() -> None:
    before = {name: runs(name) for name in HOSTS}
    begin = now()
    costs: dict[str, Cost] = {}

    def over_https() -> None:
        serve(STATION, GOOD)
        costs[STATION] = run_unit(STATION, "unisat-update-daily")

    def from_the_card_cut_off() -> None:
        bring(FLASHED, bundle(GOOD), "/boot/firmware")
        cut_update(FLASHED, IN_THE_SWITCH)
        costs[FLASHED] = run_unit(FLASHED, "unisat-update")

    side_by_side(over_https, from_the_card_cut_off)
    for name in HOSTS:
        found = state(name)
        assert (found["phase"], found["running"]["version"]) == ("good", GOOD), found
        assert not found["is_problem"], found["said"]
        version, its_release, its_image = runs(name)
        assert version.startswith("9.0.0+")
        assert its_release != before[name][1]
        assert its_image != before[name][2] == "unisat-kinto:old"
        well(name)
        pause = pause_s(name, begin)
        packages = judge(name)
        cost = costs[name]
        note(
            f"{name}: update in {cost.seconds:.0f} s, {cost.memory_mb:.0f} MB at the most, longest "
            f"pause {pause:.1f} s, {packages} packages and none lost or twice"
        )
    # The card's program makes the agent's configuration at each boot: of the new version.
    config = "grep -h history_days /etc/unisat-agent/agent.toml"
    assert inside(FLASHED, "sh", "-c", config).strip() == "history_days = 8"
    inside(FLASHED, "unisat-station", "settings")
    assert inside(FLASHED, "sh", "-c", config).strip() == "history_days = 8"
    assert "u02kz" in inside(FLASHED, "cat", "/etc/unisat-agent/agent.toml")
    assert inside(FLASHED, "hostname").strip() == "school-7"


def test_3_the_second_time_it_is_not_newer() -> None:
    unchanged = {name: everything(name) for name in HOSTS}
    run_unit(FLASHED, "unisat-update")
    run_unit(STATION, "unisat-update-daily")
    sentences = {FLASHED: f"is not newer: version {GOOD}", STATION: "offers nothing newer than"}
    for name in HOSTS:
        assert sentences[name] in state(name)["said"]
        assert everything(name) == unchanged[name]
    inside(FLASHED, "sh", "-c", "rm /boot/firmware/*.update")


# What a test that awaits failures has to wait for.
IMPATIENT = r"""sed -i 's/^{/{"update_gate_s": 20,/' /var/lib/unisat-station/inventory.json"""


def test_4_a_bad_version_goes_back_by_itself_also_over_a_kill() -> None:
    before = {name: runs(name) for name in HOSTS}
    for name in HOSTS:
        inside(name, "sh", "-c", IMPATIENT)

    def crashing_and_hanging() -> None:
        for version, why in (
            (CRASHING, r"\(.*agent.*\)"),
            (HANGING, r"\(.*(Kinto|accounts).*\)"),
        ):
            path = bring(STATION, bundle(version))
            offer(STATION, path)
            goes_back(STATION, version, before[STATION], why)
            inside(STATION, "rm", "--force", path)

    def reads_nothing_and_is_killed() -> None:
        path = bring(FLASHED, bundle(USELESS), "/boot/firmware")
        cut_update(FLASHED, IN_THE_GATE)
        # A school's weekend later.
        inside(FLASHED, "sh", "-c", "touch --date='3 days ago' /var/lib/unisat-update/before.*")
        inside(FLASHED, "rm", path)
        run_unit(FLASHED, "unisat-update")
        goes_back(FLASHED, USELESS, before[FLASHED], r"\(See whether it works as well as before: ")

    side_by_side(crashing_and_hanging, reads_nothing_and_is_killed)
    for name in HOSTS:
        assert status(name)["update"]["problem"]
        note(f"{name}: bad versions, {judge(name)} packages and none lost or twice")
