"""`make release`, of an image small enough to be made here."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PYTHON = PROJECT / ".venv/release/bin/python"
LOCKED = dict(
    re.findall(
        r"^([\w.-]+)==(\S+)", (PROJECT / "agent/requirements.lock").read_text(), re.MULTILINE
    )
)
BOOT_SECTORS, ROOT_SECTORS = 2048, 32768
STATUS = """\
Package: base-files
Status: install ok installed
Maintainer: Santiago Vila <sanvila@debian.org>
Architecture: arm64
Version: 13.8+deb13u1
Description: Debian base system miscellaneous files
 Two lines.

Package: gone
Status: deinstall ok config-files
Architecture: arm64
Version: 1

Package: libpq5
Status: install ok installed
Architecture: arm64
Source: postgresql-17 (17.6-0+deb13u1)
Version: 17.6-0+deb13u1+b1
"""


def metadata(name: str, version: str, terms: str = "MIT") -> str:
    fields = ("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}")
    return "\n".join([*fields, f"License-Expression: {terms}", "", "Text", ""])


def layer(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


def write_container(path: Path) -> None:
    below = {
        "var/lib/dpkg/status": STATUS,
        "opt/kinto/kinto-26.5.0.dist-info/METADATA": metadata("Kinto", "26.5.0", "LicenseRef-Own"),
        "opt/kinto/pip-1.0.dist-info/METADATA": metadata("pip", "1.0"),
    }
    above = {"opt/kinto/.wh.pip-1.0.dist-info": ""}
    manifest = [{"RepoTags": ["unisat-kinto:abc"], "Layers": ["1/layer.tar", "2/layer.tar"]}]
    with tarfile.open(path, "w:gz") as archive:
        contents = (("1/layer.tar", layer(below)), ("2/layer.tar", layer(above)))
        for name, data in (*contents, ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_image(path: Path, root: Path) -> None:
    """An MBR, 1 MiB of FAT, and an ext4 file system with what is in the folder `root`."""
    boot, system = path.with_suffix(".boot"), path.with_suffix(".root")
    for part, sectors in ((boot, BOOT_SECTORS), (system, ROOT_SECTORS)):
        with part.open("wb") as file:
            file.truncate(sectors * 512)
    subprocess.run(["mkfs.vfat", boot], check=True, capture_output=True)
    subprocess.run(["mkfs.ext4", "-q", "-d", root, system], check=True, capture_output=True)
    with path.open("wb") as file:
        file.truncate((2048 + BOOT_SECTORS + ROOT_SECTORS) * 512)
    table = f"label: dos\n2048,{BOOT_SECTORS},c\n{2048 + BOOT_SECTORS},{ROOT_SECTORS},83\n"
    subprocess.run(["sfdisk", "-q", path], input=table.encode(), check=True, capture_output=True)
    with path.open("r+b") as file:
        for part, start in ((boot, 2048), (system, 2048 + BOOT_SECTORS)):
            file.seek(start * 512)
            file.write(part.read_bytes())


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the root file system of a station, as far as a release looks."""
    root = tmp_path_factory.mktemp("root")
    write(
        root / "usr/lib/os-release", 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13"\n'
    )
    write(root / "var/lib/dpkg/status", STATUS)
    packages = root / "opt/unisat-agent/releases/abc/lib/python3.13/site-packages"
    for name, version in (("unisat-agent", "0.1.0"), ("pyserial", LOCKED["pyserial"])):
        write(packages / f"{name}-{version}.dist-info/METADATA", metadata(name, version))
    (root / "var/lib/unisat-kinto").mkdir()
    write_container(root / "var/lib/unisat-kinto/image.tar.gz")
    return root


