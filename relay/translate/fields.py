"""Reads members of a decoded JSON object; a wrong type is refused by the member's full name."""

from typing import Any

import msgspec

from relay.decoding import Decoder, Undecodable
from relay.errors import BadRequest
from relay.translate.middle import JsonObject, Refused

encode = msgspec.json.Encoder().encode
_decode = Decoder(Any).decode


def decode_object(body: bytes | JsonObject) -> JsonObject:
    """Return a request's body as an object.

    Raises:
        BadRequest: CLIENT; it is no JSON object.
    """
    if isinstance(body, dict):
        return body
    try:
        found = _decode(body)
    except Undecodable:
        raise BadRequest("The body is not valid JSON.") from None
    if not isinstance(found, dict):
        raise BadRequest("The body must be a JSON object.")
    return found


def objects_in(found: object) -> list[JsonObject]:
    """Return the objects of what should be a list of them, none where it is something else."""
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def decode_json(text: str | bytes) -> Any:
    """Return a JSON value, None where the text is none."""
    try:
        return _decode(text)
    except Undecodable:
        return None


def arguments_object(text: str) -> JsonObject:
    """Return a call's arguments; what is no JSON object is handed on as one member of it."""
    if not text.strip():
        return {}
    found = decode_json(text)
    return found if isinstance(found, dict) else {"input": text}


def whole_arguments(text: str) -> JsonObject | None:
    """Return a call's arguments, None where their text was cut short: nobody must run those."""
    if not text.strip():
        return {}
    found = decode_json(text)
    return found if isinstance(found, dict) else None


def encode_text(value: object) -> str:
    """Return a value as JSON text."""
    return encode(value).decode()


def wrong(param: str, want: str) -> Refused:
    """Return the error for a member of the wrong type."""
    error = Refused(f"{param} must be {want}.", param=param)
    error.code = None
    return error


def _name(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def text_at(fields: JsonObject, key: str, path: str = "") -> str | None:
    """Return a text, None where it is absent or null."""
    found = fields.get(key)
    if found is None or isinstance(found, str):
        return found
    raise wrong(_name(path, key), "a string")


def needed_text(fields: JsonObject, key: str, path: str = "") -> str:
    """Return a text that must be there."""
    found = fields.get(key)
    if isinstance(found, str):
        return found
    raise wrong(_name(path, key), "a string")


def integer_at(fields: JsonObject, key: str, path: str = "") -> int | None:
    """Return an integer, None where it is absent or null."""
    found = fields.get(key)
    if found is None:
        return None
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if isinstance(found, int) and not isinstance(found, bool):
        return found
    raise wrong(_name(path, key), "an integer")


def number_at(fields: JsonObject, key: str, path: str = "") -> float | None:
    """Return a number as it was written, None where it is absent or null."""
    found = fields.get(key)
    if found is None:
        return None
    if isinstance(found, int | float) and not isinstance(found, bool):
        return found
    raise wrong(_name(path, key), "a number")


def flag_at(fields: JsonObject, key: str, path: str = "") -> bool | None:
    """Return a truth value, None where it is absent or null."""
    found = fields.get(key)
    if found is None or isinstance(found, bool):
        return found
    raise wrong(_name(path, key), "true or false")


def object_at(fields: JsonObject, key: str, path: str = "") -> JsonObject | None:
    """Return an object, None where it is absent or null."""
    found = fields.get(key)
    if found is None or isinstance(found, dict):
        return found
    raise wrong(_name(path, key), "an object")


def list_at(fields: JsonObject, key: str, path: str = "") -> list[Any]:
    """Return a list, an empty one where it is absent or null."""
    found = fields.get(key)
    if found is None:
        return []
    if isinstance(found, list):
        return found
    raise wrong(_name(path, key), "an array")


def objects_at(fields: JsonObject, key: str, path: str = "") -> list[JsonObject]:
    """Return a list of objects, an empty one where it is absent or null."""
    found = list_at(fields, key, path)
    for index, one in enumerate(found):
        if not isinstance(one, dict):
            raise wrong(f"{_name(path, key)}[{index}]", "an object")
    return found


def texts_at(fields: JsonObject, key: str, path: str = "") -> list[str]:
    """Return a list of texts; one text stands for a list of it."""
    found = fields.get(key)
    if isinstance(found, str):
        return [found]
    listed = list_at(fields, key, path)
    if not all(isinstance(one, str) for one in listed):
        raise wrong(_name(path, key), "an array of strings")
    return listed


def split_inline_url(url: str, param: str) -> tuple[str, str]:
    """Return the media type and the base64 of a data URL.

    Source: RFC 2397.
    """
    head, comma, payload = url[5:].partition(",")
    if not comma or not head.endswith(";base64"):
        raise wrong(param, "a base64 data URL")
    return head[:-7].partition(";")[0], payload
