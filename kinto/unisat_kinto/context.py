"""Who may use the plugin's endpoints: Kinto's own policy is asked, with Kinto's own permissions."""

from __future__ import annotations

import re
from typing import Any

from kinto.authorization import RouteFactory
from kinto.core.errors import ERRORS, http_error
from kinto.views import object_exists_or_404, raise_404_if_invalid_id
from pyramid.httpexceptions import HTTPForbidden


def own_bucket(request: Any) -> str:
    """What buckets/default stands for, where Kinto has that plugin."""
    known = request.prefixed_userid and "default_bucket" in request.registry.api_capabilities
    return str(request.default_bucket_id) if known else "default"


class RecordsContext(RouteFactory):
    """The records of a collection, as a whole."""

    resource_name = "record"
    on_plural_endpoint = True
    # Not None: a permission on single records is none on all of them.
    current_object: dict[str, Any] | None = {}  # noqa: RUF012 - never changed

    def __init__(self, request: Any) -> None:
        super().__init__(request)
        bucket, collection = request.matchdict["bucket_id"], request.matchdict["collection_id"]
        raise_404_if_invalid_id(request, "bucket", bucket)
        raise_404_if_invalid_id(request, "collection", collection)
        self._request = request
        self._bucket_uri = f"/buckets/{bucket}"
        self._collection = collection
        self.permission_object_id = f"{self._bucket_uri}/collections/{collection}/records"

    def check_permission(self, principals: list[str], bound_perms: list[Any] | None) -> bool:
        """As Kinto does; without permission, somebody who is logged in learns what is missing.

        Raises:
            HTTPNotFound: There is no such collection.
            HTTPForbidden: It is in buckets/default.
        """
        # Not earlier: only now it is known who asks.
        if self._bucket_uri == f"/buckets/{own_bucket(self._request)}":
            raise http_error(
                HTTPForbidden(),
                errno=ERRORS.FORBIDDEN,
                message="buckets/default has no telemetry: name the bucket.",
            )
        allowed = bool(super().check_permission(principals, bound_perms))
        if not allowed and self._request.prefixed_userid:
            object_exists_or_404(
                self._request, "collection", self._collection, parent_id=self._bucket_uri
            )
        return allowed


class CreateContext(RecordsContext):
    """For adding records."""

    required_permission = "create"


class ReadContext(RecordsContext):
    """For reading all records."""

    required_permission = "read"


class WriteContext(RecordsContext):
    """For changing and deleting records."""

    required_permission = "write"


class BucketReadContext(RouteFactory):
    """The collections of a bucket that somebody may read the records of."""

    resource_name = "collection"
    on_plural_endpoint = True
    required_permission = "read"

    def __init__(self, request: Any) -> None:
        super().__init__(request)
        bucket = request.matchdict["bucket_id"]
        raise_404_if_invalid_id(request, "bucket", bucket)
        self._request = request
        self._bucket = bucket
        self.permission_object_id = f"/buckets/{bucket}/collections"

    def check_permission(self, principals: list[str], bound_perms: list[Any] | None) -> bool:
        """As Kinto does, but nobody is let in who may only add something."""
        wanted = [(uri, name) for uri, name in bound_perms or [] if name in {"read", "write"}]
        return bool(wanted) and bool(super().check_permission(principals, wanted))

    def fetch_shared_objects(
        self,
        perm: str,  # noqa: ARG002 - Kinto's
        principals: list[str],
        get_bound_permissions: Any,  # noqa: ARG002 - Kinto's
    ) -> list[str]:
        """Collections with a permission of their own. One that lets only add shows nothing.

        Raises:
            HTTPNotFound: There is none, and no such bucket.
        """
        pattern = re.escape(f"{self.permission_object_id}/") + "*"
        wanted = [(pattern, "read"), (pattern, "write")]
        found = self._get_accessible_objects(principals, wanted, with_children=False)
        self.shared_ids = [uri.split("/")[-1] for uri in found]
        if not self.shared_ids and self._request.prefixed_userid:
            object_exists_or_404(self._request, "bucket", self._bucket)
        return list(self.shared_ids)
