"""One playbook run each: a station leaves, a password is replaced, the certificate is renewed."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import yaml

from conftest import HUB, SECRETS, Account, dial, playbook, put, secret, trust
from outside import run

FLEET = "/v1/buckets/telemetry/collections/u04kz/records"


def days_left() -> float:
    """How long the certificate is valid that the hub shows."""
    with dial(trust()) as connection:
        shown = dict(connection.getpeercert() or {})["notAfter"]
    return (ssl.cert_time_to_seconds(str(shown)) - time.time()) / 86400


def test_a_station_leaves_another_has_a_new_password_and_the_certificate_is_renewed(
    accounts: dict[str, Account], tmp_path: Path
) -> None:
    astana, oskemen = accounts["astana"], accounts["oskemen"]
    assert put(oskemen, "u04kz", 60, temperature=1.0).status in {201, 412}
    # The password of astana was lost; it is made anew when its file is gone. oskemen leaves.
    (SECRETS / "station_astana").unlink()
    lookup = "{{{{ lookup('unisat_secret', 'station_{}') }}}}"
    stations = [
        {"name": name, "password": lookup.format(name), "devices": devices}
        for name, devices in {"almaty": ["u01kz", "u02kz"], "astana": ["u03kz"]}.items()
    ]
    wanted = tmp_path / "wanted.yml"
    wanted.write_text(yaml.safe_dump({"kinto_publishers": stations}))
    # A certificate in its last days.
    request = str(tmp_path / "request.pem")
    run(
        *("openssl", "req", "-new", "-key", f"{SECRETS}/hub_tls.key", "-subj", f"/CN={HUB}"),
        *("-out", request),
    )
    run(
        *("openssl", "x509", "-req", "-in", request, "-days", "9", "-CAcreateserial"),
        *("-CA", f"{SECRETS}/hub_ca.pem", "-CAkey", f"{SECRETS}/hub_ca.key"),
        *("-out", f"{SECRETS}/hub_tls.pem"),
    )
    said = playbook("site.yml", "--tags", "configure,run", "-e", f"@{wanted}")
    for name in ("station_astana", "hub_tls.key", "kinto_admin_password"):
        assert secret(name) not in said
    assert days_left() > 800

    assert oskemen.ask("GET", FLEET).status == 401
    assert put(oskemen, "u04kz", 61).status == 401
    assert put(astana, "u03kz", 61).status == 401
    assert put(Account("astana", secret("station_astana")), "u03kz", 61).status == 201
    assert put(accounts["almaty"], "u01kz", 61).status in {201, 412}
    # What it delivered stays, and is read as before.
    assert accounts["reader"].ask("GET", f"{FLEET}?seq=60").json["data"]
