"""The station's page for the demo, without nginx: the built files, and what they ask of the agent.

A station has nginx instead (role dashboard). This one listens on loopback, reads only, and answers
only to an address there, so that a foreign web page cannot read it through the browser.
"""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from rig.loopback import LoopbackServer, asks_for_loopback

BUILT = Path(__file__).parents[2] / "build/dashboard"
_AGENTS = ("/status", "/records", "/refused", "/table")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
)
_DEADLINE_S = 10.0


def is_built() -> bool:
    """Whether `make dashboard` has made the page."""
    return (BUILT / "index.html").is_file()


class PageServer(LoopbackServer):
    """Serves the page; a context manager.

    Args:
        port: Where to listen on loopback; 0 takes a free port.
        agent: The address of the agent's status server, as http://127.0.0.1:8890.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, port: int, agent: str) -> None:
        super().__init__(port, partial(_Handler, agent, directory=str(BUILT)))


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, agent: str, *arguments: object, directory: str) -> None:
        self._agent = agent
        super().__init__(*arguments, directory=directory)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """A file of the page, or the agent's answer."""
        if not asks_for_loopback(self.headers):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path.partition("?")[0] in _AGENTS:
            self._pass_on()
        else:
            super().do_GET()

    def _pass_on(self) -> None:
        try:
            with urllib.request.urlopen(  # noqa: S310 - the agent's own address
                self._agent + self.path, timeout=_DEADLINE_S
            ) as answer:
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.end_headers()
                shutil.copyfileobj(answer, self.wfile)
        except urllib.error.HTTPError as error:
            with error:
                self.send_error(error.code)
        except OSError:
            self.send_error(HTTPStatus.BAD_GATEWAY)

    def end_headers(self) -> None:
        """Adds the policy that the station's nginx has too."""
        self.send_header("Content-Security-Policy", _POLICY)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Says nothing: the terminal shows the demo."""
