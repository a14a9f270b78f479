"""JSON Schemas, where a dialect takes less of them than others, or writes them in another way.

Gemini's `parameters` and `responseSchema` are OpenAPI objects: it refuses a whole request for one
key it does not know ("Cannot find field"). `parametersJsonSchema` and `responseJsonSchema` take
plain JSON Schema.

Source: Gemini API reference, `Schema`; messages of 400 answers to unknown keys.
"""

import re
from typing import Any, Final

from relay.translate.middle import JsonObject, refusal

DEPTH_MAX: Final = 64
SCHEMAS_MAX: Final = 10_000
_KEPT: Final = frozenset(
    {
        *("type", "format", "title", "description", "nullable", "enum", "maxItems", "minItems"),
        *("properties", "required", "minProperties", "maxProperties", "minLength", "maxLength"),
        *("pattern", "example", "anyOf", "propertyOrdering", "default", "items", "minimum"),
        "maximum",
    }
)
_WHOLE: Final = re.compile("[0-9]{1,18}")
_NUMERIC: Final = frozenset(
    {"maxItems", "minItems", "minProperties", "maxProperties", "minLength", "maxLength"}
)


def prune(schema: JsonObject) -> JsonObject:
    """Return the part of a JSON Schema that an OpenAPI object of Gemini's can say.

    `const` becomes an enum of one, a type list with "null" becomes `nullable`, `oneOf` becomes
    `anyOf`; references into the schema itself are followed, as deep as DEPTH_MAX.

    Raises:
        Refused: CLIENT; more than SCHEMAS_MAX schemas come of it.
    """
    return _Pruning(schema).prune(schema, 0)


class _Pruning:
    """Prunes one schema. References may lead to the same place any number of times."""

    def __init__(self, root: JsonObject) -> None:
        self.root = root
        self.left = SCHEMAS_MAX

    def prune(self, schema: JsonObject, depth: int) -> JsonObject:
        """Return what can be said of a schema that stands so deep."""
        self.left -= 1
        if self.left < 0:
            raise refusal("tools", "a schema is too large")
        if depth > DEPTH_MAX:
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self.prune(_resolve(reference, self.root), depth + 1)
        kept = {
            key: self._member(key, value, depth) for key, value in schema.items() if key in _KEPT
        }
        kind = kept.get("type")
        if isinstance(kind, list):
            _split_type(kept, kind)
        if "const" in schema:
            kept["enum"] = [schema["const"]]
        if isinstance(schema.get("oneOf"), list):
            kept["anyOf"] = self._member("anyOf", schema["oneOf"], depth)
        return kept

    def _member(self, key: str, value: Any, depth: int) -> Any:
        if key == "properties" and isinstance(value, dict):
            return {
                name: self.prune(one, depth + 1)
                for name, one in value.items()
                if isinstance(one, dict)
            }
        if key == "anyOf" and isinstance(value, list):
            return [self.prune(one, depth + 1) for one in value if isinstance(one, dict)]
        if key == "items":
            return self.prune(value, depth + 1) if isinstance(value, dict) else {}
        return value


def _split_type(kept: JsonObject, kinds: list[Any]) -> None:
    plain = [kind for kind in kinds if kind != "null"]
    if len(plain) < len(kinds):
        kept["nullable"] = True
    if len(plain) == 1:
        kept["type"] = plain[0]
    else:
        del kept["type"]
        kept["anyOf"] = [{"type": kind} for kind in plain]


def _resolve(reference: str, root: JsonObject) -> JsonObject:
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        found = found.get(step.replace("~1", "/").replace("~0", "~"), {})
        if not isinstance(found, dict):
            return {}
    return found if found is not root else {}


def from_openapi(schema: JsonObject, depth: int = 0) -> JsonObject:
    """Return an OpenAPI object of Gemini's as plain JSON Schema: `STRING` is `string` there."""
    if depth > DEPTH_MAX:
        return {}
    plain: JsonObject = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, str):
            plain[key] = value.lower()
        elif key == "properties" and isinstance(value, dict):
            plain[key] = {
                name: from_openapi(one, depth + 1)
                for name, one in value.items()
                if isinstance(one, dict)
            }
        elif key == "items" and isinstance(value, dict):
            plain[key] = from_openapi(value, depth + 1)
        elif key == "anyOf" and isinstance(value, list):
            plain[key] = [from_openapi(one, depth + 1) for one in value if isinstance(one, dict)]
        elif key in _NUMERIC and isinstance(value, str):
            plain[key] = int(value) if _WHOLE.fullmatch(value) else value
        elif key not in {"propertyOrdering", "nullable"}:
            plain[key] = value
    if schema.get("nullable") is True and isinstance(plain.get("type"), str):
        plain["type"] = [plain["type"], "null"]
    return plain
