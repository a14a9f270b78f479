"""Goal: the documents say what the paths do: every path is in one, and each answer fits its schema.

Method: the routes themselves, the control process' own application, and answers of a real console,
checked against the schemas by a small checker of JSON Schema that knows what msgspec writes.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from relay.config import Config
from relay.console.operator_api.described import DESCRIBED
from relay.console.sites import ACCOUNT_ROUTES, OPERATOR_ROUTES
from relay.control.api.api import AdminApi
from relay.control.watch.notices import Notices
from relay.model import Secret
from tests.console.console_rig import ConsoleRig, opening

pytestmark = pytest.mark.live


@pytest.fixture
async def console(database_url: str, tmp_path: Path) -> AsyncIterator[ConsoleRig]:
    async with opening(database_url, tmp_path) as rig:
        await rig.add_account("acme")
        yield rig


VERBS = {
    "/keys/": ("enable", "disable"),
    "/channels/": ("enable", "drain"),
    "/lines/": ("grant", "revoke"),
}
"""What may stand for a verb in a path of the control process."""


def plain(path: str) -> str:
    """Return a path with the names of its parameters only."""
    return re.sub(r"\{(\w+)(:(?:[^{}]|\{[^{}]*\})*)?\}", r"{\1}", path)


async def test_every_path_is_in_its_document(console: ConsoleRig) -> None:
    for side, routes in (("account", ACCOUNT_ROUTES), ("operator", (*OPERATOR_ROUTES, *DESCRIBED))):
        document = await console.browser(side).get("/openapi.json")  # type: ignore[arg-type]
        assert document["openapi"] == "3.1.0"
        told = {
            (method.upper(), path)
            for path, methods in document["paths"].items()
            for method in methods
        }
        assert {(route.method, plain(route.path)) for route in routes} <= told
        names = [
            one["operationId"] for methods in document["paths"].values() for one in methods.values()
        ]
        assert len(names) == len(set(names))
        for reference in re.findall(r"#/components/schemas/(\w+)", str(document)):
            assert reference in document["components"]["schemas"]


def test_what_is_described_is_what_the_control_process_has(tmp_path: Path) -> None:
    notices = Notices(None, lambda: 0.0)
    api = AdminApi(Config(), tmp_path, Secret("x"), CollectorRegistry(), notices)
    had = set()
    for resource in api.application().router.resources():
        for route in resource:
            path = plain(resource.get_info().get("formatter", resource.canonical))
            verbs = next((verbs for part, verbs in VERBS.items() if part in path), ("", ""))
            if route.method not in {"HEAD", "*"}:
                had |= {(route.method, path.replace("{verb}", verb)) for verb in verbs}
    assert had == {(route.method, plain(route.path)) for route in DESCRIBED}


async def test_answers_fit_their_schemas(console: ConsoleRig) -> None:
    owner = await console.sign_in("ann@acme.example", "acme", "owner")
    await owner.call("POST", "/account/v1/keys", {"name": "k", "expires": "2099-01-01T00:00:00Z"})
    await owner.call("POST", "/account/v1/orders", {"amount": "10"})
    document = await owner.get("/openapi.json")
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        if "get" not in methods or "{" in path or "export" in path or path == "/openapi.json":
            continue
        schema = methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert_fits(await owner.get(path), schema, schemas, path)
    for path in ("/account/v1/logs?limit=0", "/account/v1/keys/7"):
        _, found = await owner.call("GET", path)
        assert_fits(found, {"$ref": "#/components/schemas/Failure"}, schemas, path)


KINDS: dict[str, Any] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
    "object": dict,
    "array": list,
}


def assert_fits(value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str) -> None:
    """Check a value against a schema; of what msgspec writes, all that an answer can break."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        kinds = [one for one in schema["anyOf"] if _may_be(value, one)]
        assert kinds, (where, value, schema)
        assert_fits(value, kinds[0], schemas, where)
        return
    if "enum" in schema:
        assert value in schema["enum"], (where, value)
    if "type" in schema:
        assert isinstance(value, KINDS[schema["type"]]), (where, value, schema)
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", ())) <= value.keys() <= schema["properties"].keys(), where
        for name, one in value.items():
            assert_fits(one, schema["properties"][name], schemas, f"{where} {name}")
    if isinstance(value, list) and "items" in schema:
        for one in value:
            assert_fits(one, schema["items"], schemas, where)


def _may_be(value: Any, schema: dict[str, Any]) -> bool:
    kind = schema.get("type", "object" if "$ref" in schema else "")
    return isinstance(value, KINDS[kind]) if kind else value in schema.get("enum", [value])