@pytest.fixture(scope="session")
def small(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small image."""
    path = tmp_path_factory.mktemp("image") / "unisat-debian.img"
    make_image(path, root)
    return path


def release(image: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = (PYTHON, PROJECT / "image/release", "--image", image, "--out", out)
    command = [*map(str, paths), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def only(folder: Path, ending: str) -> Path:
    (found,) = folder.glob(f"*{ending}")
    return found


@pytest.fixture(scope="session")
def released(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a release without a signature."""
    out = tmp_path_factory.mktemp("release")
    done = release(small, out, "--url", "https://example.org/unisat/")
    assert done.returncode == 0, done.stderr
    assert "NOT SIGNED" in done.stdout
    return out


def test_what_is_unpacked_is_the_image(small: Path, released: Path) -> None:
    with lzma.open(only(released, ".img.xz")) as file:
        assert file.read() == small.read_bytes()
    map_text = only(released, ".img.bmap").read_text()
    assert 'version="2.0"' in map_text
    mapped = int(re.findall(r"<MappedBlocksCount>\s*(\d+)", map_text)[0])
    assert 0 < mapped < small.stat().st_size // 4096


def test_the_sums_cover_all_files(released: Path) -> None:
    sums = only(released, ".sha256")
    subprocess.run(["sha256sum", "--check", "--quiet", str(sums)], cwd=released, check=True)
    named = {line.split("  ")[1] for line in sums.read_text().splitlines()}
    assert named == {file.name for file in released.iterdir()} - {sums.name}


def test_the_list_names_system_agent_and_container(released: Path) -> None:
    listed = json.loads(only(released, ".spdx.json").read_text())
    parents = {one["relatedSpdxElement"]: one["spdxElementId"] for one in listed["relationships"]}
    urls: dict[str, set[str]] = {}
    for package in listed["packages"]:
        for url in package.get("externalRefs", []):
            urls.setdefault(parents[package["SPDXID"]], set()).add(url["referenceLocator"])
    debian = {
        "pkg:deb/debian/base-files@13.8%2Bdeb13u1?arch=arm64&distro=debian-13",
        "pkg:deb/debian/libpq5@17.6-0%2Bdeb13u1%2Bb1?arch=arm64&distro=debian-13",
    }
    assert urls == {
        "SPDXRef-image": debian
        | {"pkg:pypi/unisat-agent@0.1.0", f"pkg:pypi/pyserial@{LOCKED['pyserial']}"},
        "SPDXRef-container": debian | {"pkg:pypi/kinto@26.5.0"},
    }
    assert parents["SPDXRef-container"] == "SPDXRef-image"


def test_the_manifest_tells_imager_what_it_needs(small: Path, released: Path) -> None:
    manifest = json.loads(only(released, ".rpi-imager-manifest").read_text())
    (system,) = manifest["os_list"]
    packed = only(released, ".img.xz")
    assert system["url"] == f"https://example.org/unisat/{packed.name}"
    assert (released / system["icon"].rpartition("/")[2]).is_file()
    assert system["extract_size"] == small.stat().st_size
    assert system["extract_sha256"] == hashlib.sha256(small.read_bytes()).hexdigest()
    assert system["image_download_size"] == packed.stat().st_size
    assert system["image_download_sha256"] == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert system["init_format"] == "cloudinit"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", system["release_date"])
    tags = {tag for device in manifest["imager"]["devices"] for tag in device["tags"]}
    assert set(system["devices"]) == tags == {"pi3-64bit", "pi4-64bit"}


def test_the_notes_say_what_hardware_has_to_prove(released: Path) -> None:
    notes = only(released, ".md").read_text()
    assert "- The plug" in notes
    assert "- Wi-Fi" in notes
    assert "It is not signed" in notes
    assert "| kinto | 26.5.0 |" in notes


def test_the_same_image_gives_the_same_files(small: Path, released: Path, tmp_path: Path) -> None:
    assert release(small, tmp_path, "--url", "https://example.org/unisat").returncode == 0
    for file in released.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_signature_by_minisign(small: Path, tmp_path: Path) -> None:
    key, public = tmp_path / "key", tmp_path / "key.pub"
    subprocess.run(
        ["minisign", "-G", "-W", "-s", key, "-p", public], check=True, capture_output=True
    )
    out = tmp_path / "out"
    done = release(small, out, "--key", str(key))
    assert done.returncode == 0, done.stderr
    assert "NOT SIGNED" not in done.stdout
    verify = ["minisign", "-V", "-p", str(public), "-m", str(only(out, ".sha256"))]
    subprocess.run(verify, check=True, capture_output=True)


def test_a_signature_by_gpg(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path("/tmp") / f"unisat-{tmp_path.name}-{id(tmp_path)}"  # noqa: S108 - its sockets need a short path
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    try:
        make = ["gpg", "--batch", "--passphrase", "", "--quick-gen-key", "keeper@example.org"]
        subprocess.run(make, check=True, capture_output=True)
        done = release(small, tmp_path, "--key", "keeper@example.org")
        assert done.returncode == 0, done.stderr
        verify = ["gpg", "--verify", str(only(tmp_path, ".asc")), str(only(tmp_path, ".sha256"))]
        subprocess.run(verify, check=True, capture_output=True)
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False)
        shutil.rmtree(home)


def refused(done: subprocess.CompletedProcess[str], out: Path) -> str:
    """The one line that a refusal is."""
    assert done.returncode == 1, done.stdout
    assert not out.exists() or not list(out.iterdir())
    (line,) = done.stderr.splitlines()
    return line


def test_no_image(tmp_path: Path) -> None:
    line = refused(release(tmp_path / "none.img", tmp_path / "out"), tmp_path / "out")
    assert "there is no image" in line
    assert "build it first" in line


def test_no_partition_table(tmp_path: Path) -> None:
    (tmp_path / "bad.img").write_bytes(bytes(4096))
    line = refused(release(tmp_path / "bad.img", tmp_path / "out"), tmp_path / "out")
    assert "no partition table" in line


@pytest.mark.parametrize("key", ["/no/such/key", "nobody@example.org"])
def test_no_key(small: Path, tmp_path: Path, key: str) -> None:
    line = refused(release(small, tmp_path / "out", "--key", key), tmp_path / "out")
    assert f"there is no key {key}" in line


def test_no_space(small: Path, tmp_path: Path) -> None:
    program = PROJECT / "image/release"
    script = (
        "import runpy, shutil, sys; from collections import namedtuple;"
        f"sys.path.insert(0, {str(program.parent)!r});"
        "shutil.disk_usage = lambda _: namedtuple('U', 'free')(1 << 20);"
        f"sys.argv = ['release', '--image', {str(small)!r}, '--out', {str(tmp_path / 'out')!r}];"
        f"runpy.run_path({str(program)!r}, run_name='__main__')"
    )
    done = subprocess.run([PYTHON, "-c", script], check=False, capture_output=True, text=True)
    assert "no space" in refused(done, tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("var/lib/dpkg/status", "", "no record of its Debian packages"),
        ("var/lib/unisat-kinto/image.tar.gz", "no archive", "cannot be read"),
        ("usr/lib/os-release", "", "which Debian"),
        (
            "opt/unisat-agent/releases/abc/lib/python3.13/site-packages/idna-0.1.dist-info/METADATA",
            metadata("idna", "0.1"),
            "not of this tree",
        ),
    ],
)
def test_an_image_that_is_no_station(
    root: Path, tmp_path: Path, path: str, text: str, said: str
) -> None:
    copy = tmp_path / "root"
    shutil.copytree(root, copy)
    write(copy / path, text)
    make_image(tmp_path / "other.img", copy)
    line = refused(release(tmp_path / "other.img", tmp_path / "out"), tmp_path / "out")
    assert said in line
