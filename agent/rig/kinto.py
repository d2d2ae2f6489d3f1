"""A real Kinto process on a free port, with its accounts and collections.

    with Kinto(directory, "hub") as hub:                       # memory backend
        hub.provision_hub("station", "secret", ["u01kz"])
        hub.client("station", "secret").get_records(bucket="telemetry", collection="u01kz")

    Kinto(directory, "local", storage_url="postgresql://…", memcached="127.0.0.1:11211")

`kill()`, `terminate()` and `restart()` are for the faults; the port stays the same. A Kinto on the
memory backend forgets everything when it ends. Its log is `log`, shown when it does not start.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import kinto_http

from rig import reserve_port
from rig.processes import Process

BUCKET = "telemetry"
_AGENT_FOLDER = Path(__file__).parent.parent
_PLUGIN_FOLDER = _AGENT_FOLDER.parent / "kinto"
# `python -m kinto` does nothing in Kinto 26: its __main__ only defines main().
_COMMAND = (sys.executable, "-c", "import sys; from kinto.__main__ import main; sys.exit(main())")
_START_S = 60.0
_REQUEST_S = 30.0

# Accounts are made by the administrator alone. Kinto's own template has account_create_principals
# = system.Everyone, with which anybody makes accounts: that is never used, not for a moment.
_SETTINGS = {
    "use": "egg:kinto",
    "kinto.includes": "kinto.plugins.default_bucket kinto.plugins.accounts",
    "multiauth.policies": "account",
    "multiauth.policy.account.use": (
        "kinto.plugins.accounts.authentication.AccountsAuthenticationPolicy"
    ),
    "kinto.account_create_principals": "account:admin",
    "kinto.account_write_principals": "account:admin",
    "kinto.bucket_create_principals": "account:admin",
}
_MEMORY = {
    "kinto.storage_backend": "kinto.core.storage.memory",
    "kinto.permission_backend": "kinto.core.permission.memory",
    "kinto.cache_backend": "kinto.core.cache.memory",
}
_LOGGING = """
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = plain
[logger_root]
level = WARNING
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = plain
[formatter_plain]
format = %(asctime)s %(levelname)s %(name)s %(message)s
"""


def local_permissions(user: str) -> dict[str, list[str]]:
    """What role kinto and the first boot give the agent on the bucket of its local Kinto."""
    return {
        "read": ["system.Everyone", f"account:{user}"],
        "collection:create": [f"account:{user}"],
    }


class KintoError(Exception):
    """Kinto can't be run; the text ends with the last lines of its log."""


