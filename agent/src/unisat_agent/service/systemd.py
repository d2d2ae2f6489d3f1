"""What systemd is told, and how its journal wants to be written to."""

from __future__ import annotations

import logging
import os
import socket

# A slow card needs a few seconds for what is done between two of these.
START_EXTENSION_S = 60

_log = logging.getLogger(__name__)


def notify(state: str) -> None:
    """Tells systemd (sd_notify(3)); nothing without $NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), address)
        except OSError as error:
            _log.debug("systemd was not told %s: %s", state, error)


def extend_start_timeout() -> None:
    """Asks systemd for another START_EXTENSION_S, for a start that makes progress."""
    notify(f"EXTEND_TIMEOUT_USEC={START_EXTENSION_S * 1_000_000}")


def configure_logging(verbose: bool, stream_to_journal: bool) -> None:
    """Logs to standard error; in a service with the levels that the journal understands."""
    handler = logging.StreamHandler()
    form = "%(levelname)s %(name)s: %(message)s"
    if stream_to_journal:
        handler.setFormatter(_JournalFormatter("%(threadName)s: %(message)s"))
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s {form}"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])


class _JournalFormatter(logging.Formatter):
    """Prefixes the syslog level, as sd-daemon(3) describes, one prefix a line."""

    _LEVELS = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))

    def format(self, record: logging.LogRecord) -> str:
        level = next(number for least, number in self._LEVELS if record.levelno >= least)
        return "\n".join(f"<{level}>{line}" for line in super().format(record).splitlines())
