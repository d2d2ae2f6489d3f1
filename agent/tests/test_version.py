"""The version that is shown names the release that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from unisat_agent import __version__
from unisat_agent.version import describe, release_id, running_version


def test_installed_release_is_the_name_of_its_folder() -> None:
    assert release_id(Path("/opt/unisat-agent/releases/3f9c0a1b22de")) == "3f9c0a1b22de"
    assert release_id(Path("/usr")) is None


def test_checkout_is_described(tmp_path: Path) -> None:
    package = tmp_path / "src" / "unisat_agent"
    package.mkdir(parents=True)
    assert describe(package) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert describe(package) is None, "without a commit there is nothing to say"
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, "tag", "-a", "v1.2", "-m", "x"], check=True)
    assert describe(package) == "v1.2"


def test_begins_with_the_version() -> None:
    assert running_version().startswith(__version__)
