"""The command `unisat-data`."""

from __future__ import annotations

import argparse
import csv
import getpass
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from unisat_data.download import FORMATS, download
from unisat_data.hub import Hub, HubError, check
from unisat_data.mqtt import DISCOVERY, broker, publish
from unisat_data.replay import ReplayError, replay

ADDRESS = "UNISAT_HUB"
PASSWORD = "UNISAT_PASSWORD"  # noqa: S105 - the name of a variable
BROKER_PASSWORD = "UNISAT_BROKER_PASSWORD"  # noqa: S105 - the same
EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 130


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = _parser().parse_args(words)
    try:
        # The only one that asks no hub.
        hub = None if arguments.run is _replay else _hub(arguments)
        return int(arguments.run(hub, arguments) or 0)
    except (HubError, ReplayError) as error:
        print(f"unisat-data: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except OSError as error:
        print(f"unisat-data: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("\nstopped: the same command goes on from here", file=sys.stderr)
        return EXIT_STOPPED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unisat-data",
        description="The data of a UniSat hub: as a file, or live on the terminal.",
        epilog=f"The hub's address may stand in {ADDRESS}, and the password in {PASSWORD}; "
        "without it, it is asked for.",
    )
    parser.add_argument("--hub", default=os.environ.get(ADDRESS), help="https://hub.example.org")
    parser.add_argument("--user", default="", help="the reader's account; none where all may read")
    parser.add_argument("--bucket", default="telemetry")
    parser.add_argument("--ca-file", type=Path, help="the certificate of the hub's own authority")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("devices", help="list the devices that the hub has")
    command.set_defaults(run=_devices)

    command = commands.add_parser("records", help="fetch a device's records into a file")
    _add_device(command)
    command.add_argument("--format", choices=FORMATS, default="csv")
    command.add_argument("--out", type=Path, help="the file; DEVICE.csv by default")
    command.set_defaults(run=_records)

    command = commands.add_parser("series", help="print minimum, mean and maximum over time as CSV")
    _add_device(command)
    command.add_argument("--fields", required=True, help="such as temperature,humidity")
    command.add_argument("--points", type=int, default=500, help="how many rows at most")
    command.set_defaults(run=_series)

    command = commands.add_parser("follow", help="print records as they come, one JSON a line")
    command.add_argument("devices", nargs="*", metavar="DEVICE", help="all by default")
    command.add_argument("--last-id", default="", help="go on behind this event")
    command.set_defaults(run=_follow)

    command = commands.add_parser(
        "mqtt",
        help="hand on records to an MQTT broker, as they come",
        epilog=f"The password of the broker's account stands in {BROKER_PASSWORD}.",
    )
    command.add_argument("devices", nargs="*", metavar="DEVICE", help="all by default")
    command.add_argument(
        "--broker", default="mqtt://localhost", help="mqtt://user@host:1883, or mqtts:// with TLS"
    )
    command.add_argument("--broker-ca-file", type=Path, help="of the broker's own authority")
    command.add_argument(
        "--discovery", default=DISCOVERY, metavar="PREFIX",
        help=f"Home Assistant's ({DISCOVERY}); empty: nothing is announced to it",
    )  # fmt: skip
    command.set_defaults(run=_mqtt)

    command = commands.add_parser("replay", help="make one HTML file of a file of records")
    command.add_argument("file", type=Path, help="what `records` wrote, as csv or jsonl")
    command.add_argument("--out", type=Path, help="the page; FILE.html by default")
    command.set_defaults(run=_replay)
    return parser


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument("device", help="its devID")
    command.add_argument("--from", dest="low", type=_time, metavar="TIME", help="2026-11-25T08:00")
    command.add_argument("--to", dest="high", type=_time, metavar="TIME", help="UTC, exclusive")


def _time(text: str) -> int:
    """Seconds UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text} is no time: write 2026-11-25 or 2026-11-25T08:00 (UTC)"
        ) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _hub(arguments: argparse.Namespace) -> Hub:
    if not arguments.hub:
        raise HubError(f"which hub? Give --hub https://hub.example.org, or set {ADDRESS}")
    url = check(arguments.hub)
    password = ""
    if arguments.user:
        password = os.environ.get(PASSWORD) or getpass.getpass(f"password of {arguments.user}: ")
    return Hub(url, arguments.user, password, arguments.bucket, arguments.ca_file)


def _devices(hub: Hub, _: argparse.Namespace) -> None:
    for device in hub.devices():
        print(device)


def _records(hub: Hub, arguments: argparse.Namespace) -> None:
    file = arguments.out or Path(f"{arguments.device}.{arguments.format}")
    shows = sys.stderr.isatty()

    def progress(count: int) -> None:
        if shows:
            print(f"\r{count} records", end="", file=sys.stderr, flush=True)

    account = download(
        hub, arguments.device, file, arguments.format, arguments.low, arguments.high, progress
    )
    if shows:
        print("\r", end="", file=sys.stderr)
    print(f"{file}: {account}")


def _replay(_: None, arguments: argparse.Namespace) -> None:
    page = arguments.out or arguments.file.with_suffix(".html")
    count = replay(arguments.file, page)
    print(f"{page}: {count} moments; it opens in any browser, without a network")


def _series(hub: Hub, arguments: argparse.Namespace) -> None:
    fields = arguments.fields.split(",")
    high = arguments.high or int(time.time())
    low = arguments.low if arguments.low is not None else high - 86_400
    answer = hub.series(arguments.device, fields, low, high, arguments.points)
    moments = [datetime.fromtimestamp(second, UTC).isoformat() for second in answer["time"]]
    table = csv.writer(sys.stdout)
    table.writerow(["time", "field", "min", "mean", "max", "count"])
    for name in fields:
        columns = [answer["fields"][name][key] for key in ("min", "mean", "max", "count")]
        for moment, *numbers in zip(moments, *columns, strict=True):
            if numbers[-1]:
                table.writerow([moment, name, *numbers])


def _follow(hub: Hub, arguments: argparse.Namespace) -> None:
    for _, event, record in hub.follow(arguments.devices, arguments.last_id):
        if event == "record":
            print(json.dumps(record), flush=True)


def _mqtt(hub: Hub, arguments: argparse.Namespace) -> None:
    password = os.environ.get(BROKER_PASSWORD, "")
    to = broker(arguments.broker, password, arguments.broker_ca_file)
    publish(hub, to, arguments.devices, arguments.discovery)


if __name__ == "__main__":
    sys.exit(main())
