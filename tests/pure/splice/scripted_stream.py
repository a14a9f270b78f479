"""A scripted model for the splice tests: one fixed text, streamed and continued as channels do.

Everything is in payloads (the data of events): what stands on the wire around them is not the
business of routing.
"""

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from relay.model import Resume
from relay.records import Endpoint

PROMPT_TOKENS = 50
FIRST_ID, SECOND_ID = "chatcmpl-first", "chatcmpl-second"
PROMPT = "Say something. "


def raw_fields(body: dict[str, Any]) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(json.dumps(body).encode(), type=dict[str, msgspec.Raw])


def plain_fields(fields: dict[str, msgspec.Raw]) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(fields))
    return found


def client_body(endpoint: Endpoint, **more: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "m", "stream": True}
    if endpoint is Endpoint.CHAT:
        body["messages"] = [{"role": "user", "content": PROMPT}]
    else:
        body["prompt"] = PROMPT
    return body | {"stream_options": {"include_usage": True}} | more


def stream(
    tokens: Iterable[str],
    endpoint: Endpoint = Endpoint.CHAT,
    *,
    stream_id: str = FIRST_ID,
    prompt_tokens: int = PROMPT_TOKENS,
    finish: str | None = "stop",
    usage_apart: bool = True,
) -> list[bytes]:
    """Return the payloads of a whole answer: role, a token each, finish, usage, [DONE]."""
    first = stream_id == FIRST_ID
    chat = endpoint is Endpoint.CHAT
    base = {
        "id": stream_id,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1_700_000_000 if first else 1_700_000_999,
        "model": "m-2024-08-06" if first else "another-name",
        "system_fingerprint": "fp_1" if first else "fp_2",
    }

    def chunk(text: str | None, *, role: bool = False, reason: str | None = None) -> dict[str, Any]:
        if chat:
            delta = ({"role": "assistant"} if role else {}) | (
                {} if text is None else {"content": text}
            )
            choice: dict[str, Any] = {"index": 0, "delta": delta}
        else:
            choice = {"index": 0, "text": text or ""}
        return base | {"choices": [choice | {"logprobs": None, "finish_reason": reason}]}

    texts = list(tokens)
    chunks = [chunk("", role=True)] if chat else []
    chunks += [chunk(text) for text in texts]
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(texts),
        "total_tokens": prompt_tokens + len(texts),
        "prompt_tokens_details": {"cached_tokens": 10},
    }
    if finish is not None:
        chunks.append(chunk(None, reason=finish))
        if usage_apart:
            chunks.append(base | {"choices": [], "usage": usage})
        else:
            chunks[-1]["usage"] = usage
    done = [b"[DONE]"] if finish is not None else []
    return [json.dumps(item).encode() for item in chunks] + done


def continued(
    fields: dict[str, Any], tokens: list[str], endpoint: Endpoint, resume: Resume, *, echo: bool
) -> list[bytes]:
    """Return how a channel answers a request to go on: the rest of the model's text.

    Checks on the way that the request has the form the channel wants.
    """
    if endpoint is Endpoint.COMPLETIONS:
        assert fields["prompt"].startswith(PROMPT)
        given = fields["prompt"][len(PROMPT) :]
    else:
        turn = fields["messages"][-1]
        assert turn["role"] == "assistant"
        flags = {flag for flag in ("prefix", "partial") if turn.get(flag) is True}
        assert flags == ({resume.value} & {"prefix", "partial"})
        vllm = fields.get("continue_final_message", False)
        assert vllm is (resume is Resume.CONTINUE_FINAL_MESSAGE)
        given = turn["content"]
    assert given == given.rstrip()
    text = "".join(tokens)
    assert text.startswith(given)
    rest = rest_of(tokens, len(given))
    if echo:
        rest = [given, *rest]
    size = len(tokens) - len(rest)
    return stream(rest, endpoint, stream_id=SECOND_ID, prompt_tokens=PROMPT_TOKENS + size)


def rest_of(tokens: list[str], chars: int) -> list[str]:
    """Return the tokens behind the first so many characters; the one that is cut gives its end."""
    rest = []
    for token in tokens:
        if chars < len(token):
            rest.append(token[chars:])
        chars = max(chars - len(token), 0)
    return rest


def payloads_of(answer: bytes) -> list[bytes]:
    """Return the payloads of what a splice wrote; it writes `data:` events only."""
    assert answer == b"" or answer.endswith(b"\n\n")
    events = answer.split(b"\n\n")[:-1]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events)
    return [event[6:] for event in events]


class Seen:
    """What a client makes of a stream, as the official one assembles it."""

    def __init__(self, payloads: Iterable[bytes]) -> None:
        self.text = ""
        self.roles: list[str] = []
        self.reasons: list[str] = []
        self.usages: list[dict[str, Any]] = []
        self.identities: set[tuple[Any, ...]] = set()
        self.done = 0
        for payload in payloads:
            if payload == b"[DONE]":
                self.done += 1
                continue
            chunk = json.loads(payload)
            names = ("id", "object", "created", "model", "system_fingerprint")
            self.identities.add(tuple(chunk.get(name) for name in names))
            if chunk.get("usage"):
                self.usages.append(chunk["usage"])
            for choice in chunk["choices"]:
                delta = choice.get("delta", {})
                self.text += delta.get("content") or choice.get("text") or ""
                self.roles += [delta["role"]] if "role" in delta else []
                self.reasons += [choice["finish_reason"]] if choice.get("finish_reason") else []
