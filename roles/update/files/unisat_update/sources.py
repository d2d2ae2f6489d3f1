"""Where bundles come from: one file, or a web server with the same parts singly."""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Protocol

from unisat_update.files import RefusedError
from unisat_update.manifest import DAMAGED, MANIFEST, MANIFEST_MAX, SIGNATURE, SIGNATURE_MAX, Part

CHUNK = 256 * 1024
TIMEOUT_S = 60
SUFFIX = ".update"
# A full disk is an OSError as well, and none of these.
LOST = (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException)


# What is wrong with a server's certificate, by OpenSSL's number (X509_V_ERR_…), and what to do.
_FOREIGN = "is of an authority that this station does not trust: run site.yml for it and the server"
_OTHER_NAME = "is for another name: correct the address, or give the server one for this name"
CERTIFICATES = {
    9: "is not valid yet: see that the clocks of the station and of the server are right",
    10: "has expired: renew it on the server",
    **dict.fromkeys((18, 19, 20, 21), _FOREIGN),
    23: "was revoked: give the server another one",
    **dict.fromkeys((62, 64), _OTHER_NAME),
}


class OfflineError(Exception):
    """The server can't be reached, or stopped in the middle; one sentence. Tried again later."""


class UntrustedError(OfflineError):
    """The server's certificate is not accepted: somebody has to do something about it."""


class Source(Protocol):
    """One bundle."""

    @property
    def name(self) -> str:
        """What a sentence calls it."""
        ...

    def manifest(self) -> tuple[bytes, bytes]:
        """The manifest's text and its signature.

        Raises:
            RefusedError: They are not there.
            OfflineError: The way there is interrupted.
        """
        ...

    def part(self, part: Part, to: Path) -> None:
        """Brings a part to a file; what is in the file already is its beginning.

        Raises:
            RefusedError: It is not there, or not whole.
            OfflineError: The way there is interrupted.
        """
        ...


class BundleFile:
    """A bundle as one file: a .tar with manifest and signature first."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @contextlib.contextmanager
    def _open(self) -> Iterator[tarfile.TarFile]:
        try:
            with tarfile.open(self.path, "r:") as tar:
                yield tar
        except (tarfile.TarError, EOFError, KeyError) as error:
            raise RefusedError(DAMAGED) from error
        except OSError as error:
            raise RefusedError(f"can't be read ({error.strerror}): copy it once more") from error

    def manifest(self) -> tuple[bytes, bytes]:
        """The first two files of the bundle."""
        with self._open() as tar:
            return (
                _first(tar, MANIFEST, MANIFEST_MAX),
                _first(tar, SIGNATURE, SIGNATURE_MAX),
            )

    def part(self, part: Part, to: Path) -> None:
        """Copies it out of the bundle."""
        with self._open() as tar, to.open("wb") as file:
            found = tar.extractfile(f"parts/{part.sha256}")
            if found is None:
                raise RefusedError(DAMAGED)
            _copy(found, file, part.size)


def _first(tar: tarfile.TarFile, name: str, limit: int) -> bytes:
    member = tar.next()
    if member is None or member.name != name or member.size > limit:
        raise RefusedError("is not an update of a UniSat station")
    file = tar.extractfile(member)
    text = file.read() if file else b""
    if len(text) != member.size:
        raise RefusedError(DAMAGED)
    return text


class WebBundle:
    """A bundle on a web server.

    Args:
        base: The address of the folder, with / at its end.
        path: Of the manifest, below it; its signature is beside it, the parts are in parts/.
        ca: The certificate of the authority that signed the server's, where that is no public one.
    """

    def __init__(self, base: str, path: str, ca: Path | None) -> None:
        self.base, self.path = base, path
        self.ca = ca

    @property
    def name(self) -> str:
        """The server's name, and what is asked of it."""
        return f"the update on {urllib.parse.urlsplit(self.base).hostname}"

    def manifest(self) -> tuple[bytes, bytes]:
        """Fetches both."""
        return (
            read(self.base + self.path, MANIFEST_MAX, self.ca),
            read(f"{self.base}{self.path}.minisig", SIGNATURE_MAX, self.ca),
        )

    def part(self, part: Part, to: Path) -> None:
        """Fetches what is missing of it."""
        have = to.stat().st_size if to.exists() else 0
        if have >= part.size:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        with ask(f"{self.base}parts/{part.sha256}", self.ca, headers) as answer:
            # A server that knows no ranges sends all of it.
            with to.open("ab" if answer.status == 206 else "wb") as file:
                try:
                    _copy(answer, file, part.size - file.tell())
                except LOST as error:
                    raise OfflineError(f"{self.name} stopped in the middle ({error})") from error
            if to.stat().st_size != part.size:
                raise OfflineError(f"{self.name} stopped in the middle")


def _copy(source: IO[bytes] | http.client.HTTPResponse, file: IO[bytes], size: int) -> None:
    """Copies so many bytes, or as many as there are, and puts them on the disk."""
    try:
        while size > 0 and (chunk := source.read(min(CHUNK, size))):
            file.write(chunk)
            size -= len(chunk)
    finally:
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def ask(
    url: str, ca: Path | None, headers: dict[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """An answer of 200 or 206.

    Raises:
        RefusedError: The server has no such file, or the address can't be used.
        OfflineError: No answer; UntrustedError where the certificate is why.
    """
    if not url.startswith(("https://", "http://")):
        raise RefusedError(f"can't be fetched: {url} does not begin with https://")
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    if context.cert_store_stats()["crl"]:
        # The authority's file may hold its list of revoked certificates as well.
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310 - checked above
    host = urllib.parse.urlsplit(url).hostname
    try:
        with urllib.request.urlopen(  # noqa: S310
            request, timeout=TIMEOUT_S, context=context
        ) as answer:
            yield answer
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in {404, 410}:
            raise RefusedError(f"is not complete on {host}: {url} is not there") from error
        raise OfflineError(f"{host} answers {error.code} to {url}") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            wrong = error.reason
            said = CERTIFICATES.get(wrong.verify_code, f"is not accepted: {wrong.verify_message}")
            raise UntrustedError(f"the certificate of {host} {said}") from error
        raise OfflineError(f"{host} can't be reached ({error.reason})") from error
    except LOST as error:
        raise OfflineError(f"{host} stopped in the middle ({error})") from error


def read(url: str, limit: int, ca: Path | None) -> bytes:
    """A short file of a server.

    Raises:
        RefusedError: It is not there, or longer than the limit.
        OfflineError: No answer.
    """
    with ask(url, ca) as answer:
        text = answer.read(limit + 1)
    if len(text) > limit:
        raise RefusedError("is not an update of a UniSat station")
    return text


def bundles(folder: Path) -> list[BundleFile]:
    """The bundles in a folder, by name."""
    found = (file for file in folder.iterdir() if not file.name.startswith("."))
    return [BundleFile(file) for file in sorted(found) if file.suffix == SUFFIX and file.is_file()]
