"""Shows what came of an update: on the screen, beside unisat.toml, to the agent, in the journal."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

from unisat_update.files import Layout
from unisat_update.state import GOOD, State

PROGRAM = "usr/local/sbin/unisat-station"
ERRORS = "unisat-errors.txt"
# How the lines of this program begin in a file that another one writes too.
BEGINNING = "Update: "


def tell(layout: Layout, state: State) -> None:
    """Shows a state everywhere; what can't be shown in one place is shown in the others."""
    print(state.said or "no update was installed yet", flush=True)  # noqa: T201 - for the journal
    document = {
        "phase": state.phase,
        "version": state.running.version,
        "serial": state.running.serial,
        "target": state.target.version,
        "said": state.said,
        "problem": state.is_problem,
    }
    run = layout.root / "run/unisat"
    with contextlib.suppress(OSError):
        _put(run / "update.json", json.dumps(document) + "\n")
    # What is good and over is no notice any more.
    lines = [state.said] if state.said and (state.is_problem or state.phase != GOOD) else []
    with contextlib.suppress(OSError):
        notice = run / "notices/update"
        before = notice.read_text(encoding="utf-8") if notice.exists() else ""
        text = "".join(f"{line}\n" for line in lines)
        if text:
            _put(notice, text)
        else:
            notice.unlink(missing_ok=True)
        if text != before:
            _on_screen(layout, state.said)
    with contextlib.suppress(OSError):
        beside_settings(layout.boot, lines)


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(text, encoding="utf-8")
    fresh.chmod(0o644)
    fresh.replace(path)


def _on_screen(layout: Layout, line: str) -> None:
    """Above the log-in prompt, and at once on the consoles."""
    program = layout.root / PROGRAM
    if program.exists():
        subprocess.run([str(program), "show"], check=False)
    elif layout.root == Path("/"):
        notice = layout.root / "run/unisat/notices/update"
        told = notice.read_text(encoding="utf-8").replace("\\", "\\\\") if notice.exists() else ""
        _put(layout.root / "run/issue.d/unisat-update.issue", told)
        subprocess.run(["agetty", "--reload"], check=False, capture_output=True)
    consoles = layout.root / "sys/class/tty/console/active"
    for name in consoles.read_text(encoding="utf-8").split() if consoles.exists() else []:
        # A console that nobody drains must not hold the update up.
        with contextlib.suppress(OSError):
            number = os.open(f"/dev/{name}", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                os.write(number, f"\r\nUniSat: {line}\r\n".encode())
            finally:
                os.close(number)


def beside_settings(boot: Path, lines: list[str]) -> None:
    """Puts the lines into unisat-errors.txt, in place of this program's own of before."""
    if not (boot / "unisat.toml").exists():
        return
    file = boot / ERRORS
    before = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    others = [line for line in before.splitlines() if line and not line.startswith(BEGINNING)]
    text = "".join(f"{line}\r\n" for line in [*others, *lines])
    if text.split() == before.split():
        return
    if not text:
        file.unlink(missing_ok=True)
        return
    fresh = file.with_name(f"{file.name}.new")
    with fresh.open("w", encoding="utf-8", newline="") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
