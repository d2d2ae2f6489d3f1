"""An update over real HTTPS, from a hub's own nginx."""

from __future__ import annotations

import hashlib
import socket
import threading
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pretend import Folder, contents, make_key, make_station, sentences, versions
from web import DAY, Authority, Server

from unisat_update import state as states
from unisat_update.__main__ import from_web
from unisat_update.files import Layout, make_folder, write
from unisat_update.state import State

BALLAST = b"".join(hashlib.sha256(bytes([i, j])).digest() for i in range(256) for j in range(256))


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture
def authority() -> Authority:
    return Authority("a hub's own")


@pytest.fixture
def server(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "localhost")
    folder = tmp_path / "hub"
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    authority.issue(folder)
    found = Server(folder, port, authority.write(tmp_path / "ca.pem"))
    yield found
    found.cut()


@pytest.fixture
def station(tmp_path: Path, key: Path, server: Server) -> Layout:
    layout = make_station(tmp_path / "station", key)
    make_folder(layout.agent.parent)
    hub = f"https://localhost:{server.port}/v1"
    layout.agent.write_text(f'[hub]\nurl = "{hub}"\nca_file = "{server.ca}"\n')
    write(layout.settings, '{"name": "school-1", "url": ""}')
    return layout


def look(layout: Layout) -> State:
    """One look on the web, and what is known after it."""
    told: list[State] = []
    sequence = sentences(layout, Folder(layout), told)
    sequence.resume()
    from_web(layout, sequence)
    return states.load(layout)


def test_a_station_takes_what_the_hub_offers(station: Layout, server: Server, key: Path) -> None:
    server.publish(key, 2)
    server.start()
    assert look(station).said == ("Update: version 2.0 from the update on localhost is installed.")
    assert versions(station.root) == {"version 2"}
    assert look(station).said == "Update: localhost offers nothing newer than 2.0."
    server.publish(key, 3, percent=0)
    said = "Update: localhost offers version 3.0; this station has its turn later."
    assert look(station).said == said
    assert versions(station.root) == {"version 2"}


def test_only_the_parts_that_it_has_not_are_fetched(
    station: Layout, server: Server, key: Path
) -> None:
    server.publish(key, 2)
    server.start()
    look(station)
    before = len(server.asked())
    server.publish(key, 3)
    look(station)
    assert versions(station.root) == {"version 3"}
    fetched = [path for _, path, *_ in server.asked()[before:] if "/parts/" in path]
    part = hashlib.sha256(contents(3)["project"]).hexdigest()
    kinto = hashlib.sha256(contents(3)["kinto.tar.xz"]).hexdigest()
    assert sorted(fetched) == sorted([f"/updates/parts/{part}"])
    assert f"/updates/parts/{kinto}" in [path for _, path, *_ in server.asked()[:before]]


def test_what_was_cut_goes_on_where_it_was(station: Layout, server: Server, key: Path) -> None:
    server.publish(key, 2, ballast=BALLAST)
    part = contents(2, ballast=BALLAST)["ansible"]
    name = hashlib.sha256(part).hexdigest()
    half = station.incoming / "2/parts" / f"{name}.part"
    # Slow enough that the end comes in the middle.
    server.start(rate=len(part) // 4)

    ended = threading.Event()

    def cut() -> None:
        while not (half.exists() and half.stat().st_size) and not ended.wait(0.01):
            pass
        server.cut()

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        state = look(station)
    finally:
        ended.set()
        cutter.join()
    assert state.said.startswith("Update: the update on localhost stopped in the middle")
    assert state.said.endswith("; it goes on later where it stopped.")
    assert versions(station.root) == {"version 1"}
    have = half.stat().st_size
    assert 0 < have < len(part)
    project = hashlib.sha256(contents(2)["project"]).hexdigest()
    server.start()
    assert look(station).said.endswith("is installed.")
    assert versions(station.root) == {"version 2"}
    asked = server.asked()
    # The rest alone, and not again what had come.
    assert ["206", f"/updates/parts/{name}", str(len(part) - have), "max-age=315360000"] in asked
    assert [path for _, path, *_ in asked].count(f"/updates/parts/{project}") == 1


def test_the_hub_lists_nothing_and_says_how_long_an_answer_holds(server: Server, key: Path) -> None:
    server.publish(key, 2)
    server.start()
    assert b'"percent": 100' in server.get("stable.json")
    part = contents(2)["project"]
    assert server.get(f"parts/{hashlib.sha256(part).hexdigest()}") == part
    for path in ("", "parts/", "parts", "nothing"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            server.get(path)
        assert refused.value.code == 404, path
    held = {
        path.rsplit("/", 1)[1]: how for status, path, _, how in server.asked() if status == "200"
    }
    assert held.pop("stable.json") == "no-cache"
    assert list(held.values()) == ["max-age=315360000"]


def test_a_certificate_that_is_not_accepted_is_one_sentence(
    station: Layout, server: Server, authority: Authority, key: Path
) -> None:
    server.publish(key, 2)
    issue: dict[str, Callable[[], object]] = {
        "has expired: renew it on the server": lambda: authority.issue(
            server.folder, begin=-3 * DAY, end=-DAY
        ),
        "is not valid yet: see that the clocks of the station and of the server are right": (
            lambda: authority.issue(server.folder, begin=DAY, end=2 * DAY)
        ),
        "is for another name: correct the address, or give the server one for this name": (
            lambda: authority.issue(server.folder, name="other.example.org")
        ),
        "is of an authority that this station does not trust: run site.yml for it and the server": (
            lambda: Authority("another").issue(server.folder)
        ),
        "was revoked: give the server another one": lambda: authority.write(
            server.ca, revoked=authority.issue(server.folder)
        ),
    }
    for sentence, prepare in issue.items():
        prepare()
        server.start()
        state = look(station)
        assert state.said == f"Update: the certificate of localhost {sentence}."
        assert not state.is_problem
        assert versions(station.root) == {"version 1"}
        server.cut()
    # The next one is good, and not on the list.
    authority.issue(server.folder)
    server.start()
    assert look(station).said.endswith("is installed.")


def test_a_version_that_failed_is_told_until_there_is_another(
    station: Layout, server: Server, key: Path
) -> None:
    server.publish(key, 2)
    server.start()
    failed = State(failed={2: "no record came in"}, said="Update: it failed.", is_problem=True)
    states.store(station, failed)
    asked = len(server.asked())
    assert look(station) == failed
    assert [path for _, path, *_ in server.asked()[asked:]] == [
        "/updates/stable.json",
        "/updates/stable.json.minisig",
    ]
    server.publish(key, 3)
    assert look(station).said.endswith("version 3.0 from the update on localhost is installed.")
