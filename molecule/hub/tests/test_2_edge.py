"""What nginx does for Kinto: encryption, limits, sizes, and the mobile app's two requests."""

from __future__ import annotations

import gzip
import http.client
import ssl
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from conftest import HUB, Account, address, dial, put, trust
from outside import inside, wait_until

COLLECTIONS = "/v1/buckets/telemetry/collections"
APP_COLLECTIONS = "/v1/buckets/default/collections?_limit=200"


def app_records(device: str) -> str:
    return f"/v1/buckets/default/collections/{device}/records?_limit=200"


def test_exactly_these_sockets_listen_on_the_network() -> None:
    found = set()
    for line in inside(HUB, "ss", "-HnltupO").splitlines():
        kind, _, _, _, local, *rest = line.split()
        if not local.startswith(("127.", "[::1]")) and "avahi-daemon" not in "".join(rest):
            found.add((kind, local))
    assert found == {
        ("tcp", f"{ip}:{p}") for ip in ("0.0.0.0", "[::]") for p in (22, 80, 443, 8883)
    }


def test_http2_is_offered_and_old_tls_is_not() -> None:
    context = trust()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with dial(context) as connection:
        assert connection.selected_alpn_protocol() == "h2"
        assert connection.version() == "TLSv1.3"
    context = trust()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        dial(context)


def test_the_certificate_is_of_the_hubs_own_authority() -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        dial(ssl.create_default_context())
    with dial(trust()) as connection:
        names = dict(connection.getpeercert() or {})["subjectAltName"]
    assert names == (("DNS", "hub-server"), ("DNS", "hub.example.org"))


def test_plain_http_leads_to_https_and_takes_no_login() -> None:
    def ask(headers: dict[str, str]) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(address(), timeout=30)
        connection.request("GET", "/v1/buckets", headers=headers)
        return connection.getresponse()

    assert ask({}).getheader("Location") == "https://hub-server/v1/buckets"
    answer = ask({"Authorization": "Basic YTpi"})
    assert answer.status == 403
    assert b"change the password" in answer.read()


def test_answers_are_compressed_and_say_https(accounts: dict[str, Account]) -> None:
    for number in range(2, 30):
        put(accounts["almaty"], "u01kz", number, temperature=21.5, pm25=4.0)
    answer = accounts["reader"].ask(
        "GET", f"{COLLECTIONS}/u01kz/records?_limit=20", headers={"Accept-Encoding": "gzip"}
    )
    assert answer.headers["content-encoding"] == "gzip"
    assert b"temperature" in gzip.decompress(answer.text)
    assert answer.headers["next-page"].startswith(f"https://{HUB}/v1/buckets/telemetry/")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize(
    ("path", "megabytes", "refused"),
    [
        (f"{COLLECTIONS}/u01kz/records", 0.9, False),
        (f"{COLLECTIONS}/u01kz/records", 8, True),
        ("/v1/batch", 8, True),
        (f"{COLLECTIONS}/u01kz/records:ingest", 3.9, False),
        (f"{COLLECTIONS}/u01kz/records:ingest", 8, True),
    ],
)
def test_a_body_that_is_too_large_is_refused(
    accounts: dict[str, Account], path: str, megabytes: float, refused: bool
) -> None:
    station = Account(accounts["almaty"].name, accounts["almaty"].password)
    # Whatever Kinto says of its content.
    answer = station.ask("POST", path, b"x" * int(megabytes * 2**20), {"Expect": ""})
    assert (answer.status == 413) is refused
    assert answer.status != 500
    if refused:
        assert answer.json | {"message": ""} == {
            "code": 413,
            "errno": 113,
            "error": "Request Entity Too Large",
            "message": "",
        }


def strictly(found: Any) -> None:
    """The app's own types: it fails on an integer where it wants a double."""
    for name in ("temperature", "humidity", "pressure", "pm25", "pm10"):
        assert isinstance(found.get(name), float | None), name
    assert type(found["timestamp"]) is int
    assert type(found["last_modified"]) is int
    assert isinstance(found["id"], str)


def test_the_mobile_app_sees_what_its_charts_can_show(accounts: dict[str, Account]) -> None:
    station = accounts["astana"]
    values = {"temperature": 20.0, "humidity": 40.0, "pressure": 1013.0, "pm25": 4.0, "pm10": 11.0}
    # As a backlog arrives, the newest first; and one that the charts cannot show.
    for number in (900, 800):
        assert put(station, "u03kz", number, **values).status in {201, 412}
    assert put(station, "u03kz", 950, humidity=40.0).status in {201, 412}
    assert put(accounts["oskemen"], "u04kz", 5, temperature=1.0).status in {201, 412}
    inside(HUB, "systemctl", "start", "unisat-hub-app.service")
    app = accounts["app"]
    listed = app.ask("GET", APP_COLLECTIONS)
    assert listed.status == 200
    for item in listed.json["data"]:
        assert item.keys() == {"id", "last_modified"}
        assert type(item["last_modified"]) is int
    # u05kz, whose station has sent nothing yet, is not among them: the app fails on an empty one.
    assert {item["id"] for item in listed.json["data"]} == {"u01kz", "u02kz", "u03kz", "u04kz"}
    for device in ("u01kz", "u03kz"):
        found = app.ask("GET", app_records(device)).json["data"]
        for item in found:
            strictly(item)
        times = [item["timestamp"] for item in found]
        assert times == sorted(times, reverse=True)
        assert all("temperature" in item for item in found)
    assert found[0]["seq"] == 900


