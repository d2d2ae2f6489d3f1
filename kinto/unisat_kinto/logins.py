"""Who sends a record, where that was asked of Kinto's policy before.

The policy asks memcached three times and PostgreSQL twice before a record is stored; with one
record in a request that costs more than all the rest. So it is remembered which account and which
hash of a password belong to an Authorization header, and `unisat_ingest_as()` looks, in the
transaction that stores, whether the account still has that hash and may add records there. Nothing
is believed that the database does not show at that moment; where it does not, the policy is asked
as ever.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass
from typing import Any

from kinto.core.storage.exceptions import ObjectNotFoundError
from kinto.plugins.accounts import ACCOUNT_POLICY_NAME
from pyramid.authentication import extract_http_basic_credentials
from pyramid.settings import aslist

from unisat_kinto.context import own_bucket
from unisat_kinto.passwords import MOST, Passwords, Recent


@dataclass(frozen=True)
class Login:
    """An account, and the hash of the password that was right.

    Attributes:
        own_bucket: What buckets/default stands for, where nothing is to be stored.
    """

    account: str
    hashed: str
    own_bucket: str

    def stands_for(self, request: Any) -> None:
        """Notes who asked, where Kinto's metrics and log look for it."""
        request.authn_type = ACCOUNT_POLICY_NAME
        request.selected_userid = self.account
        request.log_context(uid=self.account, authn_type=ACCOUNT_POLICY_NAME)


class Logins:
    """The logins that were right lately.

    Args:
        passwords: What knows which of them are right.
        most: How many are remembered.
    """

    def __init__(self, passwords: Passwords, most: int = MOST) -> None:
        self._passwords = passwords
        self._key = secrets.token_bytes(32)
        self._known: Recent[Login] = Recent(most)

    def find(self, request: Any) -> Login | None:
        """The login of a request, if it was right before."""
        login = self._known.get(self._seen(request))
        if login and request.matchdict["bucket_id"] == login.own_bucket:
            return None
        return login

    def learn(self, request: Any) -> None:
        """Remembers the login of a request that the policy let pass."""
        given = extract_http_basic_credentials(request)
        if given is None or request.prefixed_userid != f"{ACCOUNT_POLICY_NAME}:{given.username}":
            return
        name = given.username
        try:
            account = request.registry.storage.get(
                resource_name="account", parent_id=name, object_id=name
            )
        except ObjectNotFoundError:
            return
        hashed = account["password"]
        # Again: what the policy looked at may have been older than this.
        if self._passwords.checkpw(given.password.encode(), hashed.encode()):
            self._known.put(self._seen(request), Login(name, hashed, own_bucket(request)))

    def _seen(self, request: Any) -> bytes:
        header = request.environ.get("HTTP_AUTHORIZATION", "")
        return hmac.digest(self._key, header.encode("latin-1"), "sha256")


def decided_by_accounts_alone(settings: Any) -> bool:
    """Whether `unisat_ingest_as()` sees all that decides who may add a record.

    That is so on publishers and hubs. Elsewhere another policy may come first, and permissions may
    be in another database.
    """
    return bool(
        aslist(settings.get("multiauth.policies", "")) == [ACCOUNT_POLICY_NAME]
        and settings["permission_backend"] == "kinto.core.permission.postgresql"
        and settings["permission_url"] == settings["storage_url"]
    )
