"""What a stream, a body or a request says, in the middle form, to be compared.

Method: the floor's own readers; what they read is held against literal samples elsewhere.
"""

import json
from typing import Any

from relay.translate import AnswerTerms, TranslateDialect, Upstream
from relay.translate.answers import _BLANK, _reader
from relay.translate.collected import (
    Collected,
    SaidCall,
    SaidImage,
    SaidText,
    SaidThinking,
)
from relay.translate.fields import decode_json
from relay.translate.middle import Ask, join_turns
from relay.translate.requests import _READERS

TERMS = AnswerTerms("n1", "public-model", 1_700_000_000)
UPSTREAM = Upstream("upstream-model")


def payloads(stream: bytes) -> list[bytes]:
    found: list[bytes] = []
    for line in stream.split(b"\n"):
        if line.startswith(b"data:"):
            found.append(line[5:].strip())
        else:
            assert line in _BLANK or line.startswith((b"event:", b":"))
    return found


def read_stream(dialect: TranslateDialect, stream: bytes) -> Collected:
    said = Collected()
    reader = _reader(dialect, said, TERMS)
    for payload in payloads(stream):
        reader.read(payload)
    reader.end()
    return said


def read_body(dialect: TranslateDialect, body: bytes) -> Collected:
    said = Collected()
    reader = _reader(dialect, said, TERMS)
    reader.read(body)
    reader.end()
    return said


def meaning(said: Collected) -> dict[str, Any]:
    """Return what an answer says, apart from how it was cut into pieces and named."""
    texts = [one.text for one in said.items if isinstance(one, SaidText)]
    return {
        "text": "".join(texts),
        "thinking": "".join(one.text for one in said.items if isinstance(one, SaidThinking)),
        "calls": [
            (one.id, one.name, decode_json(one.arguments) or one.arguments)
            for one in said.items
            if isinstance(one, SaidCall)
        ],
        "images": [one.payload for one in said.items if isinstance(one, SaidImage)],
        "ending": said.ending.reason if said.ending is not None else None,
        "usage": said.usage,
        "trouble": said.trouble.message if said.trouble is not None else None,
    }


def read_request(dialect: TranslateDialect, body: bytes | dict[str, Any]) -> Ask:
    ask = Ask(dialect, dialect, "m")
    _READERS[dialect](body if isinstance(body, dict) else json.loads(body), ask)
    ask.turns = join_turns(ask.turns)
    return ask
