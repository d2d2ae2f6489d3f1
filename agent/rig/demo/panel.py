"""The demo's fault buttons: a page of plain HTML on loopback, for a class.

A button is a POST. It is obeyed only where it comes from this page: the Host must be an address of
loopback, and so must the Origin, so that a foreign web page in the same browser can't press it.
"""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Final

from rig.loopback import LoopbackServer, asks_for_loopback

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_STYLE: Final = """
body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 1rem auto; padding: 0 1rem;
  color-scheme: light dark; }
button { font: inherit; padding: 0.4rem 1rem; cursor: pointer; }
p { margin: 0.3rem 0 1.4rem; }
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that can be pressed.

    Attributes:
        name: In the address.
        title: On the button.
        look: What to look for on the station's page.
        begin: Brings it about.
        end: Takes it away.
    """

    name: str
    title: str
    look: str
    begin: Callable[[], None]
    end: Callable[[], None]


class Faults:
    """Those that can be pressed, and which are at work."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.all = tuple(faults)
        self._lock = threading.Lock()
        self._working: list[Fault] = []

    def press(self, name: str) -> None:
        """Brings a fault about; once more changes nothing.

        Raises:
            KeyError: There is none of this name.
        """
        fault = {fault.name: fault for fault in self.all}[name]
        with self._lock:
            if fault not in self._working:
                fault.begin()
                self._working.append(fault)

    def heal(self) -> None:
        """Takes away all that are at work."""
        with self._lock:
            while self._working:
                self._working[-1].end()
                self._working.pop()

    def working(self) -> list[str]:
        """The titles of those at work, in the order of pressing."""
        return [fault.title for fault in list(self._working)]


class Panel(LoopbackServer):
    """Serves the buttons; a context manager.

    Args:
        port: Where to listen on loopback; 0 takes a free port.
        faults: What the buttons do.
        page: The address of the station's page; empty where there is none.

    Raises:
        OSError: The port is taken.
    """

    def __init__(self, port: int, faults: Faults, page: str) -> None:
        super().__init__(port, partial(_Handler, faults, page))


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, faults: Faults, page: str, *arguments: object) -> None:
        self._faults = faults
        self._page = page
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """The page with the buttons."""
        if not asks_for_loopback(self.headers):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path == "/":
            self._send("text/html", self._html())
        elif self.path == "/style.css":
            self._send("text/css", _STYLE)
        elif self._button() is not None:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """A button was pressed."""
        press = self._button()
        if not asks_for_loopback(self.headers):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.headers.get("Origin") not in {None, f"http://{self.headers['Host']}"}:
            self.send_error(HTTPStatus.FORBIDDEN)
        elif press is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            press()
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Location", "/")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _button(self) -> Callable[[], None] | None:
        name = self.path.removeprefix("/")
        if name == "heal":
            return self._faults.heal
        if any(fault.name == name for fault in self._faults.all):
            return partial(self._faults.press, name)
        return None

    def _html(self) -> str:
        working = self._faults.working()
        page = f'<p><a href="{html.escape(self._page)}">The station\'s page</a></p>'
        buttons = "".join(
            f'<form method="post" action="/{fault.name}">'
            f"<button>{html.escape(fault.title)}</button>"
            f"{' <strong>at work</strong>' if fault.title in working else ''}</form>"
            f"<p>{html.escape(fault.look)}</p>"
            for fault in self._faults.all
        )
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width"><title>UniSat demo: faults</title>'
            '<link rel="stylesheet" href="/style.css">'
            f"<h1>Faults of the demo</h1>{page if self._page else ''}{buttons}"
            '<form method="post" action="/heal"><button>Heal</button></form>'
            "<p>Takes all faults away.</p></html>"
        )

    def _send(self, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def end_headers(self) -> None:
        """Adds a policy under which nothing but this page's style and forms works."""
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Says nothing: the terminal shows the demo."""
