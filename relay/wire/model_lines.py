"""Which lines serve each model, told in a list of models of any dialect: a field of our own."""

from collections.abc import Mapping, Sequence

import msgspec


def with_lines(body: bytes, lines: Mapping[str, Sequence[str]]) -> bytes:
    """Return a model or a list of models, each with the names of the lines that serve it."""
    said = msgspec.json.decode(body)
    listed = said.get("data") or said.get("models") or [said]
    for model in listed:
        name = model.get("id") or str(model.get("name", "")).removeprefix("models/")
        if name in lines:
            model["lines"] = lines[name]
    return msgspec.json.encode(said)
