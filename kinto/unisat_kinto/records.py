"""Rules for records that are written by Kinto's own endpoints."""

from __future__ import annotations

from typing import Any

from kinto.core.errors import ERRORS, http_error
from kinto.core.resource.model import Model
from kinto.views.records import Record
from pyramid.httpexceptions import HTTPBadRequest


class RecordModel(Model):
    """A record has no permissions of its own: those of its collection hold.

    In stock Kinto whoever creates a record may rewrite and delete it ever after, and may hand that
    right on in the request that creates it. A station must not be able to change history.
    """

    def create_object(self, obj: dict[str, Any], parent_id: str | None = None) -> dict[str, Any]:
        """Stores a record that brings no permissions."""
        self._refuse_permissions(obj)
        return dict(super().create_object(obj, parent_id))

    def update_object(self, obj: dict[str, Any], parent_id: str | None = None) -> dict[str, Any]:
        """Writes a record over that brings no permissions."""
        self._refuse_permissions(obj)
        return dict(super().update_object(obj, parent_id))

    def _allow_write(self, perm_object_id: str) -> None:
        """Gives no permission to whoever writes."""

    def _refuse_permissions(self, obj: dict[str, Any]) -> None:
        if any((obj.get(self.permissions_field) or {}).values()):
            raise http_error(
                HTTPBadRequest(),
                errno=ERRORS.INVALID_PARAMETERS,
                message="A record has no permissions of its own: give them on its collection.",
            )


def keep_permissions_on_collections() -> None:
    """Makes Kinto's record endpoints use that model."""
    Record.default_model = RecordModel
