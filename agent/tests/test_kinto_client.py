"""One request, one answer or one error: what the client believes, repeats, and waits for."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rig import reserve_port
from rig.scripted import CLOSE, HANG, PORTAL, RESET, Fault, Reply, ScriptedServer, redirect
from rig.wait import wait_until
from unisat_agent import __version__, kinto
from unisat_agent.config import SinkSettings
from unisat_agent.kinto import Answer, KintoClient, TransportError, asked_wait_s


def client(url: str, **settings: Any) -> KintoClient:
    given = {"connect_timeout_s": 5.0, "read_timeout_s": 0.5, **settings}
    return KintoClient(SinkSettings("hub", url, "me", "sécret", **given))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as made:
        yield made


@pytest.fixture
def kinto_client(server: ScriptedServer) -> Iterator[KintoClient]:
    with client(server.url) as made:
        yield made


def count(server: ScriptedServer) -> int:
    return len(server.requests)


def aborted(made: KintoClient, under_way: Callable[[], object]) -> list[TransportError]:
    """Aborts a request of another thread once it is under way; returns what that thread got."""
    failures: list[TransportError] = []

    def ask() -> None:
        try:
            made.request("GET", "/")
        except TransportError as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(under_way, 10, "the request", 0.01)
    made.abort()
    thread.join(30)
    return failures


class TestRequest:
    def test_says_who_asks_and_in_what_form(
        self, server: ScriptedServer, kinto_client: KintoClient
    ) -> None:
        kinto_client.request("POST", "/batch", {"x": 1.5}, {"If-None-Match": "*"})
        (request,) = server.requests
        assert (request.method, request.path, request.body) == ("POST", "/v1/batch", {"x": 1.5})
        token = request.headers["authorization"].removeprefix("Basic ")
        assert base64.b64decode(token).decode() == "me:sécret"
        assert request.headers["user-agent"] == f"unisat-agent/{__version__}"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["if-none-match"] == "*"

    def test_answer_is_whatever_status_it_has(
        self, server: ScriptedServer, kinto_client: KintoClient
    ) -> None:
        for status in (200, 201, 400, 401, 403, 404, 405, 412, 429, 500, 503):
            server.then(Reply(status, {"code": status}, {"X-Y": "z"}))
            answer = kinto_client.request("GET", "/x")
            assert (answer.status, answer.headers["x-y"]) == (status, "z")

    def test_connection_is_kept(self, kinto_client: KintoClient) -> None:
        kinto_client.request("GET", "/")
        first = kinto_client._connection
        kinto_client.request("GET", "/")
        assert kinto_client._connection is first is not None

    def test_connection_that_the_server_ends_is_not(
        self, server: ScriptedServer, kinto_client: KintoClient
    ) -> None:
        server.then(Reply(200, {}, {"Connection": "close"}, close=True))
        assert kinto_client.request("GET", "/").status == 200
        assert kinto_client._connection is None

    def test_head_and_empty_answers_have_no_body(
        self, server: ScriptedServer, kinto_client: KintoClient
    ) -> None:
        assert kinto_client.request("HEAD", "/buckets/b/collections").body is None
        server.then(Reply(200, ""))
        assert kinto_client.request("GET", "/").body is None

    def test_path_of_the_url_is_kept(self, server: ScriptedServer) -> None:
        with client(server.url.replace("/v1", "/kinto/v1")) as made:
            assert made.root == "/kinto/v1"
            made.request("GET", "/x?y=1")
        assert server.requests[0].path == "/kinto/v1/x?y=1"

    def test_number_that_is_not_json_is_never_sent(
        self, server: ScriptedServer, kinto_client: KintoClient
    ) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            kinto_client.request("POST", "/batch", {"x": float("nan")})
        assert count(server) == 0


NOT_BELIEVED: dict[str, tuple[Reply | Fault, str]] = {
    "silence": (HANG, "no answer in time"),
    "reset": (RESET, "Connection reset by peer"),
    "closed": (CLOSE, "Remote end closed connection without response"),
    "login page": (PORTAL, "not Kinto's JSON: the url is not a Kinto's, or the network asks for"),
    "redirect": (redirect("http://login/"), "redirect to http://login/: correct the url, or log"),
    "cut off": (Reply(200, {}, content_length=99), "the answer is cut off"),
    "too slow": (Reply(200, {}, drip_s=0.9), "no answer in time"),
    "no JSON": (Reply(200, "{", {"Content-Type": "application/json"}), "JSONDecodeError"),
    "bytes": (Reply(200, b"\xff", {"Content-Type": "application/json"}), "UnicodeDecodeError"),
    "huge": (Reply(200, "x" * 2000), "the answer is larger than 1000 B"),
}


class TestNotBelieved:
    @pytest.mark.parametrize("name", NOT_BELIEVED)
    def test_says_why_in_one_sentence_and_goes_on(
        self,
        server: ScriptedServer,
        kinto_client: KintoClient,
        name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(kinto, "MAX_ANSWER_BYTES", 1000)
        answer, said = NOT_BELIEVED[name]
        server.then(answer)
        with pytest.raises(TransportError) as caught:
            kinto_client.request("POST", "/batch", {})
        assert said in str(caught.value)
        assert str(caught.value).startswith(server.url)
        assert "\n" not in str(caught.value)
        assert count(server) == 1
        assert kinto_client.request("GET", "/").status == 200, "the next one is not disturbed"

    def test_nobody_listens(self) -> None:
        with reserve_port() as holder:
            url = f"http://127.0.0.1:{holder.getsockname()[1]}/v1"
            with client(url) as made, pytest.raises(TransportError, match="nothing listens there"):
                made.request("GET", "/")

    def test_no_such_host(self) -> None:
        with (
            client("http://hub.invalid/v1") as made,
            pytest.raises(TransportError, match=r"the host name hub\.invalid can't be resolved"),
        ):
            made.request("GET", "/")

    def test_a_server_that_drips_is_cut_off(self, server: ScriptedServer) -> None:
        """Each byte starts the read time-out anew, so that it alone would never end."""
        server.then(Reply(200, {"x": "y" * 200}, drip_s=0.05))
        with client(server.url, read_timeout_s=0.2) as made, pytest.raises(TransportError):
            made.request("GET", "/")


class TestSecondTry:
    """An idle connection may have been closed by the server: that alone is tried again."""

    @pytest.mark.parametrize("fault", [RESET, CLOSE])
    def test_on_a_connection_that_was_idle(
        self, server: ScriptedServer, kinto_client: KintoClient, fault: Fault
    ) -> None:
        kinto_client.request("GET", "/")
        server.then(fault)
        assert kinto_client.request("GET", "/").status == 200
        assert count(server) == 3

    @pytest.mark.parametrize("fault", [RESET, CLOSE])
    def test_not_on_a_new_one(
        self, server: ScriptedServer, kinto_client: KintoClient, fault: Fault
    ) -> None:
        server.then(fault)
        with pytest.raises(TransportError):
            kinto_client.request("GET", "/")
        assert count(server) == 1

    def test_only_once(self, server: ScriptedServer, kinto_client: KintoClient) -> None:
        kinto_client.request("GET", "/")
        server.then(CLOSE, times=None)
        with pytest.raises(TransportError):
            kinto_client.request("GET", "/")
        assert count(server) == 3

    @pytest.mark.parametrize("answer", [HANG, PORTAL, Reply(200, {}, content_length=99)])
    def test_not_after_a_time_out_or_a_wrong_answer(
        self, server: ScriptedServer, kinto_client: KintoClient, answer: Reply | Fault
    ) -> None:
        kinto_client.request("GET", "/")
        server.then(answer)
        with pytest.raises(TransportError):
            kinto_client.request("GET", "/")
        assert count(server) == 2

    def test_not_after_it_was_aborted(self, server: ScriptedServer) -> None:
        with client(server.url, read_timeout_s=60.0) as made:
            made.request("GET", "/")
            server.then(HANG)
            assert len(aborted(made, lambda: count(server) == 2)) == 1
            assert count(server) == 2

    def test_aborting_nothing_is_nothing(self, kinto_client: KintoClient) -> None:
        kinto_client.abort()
        assert kinto_client.request("GET", "/").status == 200
        kinto_client.close()
        kinto_client.abort()


class TestHeartbeat:
    def test_is_good_only_with_200(self, server: ScriptedServer, kinto_client: KintoClient) -> None:
        assert kinto_client.alive()
        for answer in (Reply(503), PORTAL, RESET):
            server.then(answer)
        assert [kinto_client.alive() for _ in range(3)] == [False, False, False]
        assert kinto_client.alive()


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "5"}, 5.0),
        ({"backoff": "6"}, 6.0),
        ({"retry-after": "5", "backoff": "6"}, 6.0),
        ({"retry-after": "6", "backoff": "5"}, 6.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "1e9"}, 300.0),
        ({"retry-after": "inf"}, 300.0),
        ({"retry-after": "nan"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        # A date counts from the server's own, whatever the clock of this host says
        (
            {
                "retry-after": "Fri, 19 Aug 2022 14:10:00 GMT",
                "date": "Fri, 19 Aug 2022 14:09:18 GMT",
            },
            42.0,
        ),
        ({"retry-after": "Fri, 19 Aug 2022 14:10:00 GMT"}, None),
        ({"retry-after": "Fri, 19 Aug 2022 14:10:00 GMT", "date": "x"}, None),
    ],
)
def test_how_long_the_server_asks_to_stay_away(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert asked_wait_s(headers) == seconds
    assert Answer(503, headers, None).wait_s() == seconds


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"message": "no", "error": "Forbidden"}, "403 no"),
        ({"error": "Forbidden"}, "403 Forbidden"),
        ({}, "403"),
        (None, "403"),
        ([], "403"),
    ],
)
def test_error_in_words(body: Any, said: str) -> None:
    assert Answer(403, {}, body).words() == said


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        path = tmp_path / "server.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=hub"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(path), "-out", str(tmp_path / "ca.pem")),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        with path.open("a") as file:
            file.write((tmp_path / "ca.pem").read_text())
        return path

    @pytest.fixture
    def secure(self, certificate: Path) -> Iterator[ScriptedServer]:
        server = ScriptedServer()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        plain = server._http.socket
        server._http.socket = context.wrap_socket(plain, server_side=True)
        with server:
            yield server

    def test_certificate_is_checked(self, secure: ScriptedServer) -> None:
        url = secure.url.replace("http:", "https:")
        with client(url) as made, pytest.raises(TransportError) as caught:
            made.request("GET", "/")
        assert "certificate is not trusted" in str(caught.value)
        assert "set ca_file, or check the clock of this host" in str(caught.value)

    def test_own_authority(self, secure: ScriptedServer, certificate: Path) -> None:
        url = secure.url.replace("http:", "https:")
        with client(url, ca_file=certificate.with_name("ca.pem")) as made:
            assert made.request("GET", "/").status == 200
            server_side = secure.requests
            assert len(server_side) == 1

    def test_request_is_aborted(self, secure: ScriptedServer, certificate: Path) -> None:
        url = secure.url.replace("http:", "https:")
        ca_file = certificate.with_name("ca.pem")
        with client(url, ca_file=ca_file, read_timeout_s=60.0) as made:
            secure.then(HANG)
            assert len(aborted(made, lambda: secure.requests)) == 1

    def test_authority_that_is_none(self, secure: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "no.pem").write_text("no certificate")
        url = secure.url.replace("http:", "https:")
        with (
            client(url, ca_file=tmp_path / "no.pem") as made,
            pytest.raises(TransportError, match=r"ca_file .*no\.pem holds no certificate"),
        ):
            made.request("GET", "/")


def test_slow_connection_has_a_time_out() -> None:
    """A listener with a full queue lets a connection hang as a firewall does."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        queue = [socket.socket() for _ in range(4)]
        for waiting in queue:
            waiting.setblocking(False)
            waiting.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}/v1"
        with (
            client(url, connect_timeout_s=0.2) as made,
            pytest.raises(TransportError, match="no answer in time"),
        ):
            made.request("GET", "/")
        for waiting in queue:
            waiting.close()
