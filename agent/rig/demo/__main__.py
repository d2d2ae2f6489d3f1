"""The command `make demo`."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from kinto_http import KintoException

from rig.demo.alone import lock_path, only_demo
from rig.demo.ending import DemoError, RefusedError, StoppedError, Stopper
from rig.demo.play import Demo
from rig.demo.screen import Screen
from rig.kinto import KintoError

_STOPPED: Final = 130


def _port(text: str) -> int:
    if not text.isdecimal() or not 1024 <= int(text) <= 65531:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1024 to 65531")
    return int(text)


def _complain(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"demo: {text}\n")


def _run(options: argparse.Namespace, screen: Screen, stopper: Stopper, stack: ExitStack) -> int:
    """Sets up, plays and judges; what it started is ended with the stack."""
    note = stack.enter_context(only_demo(lock_path()))
    directory = Path(tempfile.mkdtemp(prefix="unisat-demo-"))
    logs = stack.enter_context(ExitStack())
    logs.callback(shutil.rmtree, directory, ignore_errors=True)
    with ExitStack() as parts:
        parts.callback(screen.release)
        try:
            demo = Demo(
                directory,
                parts,
                note,
                screen=screen,
                stopper=stopper,
                first_port=options.port,
                buttons=options.forever,
            )
            demo.begin()
            if options.forever:
                screen.say(demo.where_to_look())
                demo.go_on()
            if demo.page_url:
                screen.say(f"page  {demo.page_url}")
            verdict = demo.play()
        except (DemoError, KintoError, KintoException, OSError) as error:
            if isinstance(error, RefusedError):
                raise
            logs.pop_all()
            raise DemoError(f"{error}\nthe logs are in {directory}") from error
        finally:
            stopper.ignore()
    print(verdict, flush=True)
    if verdict.good:
        return 0
    logs.pop_all()
    _complain(f"{verdict.reason()}\nthe journal and the logs are in {directory}")
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo; the exit codes are in the module's text."""
    parser = argparse.ArgumentParser(
        prog="make demo", description="The whole telemetry path with a simulated satellite."
    )
    parser.add_argument(
        "--forever", action="store_true", help="no script: buttons for faults, until Ctrl-C"
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=0,
        help="local Kinto, hub, agent, page and fault buttons get this port and the next 4 "
        "(default: free ones)",
    )
    options = parser.parse_args(arguments)
    stopper = Stopper()
    stopper.install()
    screen = Screen()
    try:
        with ExitStack() as stack:
            return _run(options, screen, stopper, stack)
    except StoppedError:
        print("stopped", flush=True)
        return _STOPPED
    except RefusedError as error:
        _complain(str(error))
        return 2
    except (DemoError, OSError) as error:
        _complain(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
