"""What `check` tries of a Kinto: is it one, does it take the account, are there collections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unisat_agent.config.model import SinkSettings
from unisat_agent.config.rules import is_unencrypted
from unisat_agent.delivery.heartbeat import explain
from unisat_agent.delivery.kinto import KintoClient, TransportError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried."""

    ok: bool
    subject: str
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'} {self.subject}: {self.text}"


def try_sink(sink: SinkSettings, devices: list[str]) -> Iterator[Finding]:
    """Tries one Kinto, and the collections of these devices."""
    with KintoClient(sink) as client:
        try:
            yield from _kinto(client, devices)
        except TransportError as error:
            hint = "; sudo systemctl status unisat-kinto" if sink.name == "local" else ""
            yield Finding(False, sink.name, f"{error}{hint}")


def _kinto(client: KintoClient, devices: list[str]) -> Iterator[Finding]:
    sink = client.settings
    root = client.request("GET", "/")
    if root.status >= 500:
        down = explain(sink.name, client.request("GET", "/__heartbeat__"))
        yield Finding(False, sink.name, f"{sink.url}: {down or root.words()}")
        return
    if root.status not in {200, 401} or not isinstance(root.body, dict):
        yield Finding(False, sink.name, f"{sink.url}: is no Kinto ({root.words()})")
        return
    user = root.body.get("user")
    if root.status == 200 and "settings" not in root.body:
        yield Finding(False, sink.name, f"{sink.url}: is no Kinto (it tells no settings)")
        return
    if not isinstance(user, dict):
        yield Finding(
            False,
            sink.name,
            f"{sink.url} refuses the account {sink.user}: correct the user, or the password",
        )
        return
    yield Finding(True, sink.name, f"{sink.url} accepts {user.get('id')}")
    if (down := explain(sink.name, client.request("GET", "/__heartbeat__"))) is not None:
        yield Finding(False, sink.name, down)
    for dev_id in devices:
        yield _collection(client, dev_id)
    if sink.name == "hub" and is_unencrypted(sink.url):
        yield Finding(
            True, sink.name, "the password goes over the network unencrypted: prefer https://"
        )


def _collection(client: KintoClient, dev_id: str) -> Finding:
    sink = client.settings
    subject = f"{sink.name} {dev_id}"
    answer = client.request("GET", f"/buckets/{sink.bucket}/collections/{dev_id}")
    if answer.status == 200:
        return Finding(True, subject, "is there")
    if answer.status in {403, 404} and sink.name == "local":
        # The agent makes it.
        return Finding(True, subject, "will be made with the first record")
    return Finding(
        False,
        subject,
        f"the account {sink.user} has no access to {sink.bucket}/{dev_id} ({answer.words()}): "
        f"the operator of the server must grant it",
    )
