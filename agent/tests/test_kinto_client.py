"""One request, one answer or one error: what the client believes, repeats, and waits for."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from rig import reserve_port
from rig.clock import FakeClock
from rig.replies import CLOSE, HANG, PORTAL, RESET, Fault, Reply, Request, redirect
from rig.scripted import ScriptedServer
from rig.way import aborted, client
from unisat_agent import __version__
from unisat_agent.delivery import kinto
from unisat_agent.delivery.channel import Channel
from unisat_agent.delivery.kinto import Answer, KintoClient, TransportError, asked_wait_s


@pytest.fixture
def kinto_client(server: ScriptedServer) -> Iterator[KintoClient]:
    with client(server.url) as made:
        yield made


def count(server: ScriptedServer) -> int:
    return len(server.requests)


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

    def test_connection_is_kept(self, server: ScriptedServer, kinto_client: KintoClient) -> None:
        kinto_client.request("GET", "/")
        kinto_client.request("GET", "/")
        assert server.connections == 1

    def test_connection_that_the_server_ends_is_not(
        self, server: ScriptedServer, kinto_client: KintoClient
    ) -> None:
        server.then(Reply(200, {}, {"Connection": "close"}, close=True))
        assert kinto_client.request("GET", "/").status == 200
        kinto_client.request("GET", "/")
        assert server.connections == 2

    def test_connection_that_was_silent_for_long_is_not(self, server: ScriptedServer) -> None:
        """A router in between may have forgotten it, and says nothing."""
        clock = FakeClock()
        with client(server.url, clock=clock) as made:
            made.request("GET", "/")
            clock.advance(kinto.IDLE_MAX_S)
            made.request("GET", "/")
            assert server.connections == 1
            clock.advance(kinto.IDLE_MAX_S + 1)
            made.request("GET", "/")
            assert server.connections == 2

    def test_requests_are_counted_and_timed(self, server: ScriptedServer) -> None:
        clock = FakeClock()
        with client(server.url, clock=clock, read_timeout_s=5.0) as made:

            def slow(_: Request) -> Reply:
                clock.advance(2.0)
                return Reply(503)

            server.intercept(lambda request: request.path.endswith("/slow"), slow)
            made.request("GET", "/")
            made.request("GET", "/slow")
            server.then(PORTAL)
            with pytest.raises(TransportError):
                made.request("GET", "/")
            figures = made.log.figures()
        assert figures.by_status == {"200": 1, "503": 1, "none": 1}
        assert figures.by_duration == (2, 0, 0, 1, 0, 0)
        assert figures.seconds == 2.0

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


PAGE = "<html><body>blocked by your network's administrator</body></html>"


class TestRefusals:
    """Something in front of Kinto answers with a page of its own: status and headers count."""

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 502, 503, 504])
    @pytest.mark.parametrize("body", [PAGE, b"\xff", "{"], ids=["page", "bytes", "broken JSON"])
    def test_is_an_answer_whatever_its_body_is(
        self, server: ScriptedServer, kinto_client: KintoClient, status: int, body: str | bytes
    ) -> None:
        headers = {"Retry-After": "90"}
        if body == "{":
            headers["Content-Type"] = "application/json"
        server.then(Reply(status, body, headers))
        answer = kinto_client.request("POST", "/batch", {})
        assert (answer.status, answer.body, answer.by_kinto) == (status, None, False)
        assert answer.wait_s() == 90.0

    def test_page_is_told_apart(self, server: ScriptedServer, kinto_client: KintoClient) -> None:
        server.then(Reply(413, PAGE))
        assert kinto_client.request("POST", "/batch", {}).words() == "413 (text/html, not of Kinto)"
        server.then(Reply(403, {"code": 403, "message": "no"}))
        assert kinto_client.request("POST", "/batch", {}).by_kinto

    def test_network_that_wants_a_login_says_511(
        self, server: ScriptedServer, kinto_client: KintoClient
    ) -> None:
        server.then(Reply(511, PAGE))
        with pytest.raises(TransportError, match="the network asks for a login"):
            kinto_client.request("POST", "/batch", {})


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
    """An idle connection may have been closed, or forgotten by a router: that is tried again."""

    @pytest.mark.parametrize("fault", [RESET, CLOSE, HANG])
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

    @pytest.mark.parametrize("answer", [PORTAL, Reply(200, {}, content_length=99)])
    def test_not_after_a_wrong_answer(
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


def test_kernel_finds_a_connection_that_a_router_forgot() -> None:
    """Before a package waits for it: it asks when the line is silent, and gives up soon."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        Channel(sock, FakeClock().monotonic, 1.0)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, count = (
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * count <= kinto.IDLE_MAX_S
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000


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
