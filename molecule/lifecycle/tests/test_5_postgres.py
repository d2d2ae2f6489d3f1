"""PostgreSQL of bookworm becomes that of trixie, below the station that was migrated before."""
# ruff: noqa: S608 - the queries are the tests' own

from __future__ import annotations

import re

from life import DEVICES, LATER, OLD, OLD_RECORDS, play, sentences

from outside import INVENTORY, PROJECT, inside, run, wait_until
from station import ask, judge, sent, well

OURS = ("--inventory", LATER, "--limit", OLD)
# The variable is gone from the inventory.
NEWER = (*OURS, "--extra-vars", '{"postgres_version": 17}')


def clusters() -> list[str]:
    """Version, port and state of each cluster."""
    lines = inside(OLD, "pg_lsclusters", "--no-header").splitlines()
    return [" ".join(line.split()[i] for i in (0, 2, 3)) for line in lines]


def content() -> list[list[object]]:
    """A sum over everything that Kinto stores, but what the satellite goes on sending."""
    return ask(
        OLD,
        "SELECT resource_name, count(*), sum(hashtext(objects::text)) FROM objects"
        f" WHERE parent_id NOT LIKE '%/{DEVICES[OLD]}' AND resource_name <> 'account'"
        " GROUP BY 1 ORDER BY 1",
    )


def records_go_on(more: int) -> None:
    before = len(sent(OLD))
    wait_until(lambda: len(sent(OLD)) >= before + more, "the satellite sends")


def test_site_names_the_playbook_before_it_changes_anything() -> None:
    assert clusters() == ["15 5432 online"]
    run(
        *("ansible-playbook", "--inventory", INVENTORY, *OURS),
        f"{PROJECT}/molecule/hosts/satellite.yml",
    )
    wait_until(lambda: sent(OLD), "the satellite sends")
    said = play("site", *NEWER, check=False, note=", refused for records in PostgreSQL 15")
    assert f"move them with playbooks/upgrade_postgres.yml --limit {OLD}" in sentences(said)
    assert re.search(rf"^{OLD} .* changed=0 .* failed=1 ", said, re.MULTILINE)


def test_a_failing_upgrade_goes_on_with_the_old_cluster() -> None:
    before = content()
    refuse = "for p in pg_restore; do mv /usr/lib/postgresql/17/bin/$p{,.away}; done"
    inside(OLD, "apt-get", "install", "--yes", "--quiet", "postgresql-client-17")
    inside(OLD, "bash", "-c", refuse)
    said = play("upgrade_postgres", *NEWER, check=False, note=", without pg_restore")
    inside(OLD, "bash", "-c", "mv /usr/lib/postgresql/17/bin/pg_restore{.away,}")
    assert f"{OLD} goes on with PostgreSQL 15, and nothing is lost (Copy everything:" in sentences(
        said
    )
    assert clusters() == ["15 5432 online"]
    assert content() == before
    records_go_on(2)
    judge(OLD)


def test_an_upgrade_moves_every_record_and_loses_none_meanwhile() -> None:
    before = content()
    said = play("upgrade_postgres", *NEWER, note=f", {OLD_RECORDS} records, 15 to 17")
    assert "has PostgreSQL 17, with all of its" in sentences(said)
    assert clusters() == ["17 5432 online"]
    assert content() == before
    for setting, wanted in {"data_checksums": "on", "listen_addresses": "127.0.0.1"}.items():
        query = f"psql --tuples-only --no-align --command 'show {setting}'"
        assert inside(OLD, "su", "postgres", "-c", query).strip() == wanted
    packages = inside(
        OLD, "dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n"
    )
    assert "installed postgresql-17" in packages.splitlines()
    assert "installed postgresql-15" not in packages.splitlines()
    records_go_on(3)
    judge(OLD)
    well(OLD)
    said = play("site", *NEWER, note=", after the upgrade")
    assert re.search(rf"^{OLD} .* changed=0 .* failed=0 ", said, re.MULTILINE)
    assert "PostgreSQL 17 stays" in sentences(play("upgrade_postgres", *NEWER))
