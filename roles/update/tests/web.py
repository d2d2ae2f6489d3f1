"""A hub's web server for updates: the real nginx with the role's own location, over HTTPS.

The certificates are of an authority of its own, as role hub makes them.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jinja2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pretend import ARCH, contents, manifest_of, sign

REPOSITORY = Path(__file__).resolve().parents[3]
DAY = datetime.timedelta(days=1)
NGINX = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    default_type application/json;
    log_format asked '$status $uri $body_bytes_sent $sent_http_cache_control';
    access_log {folder}/access.log asked;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    limit_rate {rate};
    ssl_certificate {folder}/server.pem;
    ssl_certificate_key {folder}/server.key;
    server {{
        listen 127.0.0.1:{port} ssl;
        # What would ask Kinto is not there: a location that needed it would fail.
        auth_request /_login;
        location @missing {{ return 404 '{{"code":404}}'; }}
        location @too_many {{ return 429; }}
        location / {{ return 502; }}
        {location}
    }}
}}
"""


class Authority:
    """An authority and what it signs; files are PEM."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._builder(self._name, self._key, -DAY, 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def _builder(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begin: datetime.timedelta,
        end: datetime.timedelta,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
        )

    def write(self, to: Path, *, revoked: x509.Certificate | None = None) -> Path:
        """Writes its certificate, and the list of what it revoked."""
        text = self.certificate.public_bytes(serialization.Encoding.PEM)
        if revoked is not None:
            now = datetime.datetime.now(datetime.UTC)
            entry = (
                x509.RevokedCertificateBuilder()
                .serial_number(revoked.serial_number)
                .revocation_date(now)
                .build()
            )
            listed = (
                x509.CertificateRevocationListBuilder()
                .issuer_name(self._name)
                .last_update(now - DAY)
                .next_update(now + DAY)
                .add_revoked_certificate(entry)
                .sign(self._key, hashes.SHA256())
            )
            text += listed.public_bytes(serialization.Encoding.PEM)
        to.write_bytes(text)
        return to

    def issue(
        self,
        folder: Path,
        *,
        name: str = "localhost",
        begin: datetime.timedelta = -DAY,
        end: datetime.timedelta = DAY,
    ) -> x509.Certificate:
        """Writes a server's certificate and key to server.pem and server.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(subject, key, begin, end)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        (folder / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / "server.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate


class Server:
    """nginx with a folder of updates; `rate` is in bytes a second, 0 for all that it can."""

    def __init__(self, folder: Path, port: int, ca: Path) -> None:
        self.folder, self.port, self.ca = folder, port, ca
        self.updates = folder / "updates"
        (self.updates / "parts").mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, rate: int = 0) -> None:
        """Starts it; it answers when this returns."""
        template = REPOSITORY / "roles/hub/templates/updates.conf.j2"
        location = jinja2.Template(template.read_text()).render(__hub_web_root=self.folder)
        conf = self.folder / "nginx.conf"
        conf.write_text(
            NGINX.format(folder=self.folder, port=self.port, rate=rate, location=location)
        )
        command = ["nginx", "-c", str(conf), "-e", str(self.folder / "nginx.log")]
        environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"}
        listed = self.folder / "nginx.pid"
        listed.unlink(missing_ok=True)
        self._process = subprocess.Popen(command, env=environment, start_new_session=True)
        # It writes this file when it listens.
        while not listed.exists():
            assert self._process.poll() is None, (self.folder / "nginx.log").read_text()
            time.sleep(0.01)

    def cut(self) -> None:
        """Ends it at once, in the middle of what it sends."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def asked(self) -> list[list[str]]:
        """Status, path, bytes of the body and Cache-Control of each request that ended."""
        log = self.folder / "access.log"
        return [line.split(" ", 3) for line in log.read_text().splitlines()]

    def get(self, path: str) -> bytes:
        """What a file is, as a browser asks for it."""
        context = ssl.create_default_context(cafile=str(self.ca))
        url = f"https://localhost:{self.port}/updates/{path}"
        with urllib.request.urlopen(url, context=context, timeout=60) as answer:
            return bytes(answer.read())

    def publish(self, key: Path, serial: int, percent: int = 100, ballast: bytes = b"") -> None:
        """Puts a version there, and offers it as `image/update` does."""
        parts = contents(serial, ballast=ballast)
        for part in parts.values():
            (self.updates / "parts" / hashlib.sha256(part).hexdigest()).write_bytes(part)
        manifest = manifest_of(parts, serial)
        name = f"{serial}.0-{ARCH}.json"
        (self.updates / name).write_bytes(manifest)
        (self.updates / f"{name}.minisig").write_bytes(sign(manifest, key))
        stable = {"version": f"{serial}.0", "serial": serial, "manifests": {ARCH: name}}
        (self.updates / "stable.json").write_text(json.dumps(stable))
        out = self.folder / "out"
        out.mkdir(exist_ok=True)
        if not (out / "web").exists():
            (out / "web").symlink_to(self.updates)
        command = [sys.executable, str(REPOSITORY / "image/update"), "--offer", "--out", str(out)]
        command += ["--percent", str(percent), "--key", str(key.with_suffix(".key"))]
        subprocess.run(command, check=True, capture_output=True)
