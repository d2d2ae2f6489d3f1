"""`python -m unisat_stream`: the service as a process."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import urllib.request

from aiohttp import web

from unisat_stream.feed import RECHECK_S
from unisat_stream.server import application

# Kinto's own variable, so that both find the same database, and no process list shows it.
DATABASE = "KINTO_STORAGE_URL"


def main() -> int:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(prog="unisat_stream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8889)
    parser.add_argument("--kinto", default="http://127.0.0.1:8888/v1", help="Kinto's URL")
    parser.add_argument(
        "--recheck", type=float, default=RECHECK_S,
        help="seconds after which a reader whose right was taken away is cut off",
    )  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="only ask the one that runs whether it is well"
    )
    arguments = parser.parse_args()
    if arguments.check:
        return _check(arguments.host, arguments.port)
    database = os.environ.get(DATABASE)
    if not database:
        parser.error(f"{DATABASE} is not set: give the URL of Kinto's database")
    # Kinto's names SQLAlchemy's driver as well.
    database = re.sub(r"^postgresql\+\w+:", "postgresql:", database)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # A line for each stream would say who reads what.
    web.run_app(
        application(database, arguments.kinto, arguments.recheck),
        host=arguments.host, port=arguments.port, print=None, access_log=None,
        # Streams never end by themselves; that of a reader who left ends at once.
        shutdown_timeout=1.0,
        handler_cancellation=True,
    )  # fmt: skip
    return 0


def _check(host: str, port: int) -> int:
    """0 where a service answers that has read the database lately."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=5):
            return 0
    except OSError as error:
        print(f"the live stream does not answer: {error}", file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
