"""The runner of pi-gen's stages and the assembler, on a tree of one shell."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

IMAGE = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a chroot needs root")

# A root file system that has bash, cat and sleep, with the libraries that they name.
BOOTSTRAP = """#!/bin/bash -e
mkdir -p "$ROOTFS_DIR"/{proc,sys,dev/pts,run,tmp,boot/firmware,usr/bin,usr/lib,usr/lib64}
for folder in bin lib lib64; do ln -s "usr/$folder" "$ROOTFS_DIR/$folder"; done
for file in /bin/{bash,cat,sleep} $(ldd /bin/{bash,cat,sleep} | grep -o '/lib[^ ]*' | sort -u); do
    mkdir -p "$ROOTFS_DIR/usr${file%/*}"
    cp -L "$file" "$ROOTFS_DIR/usr$file"
done
"""


def script(path: Path, text: str) -> None:
    """Writes a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    """Two stages, of which the second names one more input."""
    script(tmp_path / "one/prerun.sh", BOOTSTRAP)
    (tmp_path / "one/00-a").mkdir()
    (tmp_path / "one/00-a/00-run-chroot.sh").write_text("echo in the chroot >/made\n")
    script(tmp_path / "two/prerun.sh", "#!/bin/bash -e\ncopy_previous\n")
    copy = 'cat "$ROOTFS_DIR/made" file >"$ROOTFS_DIR/boot/firmware/cmdline.txt"'
    script(tmp_path / "two/00-b/00-run.sh", f"#!/bin/bash -e\n{copy}\n")
    (tmp_path / "two/00-b/file").write_text("beside it\n")
    script(tmp_path / "two/01-c/00-run.sh", "#!/bin/bash\necho no such luck\nexit 3\n")
    (tmp_path / "two/01-c/SKIP").touch()
    (tmp_path / "two/INPUTS").write_text("inputs\n")
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs/agent").write_text("1")
    return tmp_path


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs the two stages, and sees that nothing is left mounted."""
    environment = os.environ | {
        "WORK_DIR": str(folder / "work"),
        "STAGE_CACHE": str(folder / "kept"),
    }
    command = [str(IMAGE / "run-stages"), *options, "one", "two"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert str(folder) not in Path("/proc/mounts").read_text()
    return done


def test_stages_make_a_tree_and_the_tree_an_image(stages: Path) -> None:
    done = run(stages)
    assert done.returncode == 0, done.stderr
    tree = Path(done.stdout.strip())
    assert (tree / "boot/firmware/cmdline.txt").read_text() == "in the chroot\nbeside it\n"

    image = stages / "card.img"
    subprocess.run([str(IMAGE / "assemble"), str(tree), str(image)], check=True)
    drive = f"{image}@@8M"
    read = subprocess.run(
        ["mtype", "-i", drive, "::cmdline.txt"], capture_output=True, text=True, check=True
    )
    assert read.stdout.replace("\r", "") == "in the chroot\nbeside it\n"
    assert (tree / "boot/firmware/cmdline.txt").exists(), "the boot files are put back"


def test_a_stage_is_run_again_only_when_its_own_input_changed(stages: Path) -> None:
    assert run(stages).returncode == 0
    assert "stage two: as it was kept" in run(stages).stderr
    (stages / "inputs/agent").write_text("2")
    again = run(stages).stderr
    assert "stage one: as it was kept" in again
    assert "two/00-b/00-run.sh" in again


def test_the_hash_names_all_that_goes_in_and_runs_nothing(stages: Path) -> None:
    before = run(stages, "--hash").stdout
    assert len(before.strip()) == 12
    assert not (stages / "work").exists()
    (stages / "inputs/agent").touch()
    assert run(stages, "--hash").stdout == before
    (stages / "inputs/agent").write_text("2")
    assert run(stages, "--hash").stdout != before


def test_a_variable_that_goes_in_is_a_part_of_the_hash(
    stages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stages / "two/INPUTS").write_text("inputs\n$KEYS\n")
    hashes = [run(stages, "--hash").stdout]
    for keys in ("RW1", "RW2"):
        monkeypatch.setenv("KEYS", keys)
        hashes.append(run(stages, "--hash").stdout)
    assert len(set(hashes)) == 3


def test_a_failed_step_is_named_with_what_it_said(stages: Path) -> None:
    (stages / "two/01-c/SKIP").unlink()
    done = run(stages)
    assert done.returncode != 0
    assert "FAILED: two/01-c/00-run.sh" in done.stderr
    assert "no such luck" in done.stderr


def test_a_process_left_in_the_tree_is_named(stages: Path) -> None:
    (stages / "one/00-a/01-run-chroot.sh").write_text("sleep 60 &\n")
    done = run(stages)
    assert done.returncode != 0
    left = re.search(r"sleep \((\d+)\)", done.stderr)
    assert left is not None
    assert not Path("/proc", left[1]).exists(), "what is left is ended"
