"""The recorded streams as other servers frame and order them: same words, other bytes.

What they do is what servers were seen to do (docs/streams.md); the recordings themselves are few.
These are variants of them, made here, and not recordings of their own.
"""

import json
from collections.abc import Callable
from typing import Any, Final

COMMENT: Final = b": OPENROUTER PROCESSING\n\n"
PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'


def events_of(body: bytes) -> list[bytes]:
    """Return the closed events of a stream, their line ends as LF; each ends in an empty line."""
    text = body.replace(b"\r\n", b"\n")
    return [event.strip(b"\n") + b"\n\n" for event in text.split(b"\n\n") if event.strip()]


def other_line_ends(body: bytes) -> bytes | None:
    """Return it with CRLF for LF, or the other way."""
    if b"\r\n" in body:
        return body.replace(b"\r\n", b"\n")
    return body.replace(b"\n", b"\r\n")


def with_comments(body: bytes) -> bytes | None:
    """Return it with a comment before each event."""
    return b"".join(COMMENT + event for event in events_of(body))


def with_pings(body: bytes) -> bytes | None:
    """Return a message with a ping behind each event but the last, as Anthropic sends them."""
    if b"event: message_start" not in body:
        return None
    *events, last = events_of(body)
    return b"".join(event + PING for event in events) + last


def without_space(body: bytes) -> bytes | None:
    """Return it without the space behind `data:`, as Cloudflare and some proxies write it."""
    return (
        b"".join(events_of(body)).replace(b"\ndata: ", b"\ndata:").replace(b"data: ", b"data:", 1)
    )


def with_ids(body: bytes) -> bytes | None:
    """Return it with `id:` and `retry:` lines in each event, as event servers write them."""
    lines = (b"id: %d\nretry: 3000\n" % n + event for n, event in enumerate(events_of(body)))
    return b"".join(lines)


def split_over_lines(body: bytes) -> bytes | None:
    """Return it with each event's JSON over several `data:` lines, as a pretty-printer does."""
    return b"".join(map(_split, events_of(body)))


def _split(event: bytes) -> bytes:
    said = _json_of(event)
    if said is None:
        return event
    names = b"".join(line + b"\n" for line in event.split(b"\n") if line.startswith(b"event:"))
    lines = json.dumps(said, indent=1, ensure_ascii=False).encode().split(b"\n")
    return names + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def _json_of(event: bytes) -> Any:
    data = b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))
    return json.loads(data) if data.strip().startswith(b"{") else None


def usage_last(body: bytes) -> bytes | None:
    """Return a chat whose usage comes in an event of its own, behind the finish, as OpenAI's."""
    events = events_of(body)
    if b"chat.completion.chunk" not in body or events[-1].strip() != b"data: [DONE]":
        return None
    out, usage = [], None
    for event in events[:-1]:
        said = _json_of(event)
        if isinstance(said, dict) and said.get("choices") and said.get("usage"):
            usage = said.pop("usage")
            event = b"data: " + json.dumps(said).encode() + b"\n\n"  # noqa: PLW2901
        out.append(event)
    if usage is None:
        return None
    last = {"object": "chat.completion.chunk", "choices": [], "usage": usage}
    return b"".join([*out, b"data: " + json.dumps(last).encode() + b"\n\n", events[-1]])


def usage_with_the_finish(body: bytes) -> bytes | None:
    """Return a chat whose usage stands in its finishing event, as Groq's and Mistral's."""
    events = events_of(body)
    if b"chat.completion.chunk" not in body or events[-1].strip() != b"data: [DONE]":
        return None
    said = [_json_of(event) for event in events[:-1]]
    alone = [one for one in said if one and not one.get("choices") and one.get("usage")]
    finish = next((one for one in said if _finishes(one)), None)
    if not alone or finish is None:
        return None
    finish["usage"] = alone[-1]["usage"]
    kept = [one for one in said if one and one not in alone]
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in kept) + events[-1]


def _finishes(said: Any) -> bool:
    return bool(said) and any(choice.get("finish_reason") for choice in said.get("choices") or ())


def without_done(body: bytes) -> bytes | None:
    """Return a stream without `[DONE]`, as some servers end theirs."""
    events = events_of(body)
    if events[-1].strip() != b"data: [DONE]":
        return None
    return b"".join(events[:-1])


VARIANTS: Final[dict[str, Callable[[bytes], bytes | None]]] = {
    "as recorded": lambda body: body,
    "other line ends": other_line_ends,
    "comments between": with_comments,
    "pings between": with_pings,
    "no space": without_space,
    "ids and retries": with_ids,
    "split over lines": split_over_lines,
    "usage in an event of its own": usage_last,
    "usage with the finish": usage_with_the_finish,
    "no DONE": without_done,
}


def variants_of(body: bytes) -> dict[str, bytes]:
    """Return name -> what of the variants differs from the recording; the recording first."""
    found: dict[str, bytes] = {}
    for name, make in VARIANTS.items():
        made = make(body)
        if made is not None and made not in found.values():
            found[name] = made
    return found
