"""Files and batches of the scripted upstream, in OpenAI's words and in Anthropic's.

    begun --so many looks at it--> ended: every request answered as it would be by itself
          --cancelled-----------> ended: the first half of them was

A request's `custom_id` says what becomes of it: one that begins with `error`, `expired` or `silent`
(served, and nothing is said of its usage) has that end; all others are served.
"""

from collections.abc import Callable
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import HTTP
from itertools import count
from typing import Any, Final

import msgspec

from relay.mock.answers.answer import CREATED_S, MockAnswer, single
from relay.mock.rejections import reject

ROOTS: Final = ("files", "batches", "messages/batches")
JSONL: Final = b"application/x-jsonl"
OCTETS: Final = b"application/octet-stream"
STAMP: Final = "2026-11-30T12:00:00Z"
LOOKS: Final = 2

Answer = Callable[[str, bytes], dict[str, Any]]
"""Answers a request, given its endpoint and its body."""


class MockBatches:
    """What one mock keeps.

    Args:
        name: The mock's, in all of its ids.
        answer: Answers one request.
    """

    def __init__(self, name: str, answer: Answer) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        """OpenAI's, by id."""
        self.messages: dict[str, dict[str, Any]] = {}
        self.looks = LOOKS
        """So many times a batch is asked for before it has ended."""
        self.told_usage = False
        """A batch's own object says what all of it used."""
        self._name = name
        self._answer = answer
        self._ids = count(1)
        self._asked: dict[str, list[dict[str, Any]]] = {}
        self._seen: dict[str, int] = {}

    def reply(self, method: str, path: str, content_type: str, body: bytes) -> MockAnswer:
        """Return the answer to a request below one of ROOTS."""
        parts = path.removeprefix("messages/").split("/")
        if parts[0] == "files":
            return self._file(method, parts[1:], content_type, body)
        kept = self.messages if path.startswith("messages/") else self.batches
        begin = self._begin_messages if path.startswith("messages/") else self._begin
        if parts[1:] == []:
            return begin(body) if method == "POST" else _listed(list(kept.values()))
        found = kept.get(parts[1])
        if found is None:
            return reject(404, "No such batch.")
        if parts[2:] == ["results"]:
            return self._results(parts[1])
        if method == "DELETE":
            del kept[parts[1]]
            return single({"id": parts[1], "type": "message_batch_deleted"})
        if parts[2:] == ["cancel"]:
            self._end(found, cancelled=True)
        else:
            self._look(found)
        return single(found)

    def end(self, name: str) -> None:
        """Have a batch end now."""
        self._end(self.batches.get(name) or self.messages[name])

    # --- files -----------------------------------------------------------------------------------

    def _file(self, method: str, parts: list[str], content_type: str, body: bytes) -> MockAnswer:
        if method == "POST":
            head = b"Content-Type: %b\r\n\r\n" % content_type.encode("latin-1", "replace")
            form = BytesParser(EmailMessage, policy=HTTP).parsebytes(head + body)
            found = {
                part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
                for part in form.iter_parts()
            }
            held = found.get("file")
            return single(self._keep(held if isinstance(held, bytes) else b""))
        if not parts or parts[0] not in self.files:
            return reject(404, "No such File object.")
        if parts[1:] == ["content"]:
            return MockAnswer(events=((self.files[parts[0]], 0),), content_type=OCTETS)
        if method == "DELETE":
            del self.files[parts[0]]
            return single({"id": parts[0], "object": "file", "deleted": True})
        return single(self._told(parts[0]))

    def _keep(self, held: bytes) -> dict[str, Any]:
        name = self._new("file")
        self.files[name] = held
        return self._told(name)

    def _told(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "file",
            "bytes": len(self.files[name]),
            "purpose": "batch",
            "created_at": CREATED_S,
            "filename": "batch.jsonl",
            "status": "processed",
        }

    # --- batches ---------------------------------------------------------------------------------

    def _begin(self, body: bytes) -> MockAnswer:
        asked = msgspec.json.decode(body)
        held = self.files.get(asked.get("input_file_id", ""))
        if held is None:
            return reject(400, "No such File object.")
        name = self._new("batch")
        self._asked[name] = [msgspec.json.decode(line) for line in held.splitlines() if line]
        total = len(self._asked[name])
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": "24h",
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": CREATED_S,
            "metadata": asked.get("metadata"),
            "request_counts": {"total": total, "completed": 0, "failed": 0},
        }
        return single(self.batches[name])

    def _begin_messages(self, body: bytes) -> MockAnswer:
        name = self._new("msgbatch")
        self._asked[name] = msgspec.json.decode(body)["requests"]
        self.messages[name] = {
            "id": name,
            "type": "message_batch",
            "processing_status": "in_progress",
            "created_at": STAMP,
            "expires_at": STAMP,
            "ended_at": None,
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": None,
            "request_counts": _counts(processing=len(self._asked[name])),
        }
        return single(self.messages[name])

    def _look(self, batch: dict[str, Any]) -> None:
        name = batch["id"]
        self._seen[name] = self._seen.get(name, 0) + 1
        if batch.get("status") == "validating":
            batch["status"] = "in_progress"
        ended = batch.get("status") in ("completed", "cancelled") or batch.get("ended_at")
        if not ended and self._seen[name] >= self.looks:
            self._end(batch)

    def _end(self, batch: dict[str, Any], *, cancelled: bool = False) -> None:
        asked = self._asked[batch["id"]]
        if "status" in batch:
            self._end_file(batch, asked[: len(asked) // 2] if cancelled else asked)
            batch["status"] = "cancelled" if cancelled else "completed"
            return
        late = len(asked) // 2 if cancelled else len(asked)
        ends = [self._message(one, late=at >= late) for at, one in enumerate(asked)]
        self.files[batch["id"]] = _lines(ends)
        types = [end["result"]["type"] for end in ends]
        batch |= {
            "processing_status": "ended",
            "ended_at": STAMP,
            "cancel_initiated_at": STAMP if cancelled else None,
            "results_url": f"https://api.example/v1/messages/batches/{batch['id']}/results",
            "request_counts": _counts(**{kind: types.count(kind) for kind in set(types)}),
        }

    def _end_file(self, batch: dict[str, Any], asked: list[dict[str, Any]]) -> None:
        lines = [self._line(one) for one in asked]
        good = [one for one in lines if _is_good(one)]
        bad = [one for one in lines if not _is_good(one)]
        total = batch["request_counts"]["total"]
        batch["request_counts"] = {"total": total, "completed": len(good), "failed": len(bad)}
        batch["output_file_id"] = self._keep(_lines(good))["id"] if good else None
        batch["error_file_id"] = self._keep(_lines(bad))["id"] if bad else None
        if self.told_usage:
            usages = [one["response"]["body"]["usage"] for one in good]
            batch["usage"] = {
                "input_tokens": sum(one["prompt_tokens"] for one in usages),
                "output_tokens": sum(one["completion_tokens"] for one in usages),
            }

    def _line(self, asked: dict[str, Any]) -> dict[str, Any]:
        custom_id = asked["custom_id"]
        line = {"id": self._new("req"), "custom_id": custom_id, "response": None, "error": None}
        if custom_id.startswith("expired"):
            return line | {"error": {"code": "batch_expired", "message": "It was not executed."}}
        if custom_id.startswith("error"):
            refused = {"error": {"message": "Invalid.", "type": "invalid_request_error"}}
            return line | {"response": {"status_code": 400, "request_id": "r", "body": refused}}
        endpoint = asked["url"].removeprefix("/v1/")
        body = self._answer(endpoint, msgspec.json.encode(asked["body"]))
        if custom_id.startswith("silent"):
            body.pop("usage", None)
        return line | {"response": {"status_code": 200, "request_id": "r", "body": body}}

    def _message(self, asked: dict[str, Any], *, late: bool) -> dict[str, Any]:
        custom_id = asked["custom_id"]
        result: dict[str, Any]
        if late:
            result = {"type": "canceled"}
        elif custom_id.startswith("expired"):
            result = {"type": "expired"}
        elif custom_id.startswith("error"):
            error = {"type": "invalid_request_error", "message": "Invalid."}
            result = {"type": "errored", "error": {"type": "error", "error": error}}
        else:
            message = self._answer("messages", msgspec.json.encode(asked["params"]))
            if custom_id.startswith("silent"):
                message.pop("usage", None)
            result = {"type": "succeeded", "message": message}
        return {"custom_id": custom_id, "result": result}

    def _results(self, name: str) -> MockAnswer:
        if name not in self.files:
            return reject(404, "No results.")
        return MockAnswer(events=((self.files[name], 0),), content_type=JSONL)

    def _new(self, kind: str) -> str:
        return f"{kind}_{self._name.replace('-', '_')}_{next(self._ids)}"


def _is_good(line: dict[str, Any]) -> bool:
    return line["response"] is not None and line["response"]["status_code"] == 200


def _counts(**counts: int) -> dict[str, int]:
    return dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0) | counts


def _lines(ends: list[dict[str, Any]]) -> bytes:
    return b"".join(msgspec.json.encode(end) + b"\n" for end in ends)


def _listed(rows: list[dict[str, Any]]) -> MockAnswer:
    return single({"object": "list", "data": rows, "has_more": False})
