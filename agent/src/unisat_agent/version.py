"""Which release runs, not only which version it calls itself."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

from unisat_agent import __version__

_GIT_TIMEOUT_S = 5.0


@cache
def running_version() -> str:
    """The version with the release's id after a plus sign, as "0.1.0+3f9c0a1b22de".

    The id is the name of the folder that the role installs a release into (`releases/ID`), or
    what `git describe` says of a checkout; without either it is the version alone.
    """
    release = release_id(Path(sys.prefix)) or describe(Path(__file__).parent)
    return f"{__version__}+{release}" if release else __version__


def release_id(prefix: Path) -> str | None:
    """The name of an installed release, from the path of its virtual environment."""
    return prefix.name if prefix.parent.name == "releases" else None


def describe(folder: Path) -> str | None:
    """The checkout that a folder belongs to; None where it belongs to none, or git is missing."""
    checkout = next((parent for parent in folder.parents if (parent / ".git").exists()), None)
    if checkout is None or "site-packages" in folder.parts:
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--dirty"],
            capture_output=True,
            check=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
