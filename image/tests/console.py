"""The serial console of a machine in QEMU."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from rig.wait import wait_until

_ESCAPES = re.compile(rb"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9])")


class Console:
    """The serial console: everything it says is kept, with the second it was said at."""

    def __init__(self, path: Path, log: Path) -> None:
        self.started = time.monotonic()
        self._log = log.open("ab")
        self._said = bytearray()
        self._marks: list[tuple[int, float]] = []
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        wait_until(lambda: self._connected(path), 30, "QEMU's console", 0.02)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _connected(self, path: Path) -> bool:
        self._socket.connect(str(path))
        return True

    def _read(self) -> None:
        while True:
            try:
                piece = self._socket.recv(65536)
            except OSError:
                piece = b""
            if not piece:
                self._log.close()
                return
            self._log.write(piece)
            self._log.flush()
            with self._lock:
                self._said += piece
                self._marks.append((len(self._said), time.monotonic() - self.started))

    def close(self) -> None:
        """Ends the connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join(5)
        self._socket.close()

    def send(self, text: str) -> None:
        """Types a text."""
        self._socket.sendall(text.encode())

    def position(self) -> int:
        """How much was said so far."""
        with self._lock:
            return len(self._said)

    def text(self, since: int = 0) -> str:
        """What was said, without the terminal's colours."""
        with self._lock:
            piece = bytes(self._said[since:])
        return _ESCAPES.sub(b"", piece).decode(errors="replace").replace("\r", "")

    def find(self, pattern: str, since: int = 0) -> re.Match[str] | None:
        """Looks for a pattern in what was said."""
        return re.search(pattern, self.text(since), re.MULTILINE)

    def seconds(self, pattern: str) -> float | None:
        """After how many seconds of power a pattern was first said."""
        with self._lock:
            found = re.search(pattern.encode(), bytes(self._said))
            if found is None:
                return None
            return next(at for end, at in self._marks if end >= found.end())