class Kinto:
    """One Kinto process; started by `start` or as a context manager.

    Args:
        directory: Where its ini file and log go; made when it is not there.
        name: Names both files, and the instance in errors.
        storage_url: `postgresql://…`; None is the memory backend.
        memcached: `host:port` of the cache; needed with PostgreSQL.
        port: Where to listen; 0 takes a free port.
        settings: More lines for the ini file, such as `{"kinto.batch_max_requests": "10"}`.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        storage_url: str | None = None,
        memcached: str | None = None,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        # Never with a hyphen in front, which the command line would take for an option.
        self.admin_password = secrets.token_hex(16)
        self._ini = directory / f"{name}.ini"
        self._holder = reserve_port(port)
        self.port: int = self._holder.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._in_memory = storage_url is None
        self._settings = _SETTINGS | self._backend(storage_url, memcached) | dict(settings or {})
        self._settings.setdefault("kinto.userid_hmac_secret", secrets.token_hex(16))
        self._process: Process | None = None
        self._prepared = False
        directory.mkdir(parents=True, exist_ok=True)

    def _backend(self, storage_url: str | None, memcached: str | None) -> dict[str, str]:
        if storage_url is None:
            # A memory store lives inside the process, where `kinto create-user` can't reach it.
            # So the process makes the administrator itself, with the same function, before it
            # listens: see includeme() below. Nothing is left open.
            includes = f"{_SETTINGS['kinto.includes']} {__name__}"
            return _MEMORY | {
                "kinto.includes": includes,
                "unisat_rig.admin_password": self.admin_password,
            }
        if memcached is None:
            raise KintoError("a Kinto on PostgreSQL needs the address of a memcached")
        return {
            "kinto.storage_backend": "kinto.core.storage.postgresql",
            "kinto.storage_url": storage_url,
            "kinto.permission_backend": "kinto.core.permission.postgresql",
            "kinto.permission_url": storage_url,
            "kinto.cache_backend": "kinto.core.cache.memcached",
            "kinto.cache_hosts": memcached,
            # Two instances may share one memcached.
            "kinto.cache_prefix": f"{self.port}-",
        }

    @property
    def pid(self) -> int | None:
        """The process's id while it runs."""
        process = self._process
        return process.pid if process is not None and process.running() else None

    def start(self) -> None:
        """Starts the process and waits until its heartbeat is good.

        Raises:
            KintoError: When it is not, after 60 s or because the process ended.
        """
        if not self._prepared:
            self._write_ini()
            if not self._in_memory:
                self._run("migrate")
                self._run("create-user", "-u", "admin", "-p", self.admin_password)
            self._prepared = True
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Starts the process without waiting for it; `start` must have run once before."""
        self._process = Process(
            [*_COMMAND, "start", "--ini", str(self._ini), "--port", str(self.port)],
            self.log,
            environment=self._environment(),
            # A Ctrl-C at the terminal is for the rig, which ends its processes in order.
            own_session=True,
        )

    def wait_ready(self, timeout_s: float = _START_S) -> None:
        """Waits until `/v1/__heartbeat__` is 200.

        Raises:
            KintoError: When the process ended or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while not self.healthy():
            if self._process is None or not self._process.running():
                raise KintoError(f"Kinto '{self.name}' ended while it started:\n{self._log_tail()}")
            if time.monotonic() >= deadline:
                raise KintoError(
                    f"Kinto '{self.name}' is not ready after {timeout_s:.0f} s:\n{self._log_tail()}"
                )
            time.sleep(0.1)

    def healthy(self) -> bool:
        """Whether the heartbeat is 200 now."""
        try:
            with urllib.request.urlopen(f"{self.url}/__heartbeat__", timeout=5) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """Ends the process at once, as a power cut does."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """Ends the process in order."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP, if it runs: it accepts connections, and nothing answers."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on after `freeze`."""
        self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send(number)

    def restart(self) -> None:
        """Starts it again on the same port, after ending it if it still runs."""
        self.terminate()
        self.start()

    def close(self) -> None:
        """Ends the process and gives the port back."""
        self.terminate()
        self._holder.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self, with_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.end(with_signal, 10)

    def client(self, user: str = "admin", password: str | None = None) -> Any:
        """A kinto-http client for a user; for the administrator when none is given."""
        secret = self.admin_password if password is None else password
        return kinto_http.Client(
            server_url=self.url, auth=(user, secret), bucket=BUCKET, timeout=_REQUEST_S
        )

    def create_account(self, user: str, password: str) -> None:
        """Makes an account, or sets its password."""
        self.client().session.request("put", f"/accounts/{user}", data={"password": password})

    def provision_local(self, password: str, user: str = "agent", bucket: str = BUCKET) -> None:
        """What a publisher's local Kinto has: the agent makes its collections by itself."""
        self.create_account(user, password)
        admin = self.client()
        admin.create_bucket(id=bucket, if_not_exists=True)
        admin.patch_bucket(id=bucket, permissions=local_permissions(user))

    def provision_hub(
        self, publisher: str, password: str, dev_ids: Iterable[str], bucket: str = BUCKET
    ) -> None:
        """What a hub has for one publisher: it writes its devices' collections, nothing else."""
        self.create_account(publisher, password)
        admin = self.client()
        admin.create_bucket(id=bucket, if_not_exists=True)
        for dev_id in dev_ids:
            admin.create_collection(
                id=dev_id,
                bucket=bucket,
                permissions={"write": [f"account:{publisher}"]},
                if_not_exists=True,
            )

    def provision_reader(self, user: str, password: str, bucket: str = BUCKET) -> None:
        """An account that reads all the bucket's records; the bucket must be there."""
        self.create_account(user, password)
        self.client().patch_bucket(id=bucket, permissions={"read": [f"account:{user}"]})

    def _write_ini(self) -> None:
        server = {
            "use": "egg:waitress#main",
            "host": "127.0.0.1",
            "port": str(self.port),
            "threads": "4",
            # As on a hub, whose nginx keeps more than waitress's 100.
            "connection_limit": "1000",
        }
        text = "".join(
            f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())
            for section, lines in (("server:main", server), ("app:main", self._settings))
        )
        self._ini.touch(mode=0o600)
        # pserve reads a % as the start of a variable.
        self._ini.write_text(text.replace("%", "%%") + _LOGGING)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            [*_COMMAND, *arguments, "--ini", str(self._ini)],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={
                name: value
                for name, value in {**os.environ, **self._environment()}.items()
                if value is not None
            },
        )  # fmt: skip
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise KintoError(f"'kinto {arguments[0]}' for '{self.name}' failed:\n{said}")

    def _environment(self) -> dict[str, str | None]:
        # A KINTO_… variable of the caller's shell would override the ini file.
        return {
            **dict.fromkeys(name for name in os.environ if name.startswith("KINTO_")),
            "KINTO_INI": str(self._ini),
            "PYTHONPATH": f"{_AGENT_FOLDER}:{_PLUGIN_FOLDER}",
            "PYTHONWARNINGS": "ignore",
        }

    def _log_tail(self) -> str:
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
        return "(it wrote no log)"


def includeme(config: Any) -> None:
    """Makes the administrator in a memory Kinto; runs inside its process, as a Pyramid include."""
    create_user = config.maybe_dotted("kinto.plugins.accounts.scripts.create_user")

    def on_created(event: Any) -> None:
        registry = event.app.registry
        password = registry.settings["unisat_rig.admin_password"]
        create_user({"registry": registry}, username="admin", password=password)

    config.add_subscriber(on_created, "pyramid.events.ApplicationCreated")
