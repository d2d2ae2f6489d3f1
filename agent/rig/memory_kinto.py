"""A tiny Kinto in memory: batch, PUT with `If-None-Match: *`, lists with filters, `records:ingest`.

Only as much of one as the agent uses; `rig.kinto` runs the real thing.
"""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from rig.replies import Fault, Json, Reply, Request

BATCH_MAX = 25
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "gt_": lambda have, want: have > want,
    "lt_": lambda have, want: have < want,
    "min_": lambda have, want: have >= want,
    "max_": lambda have, want: have <= want,
    "not_": lambda have, want: have != want,
    "in_": lambda have, want: have in want,
    "exclude_": lambda have, want: have not in want,
}


@dataclass(frozen=True, slots=True)
class Odd:
    """An answer other than the Kinto's own; `stored` where it carries the request out first."""

    answer: Reply | Fault
    stored: bool = False


class _WholeBatchError(Exception):
    def __init__(self, reply: Reply) -> None:
        self.reply = reply


class MemoryKinto:
    """The Kinto; its caller sees to it that only one thread is in it at a time.

    Args:
        odd_answer: What `METHOD /path` inside a batch is answered with instead, if anything.
        port: Of the server, for the URLs in its answers.

    Attributes:
        tree: Collections and records, by bucket.
        create_missing: Whether a PUT of a record makes bucket and collection by itself.
        batch_max: How many requests a batch may hold.
        ingest: The most records that `records:ingest` takes; None where it is not offered.
        timeline: Of the database, where `records:ingest` is offered.
    """

    def __init__(
        self,
        odd_answer: Callable[[str], Odd | None],
        port: int,
        *,
        create_missing: bool = True,
        batch_max: int = BATCH_MAX,
        ingest: int | None = None,
    ) -> None:
        self.tree: dict[str, dict[str, dict[str, Json]]] = {}
        self.create_missing = create_missing
        self.batch_max = batch_max
        self.ingest = ingest
        self.timeline = "a"
        self._odd_answer = odd_answer
        self._port = port
        self._modified = 1_700_000_000_000

    def answer(self, request: Request) -> Reply:
        """Carries a request out."""
        parts = urlsplit(request.path)
        path = parts.path.removeprefix("/v1")
        if path in {"/", ""}:
            settings = {"batch_max_requests": self.batch_max, "readonly": False}
            body: Json = {"project_name": "memory", "settings": settings}
            if request.user is not None:
                body["user"] = {"id": f"account:{request.user}"}
            if self.ingest is not None:
                limits = {"max_records": self.ingest, "max_bytes": 4 * 1024 * 1024}
                body["capabilities"] = {"unisat": {"ingest": limits, "timeline": self.timeline}}
            return Reply(200, body)
        if path in {"/__heartbeat__", "/__lbheartbeat__"}:
            return Reply(200, {"storage": True, "permission": True, "cache": True})
        if path == "/batch":
            return self._batch(request)
        if path.endswith("/records:ingest"):
            return self._ingest(request, path)
        return self._resource(
            request.method, path, dict(parse_qsl(parts.query)), request.headers, request.body
        )

    def _ingest(self, request: Request, path: str) -> Reply:
        if self.ingest is None:
            return Reply(404)
        _, bucket, _, collection, _ = path.strip("/").split("/")
        records = self.tree.get(bucket, {}).get(collection)
        if records is None:
            if not self.create_missing:
                body = {"code": 404, "details": {"resource_name": "collection"}}
                return Reply(404, body)
            records = self.tree.setdefault(bucket, {}).setdefault(collection, {})
        raw = request.raw
        if request.headers.get("content-encoding") == "gzip":
            raw = gzip.decompress(raw)
        sent = [json.loads(line) for line in raw.splitlines()]
        if len(sent) > self.ingest:
            return Reply(413)
        data: Json = {"created": 0, "newest": self._modified, "identical": [], "different": []}
        for record in sent:
            name = record["id"]
            existing = records.get(name)
            if existing is None:
                self._modified += 1
                records[name] = {**record, "last_modified": self._modified}
                data["created"] += 1
            else:
                same = {k: v for k, v in existing.items() if k != "last_modified"} == record
                data["identical" if same else "different"].append(name)
        return Reply(200, {"data": data})

    def _batch(self, request: Request) -> Reply:
        body = request.body
        if not isinstance(body, dict) or not isinstance(body.get("requests"), list):
            return Reply(400)
        if len(body["requests"]) > self.batch_max:
            return Reply(400)
        defaults = body.get("defaults", {})
        before = copy.deepcopy(self.tree)
        try:
            answers = [self._item({**defaults, **item}, before) for item in body["requests"]]
        except _WholeBatchError as error:
            self.tree = before
            return error.reply
        return Reply(200, {"responses": answers})

    def _item(self, item: Json, before: dict[str, dict[str, dict[str, Json]]]) -> Json:
        path = str(item["path"])
        path = path if path.startswith("/v1/") else f"/v1{path}"
        method = str(item.get("method", "GET"))
        headers = {k.lower(): v for k, v in item.get("headers", {}).items()}
        odd = self._odd_answer(f"{method} {path}")
        if odd is None or odd.stored:
            parts = urlsplit(path)
            query = dict(parse_qsl(parts.query))
            reply = self._resource(
                method, parts.path.removeprefix("/v1"), query, headers, item.get("body")
            )
        if odd is not None:
            if isinstance(odd.answer, Fault):
                raise _WholeBatchError(Reply(500))
            reply = odd.answer
            if reply.status >= 500:
                raise _WholeBatchError(reply)
            if reply.status == 409:
                self.tree = copy.deepcopy(before)
        return {
            "status": reply.status,
            "path": path,
            "headers": {"Content-Type": "application/json", **reply.headers},
            "body": reply.json(),
        }

    def _resource(
        self, method: str, path: str, query: Json, headers: Mapping[str, str], body: Any
    ) -> Reply:
        names = path.strip("/").split("/")
        if names[0] != "buckets" or len(names) > 6 or names[2:3] not in ([], ["collections"]):
            return Reply(404)
        if len(names) == 5 and names[4] == "records":
            return self._list(method, path, names[1], names[3], query)
        if len(names) == 6 and names[4] == "records":
            return self._record(method, names, headers, body)
        known = self.tree.get(names[1], {} if self.create_missing else None)
        if len(names) == 2:
            return self._container(method, names[1], known is not None and names[1] in self.tree)
        if len(names) == 4:
            if known is None:
                return Reply(403)
            there = names[3] in known
            if method == "PUT":
                self.tree.setdefault(names[1], {}).setdefault(names[3], {})
            return self._container(method, names[3], there)
        if len(names) == 3 and method in {"GET", "HEAD"}:
            return Reply(200, {"data": [{"id": name} for name in sorted(known or {})]})
        return Reply(405)

    def _container(self, method: str, name: str, there: bool) -> Reply:
        if method == "PUT":
            self.tree.setdefault(name, {}) if not there else None
            return Reply(200 if there else 201, {"data": {"id": name}, "permissions": {}})
        return Reply(200, {"data": {"id": name}}) if there else Reply(404)

    def _record(
        self, method: str, names: list[str], headers: Mapping[str, str], body: Any
    ) -> Reply:
        bucket, collection, name = names[1::2]
        if self.create_missing:
            records = self.tree.setdefault(bucket, {}).setdefault(collection, {})
        else:
            if bucket not in self.tree:
                return Reply(403)
            if collection not in self.tree[bucket]:
                return Reply(404)
            records = self.tree[bucket][collection]
        existing = records.get(name)
        if method == "PUT":
            if existing is not None and headers.get("if-none-match") == "*":
                return Reply(412, {"code": 412, "errno": 114, "details": {"existing": existing}})
            if not isinstance(body, dict) or not isinstance(body.get("data"), dict):
                return Reply(400)
            self._modified += 1
            records[name] = {**body["data"], "id": name, "last_modified": self._modified}
            return Reply(201 if existing is None else 200, {"data": records[name]})
        if existing is None:
            return Reply(404)
        if method == "DELETE":
            del records[name]
        return Reply(200, {"data": existing})

    def _list(self, method: str, path: str, bucket: str, collection: str, query: Json) -> Reply:
        if collection not in self.tree.get(bucket, {}):
            return Reply(404)
        rows = [
            row
            for row in self.tree[bucket][collection].values()
            if all(_matches(row, key, value) for key, value in query.items())
        ]
        for key in reversed(query.get("_sort", "-last_modified").split(",")):
            rows.sort(key=lambda row, key=key: row.get(key.lstrip("-"), 0), reverse=key[0] == "-")  # type: ignore[misc]
        headers = {"ETag": f'"{self._modified}"'}
        if method == "HEAD":
            total = str(len(rows))
            return Reply(200, "", {**headers, "Total-Objects": total, "Total-Records": total})
        start = int(query.get("_token", 0))
        limit = int(query.get("_limit", 1000))
        if start + limit < len(rows):
            following = urlencode({**query, "_token": start + limit})
            headers["Next-Page"] = f"http://127.0.0.1:{self._port}/v1{path}?{following}"
        page = rows[start : start + limit]
        if "_fields" in query:
            wanted = {"id", "last_modified", *query["_fields"].split(",")}
            page = [{k: v for k, v in row.items() if k in wanted} for row in page]
        return Reply(200, {"data": page}, headers)


def _matches(row: Json, key: str, text: str) -> bool:
    if key.startswith("_"):
        return True
    for prefix, compare in _COMPARISONS.items():
        if key.startswith(prefix):
            have = row.get(key.removeprefix(prefix))
            if prefix in {"in_", "exclude_"}:
                return compare(have, [_native(part) for part in text.split(",")])
            return have is not None and compare(have, _native(text))
    return bool(row.get(key) == _native(text))


def _native(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
