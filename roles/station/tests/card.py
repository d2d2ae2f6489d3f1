"""A station below a folder, with its card, for the tests of unisat.toml."""

from __future__ import annotations

from pathlib import Path

from unisat_station.apply import apply

FILES = Path(__file__).parents[1] / "files"

TEMPLATE = (FILES / "unisat.toml").read_text(encoding="utf-8")
FULL = (
    TEMPLATE.replace('name = ""', 'name = "school-1"')
    .replace('url = ""', 'url = "https://hub.example.org"')
    .replace('password = ""', 'password = "geheim & 123" # mine')
    .replace('country = ""', 'country = "kz"')
    .replace('timezone = ""', 'timezone = "Asia/Almaty"')
)


def changed(old: str, new: str) -> str:
    """The template with one line changed."""
    assert f"\n{old}\n" in TEMPLATE
    return TEMPLATE.replace(f"\n{old}\n", f"\n{new}\n", 1)


class Machine:
    """A system below a folder, whose commands are noted."""

    def __init__(self, root: Path) -> None:
        self.root, self.commands = root, list[tuple[tuple[str, ...], str]]()
        self.notices: list[str] = []
        for folder in ("boot/firmware", "etc", "usr/share/zoneinfo/Asia", "usr/local/lib"):
            (root / folder).mkdir(parents=True)
        (root / "usr/share/zoneinfo/Asia/Almaty").touch()
        library = root / "usr/local/lib/unisat-station"
        library.mkdir()
        (library / "unisat.toml").write_text(TEMPLATE)
        (library / "agent.toml").write_text(
            '[station]\nname = "unisat"\ndevices = []\n[local]\nurl = "http://127.0.0.1:8888/v1"\n'
            'bucket = "telemetry"\n[[serial]]\nport = "auto"\n'
        )

    @property
    def card(self) -> Path:
        return self.root / "boot/firmware/unisat.toml"

    def run(self, *argv: str, given: str = "") -> str:
        self.commands.append((argv, given))
        return ""

    def notice(self, topic: str, lines: list[str]) -> None:
        assert topic == "settings"
        self.notices = lines

    def boot(self) -> list[str]:
        return apply(self.root, self.run, self.notice).lines

    def state(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in self.root.rglob("*")
            if path.is_file() and not path.is_symlink()
        }
