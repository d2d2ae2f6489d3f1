"""Whose certificate the client believes, and what it says of another one."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.replies import HANG
from rig.scripted import ScriptedServer
from rig.way import aborted, client
from unisat_agent.delivery.kinto import TransportError


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        path = tmp_path / "server.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=hub"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", str(path), "-out", str(tmp_path / "ca.pem")),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
        with path.open("a") as file:
            file.write((tmp_path / "ca.pem").read_text())
        return path

    @pytest.fixture
    def secure(self, certificate: Path) -> Iterator[ScriptedServer]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with ScriptedServer(tls=context) as server:
            yield server

    def test_certificate_is_checked(self, secure: ScriptedServer) -> None:
        with client(secure.url) as made, pytest.raises(TransportError) as caught:
            made.request("GET", "/")
        assert "certificate is not trusted" in str(caught.value)
        assert "set ca_file, or check the clock of this host" in str(caught.value)

    def test_own_authority(self, secure: ScriptedServer, certificate: Path) -> None:
        with client(secure.url, ca_file=certificate.with_name("ca.pem")) as made:
            assert made.request("GET", "/").status == 200
            server_side = secure.requests
            assert len(server_side) == 1

    def test_request_is_aborted(self, secure: ScriptedServer, certificate: Path) -> None:
        ca_file = certificate.with_name("ca.pem")
        with client(secure.url, ca_file=ca_file, read_timeout_s=60.0) as made:
            secure.then(HANG)
            assert len(aborted(made, lambda: secure.requests)) == 1

    def test_authority_that_is_none(self, secure: ScriptedServer, tmp_path: Path) -> None:
        (tmp_path / "no.pem").write_text("no certificate")
        with (
            client(secure.url, ca_file=tmp_path / "no.pem") as made,
            pytest.raises(TransportError, match=r"ca_file .*no\.pem holds no certificate"),
        ):
            made.request("GET", "/")