def test_other_questions_at_the_old_address_are_answered_as_they_are(
    accounts: dict[str, Account],
) -> None:
    found = (
        accounts["reader"]
        .ask("GET", "/v1/buckets/default/collections/u03kz/records?seq=950")
        .json["data"]
    )
    assert [item["seq"] for item in found] == [950]


def test_the_app_is_served_while_kinto_restarts(accounts: dict[str, Account]) -> None:
    app, station = accounts["app"], accounts["almaty"]
    shown = (APP_COLLECTIONS, app_records("u01kz"), app_records("u03kz"))
    for path in shown:
        assert app.ask("GET", path).status == 200
    assert station.ask("GET", f"{COLLECTIONS}/u01kz/records?_limit=1").status == 200
    inside(HUB, "systemctl", "stop", "unisat-kinto")
    try:
        for path in shown:
            assert app.ask("GET", path).status == 200
        for account in (station, Account("almaty", "another")):
            answer = account.ask("GET", f"{COLLECTIONS}/u01kz/records?_limit=1")
            assert answer.status == 503
            assert answer.json["errno"] == 201
            assert int(answer.headers["retry-after"]) > 0
    finally:
        inside(HUB, "systemctl", "start", "unisat-kinto")
    wait_until(lambda: put(station, "u01kz", 40).status in {201, 412}, "Kinto is back", 60)


def test_prometheus_gets_its_figures_on_the_hub_alone() -> None:
    fetch = (
        "import ssl, urllib.request as r; print(r.urlopen('https://127.0.0.1/metrics/{}',"
        " context=ssl._create_unverified_context()).read().decode())"
    )
    assert "kinto_request_summary_total{" in inside(HUB, "python3", "-c", fetch.format("kinto"))
    assert "nginx_up 1" in inside(HUB, "python3", "-c", fetch.format("nginx"))
    figures = inside(HUB, "python3", "-c", fetch.format("postgres"))
    assert "pg_up 1" in figures
    assert 'pg_stat_activity_count{datname="kinto"' in figures
    # It sees statistics, and no record.
    query = "SELECT count(*) FROM objects"
    seen = inside(
        HUB, "runuser", "-u", "prometheus", "--", "psql", "kinto", "-c", query, check=False
    )
    assert "permission denied" in seen
    for name in ("kinto", "nginx", "postgres"):
        assert Account().ask("GET", f"/metrics/{name}").status == 404


def flood(account: Account, method: str, path: str, count: int) -> list[Any]:
    """Ask for the same thing over and over, over several connections."""

    def some(_: int) -> list[Any]:
        own = Account(account.name, account.password)
        return [own.ask(method, path) for _ in range(count // 8)]

    with ThreadPoolExecutor(8) as pool:
        return [answer for answers in pool.map(some, range(8)) for answer in answers]


def limited(answers: list[Any]) -> int:
    """How many were told to come later, each properly."""
    found = [answer for answer in answers if answer.status == 429]
    for answer in found:
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json["errno"] == 117
    return len(found)


def test_an_account_is_limited_and_others_are_not(accounts: dict[str, Account]) -> None:
    # Refused by Kinto, for the method: what counts is that it writes.
    answers = flood(accounts["oskemen"], "PUT", "/v1/", 160)
    assert 0 < limited(answers) < len(answers)
    assert put(accounts["almaty"], "u01kz", 41).status in {201, 412}


def test_an_address_is_limited_but_never_the_app(accounts: dict[str, Account]) -> None:
    answers = flood(accounts["anonymous"], "GET", "/v1/__lbheartbeat__", 800)
    assert limited(answers) > 0
    for path in (APP_COLLECTIONS, app_records("u03kz")):
        assert {answer.status for answer in flood(accounts["app"], "GET", path, 80)} == {200}


def test_guessing_is_slowed_and_logged_and_a_known_login_goes_on(
    accounts: dict[str, Account],
) -> None:
    wait_until(lambda: put(accounts["almaty"], "u01kz", 42).status in {201, 412}, "it may again")
    guesses = [Account("principal", f"guess-{n}").ask("GET", "/v1/buckets") for n in range(40)]
    assert {answer.status for answer in guesses} == {401, 429}
    assert limited(guesses) >= 5
    assert accounts["reader"].ask("GET", f"{COLLECTIONS}/u01kz/records?_limit=1").status == 200
    log = inside(HUB, "journalctl", "--no-pager", "-t", "unisat_hub", "-n", "40")
    assert 'user="principal" "GET /v1/buckets"' in log
    assert "guess-" not in inside(HUB, "journalctl", "--no-pager")


def test_who_is_slow_is_cut_off() -> None:
    # One sends a header for ever, a byte a second; the other nothing more of its body.
    header, body = dial(trust()), dial(trust())
    body.sendall(b"POST /v1/batch HTTP/1.1\r\nHost: hub-server\r\nContent-Length: 99\r\n\r\n{")
    header.sendall(b"GET /v1/ HTTP/1.1\r\nHost: hub-server\r\nX-Slow: ")
    header.settimeout(1)
    begin = time.monotonic()
    try:
        while time.monotonic() - begin < 60:
            header.sendall(b"x")
            try:
                if not header.recv(1000):
                    break
            except TimeoutError:
                continue
    except OSError:
        pass  # closed
    body.settimeout(60)
    said = body.recv(1000)
    assert time.monotonic() - begin < 40
    assert said == b"" or b" 408 " in said
