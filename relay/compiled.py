"""The hot modules, compiled: which ones they are, and how an import finds what was made of them.

The Python files are what counts, and all that is needed. `make compiled` has mypyc translate those
of MODULES to C (they are typed throughout, so it need not guess) into one library below
`build/compiled`, with a note of the sources that it was made from. Compiled modules know each
other's layouts and constants, so all of them are used, or none. None are used when a source has
changed since, on another Python, and with RELAY_PURE=1 in the environment.

In a wheel that was built with RELAY_COMPILED=1 they lie beside their sources, where Python finds
them by itself.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final

_HOT: Final = {
    "relay": "clock decoding ports stage units usage",
    "relay.billing": "charged hold price purse tariff",
    "relay.edge": "cors ids ports question service",
    "relay.edge.client": "arrivals body body_room coming_body connection early head head_cache "
    "phase request_loop socket",
    "relay.edge.tunnel": "ports turn",
    "relay.flow": "abandoned admission asker balancer call counters exchange hedge ports "
    "rejections request response running settle splice tunnelled",
    "relay.flow.attempts": "attempt buffer failed plain spliced stream tail unframed",
    "relay.flow.translated": "attempt conversed plain stream",
    "relay.flow.reserve": "budgets call_queues channel_queues channel_quotas credit "
    "credit_account holds key_quotas leasing limits line_queues reservations",
    "relay.flow.state": "binding bound fetch owners stateful",
    "relay.limits": "batch broker estimate fair_queue lease leases limit_set permits",
    "relay.routing": "affinity breaker budget health patience pick table",
    "relay.store.limits": "limiter",
    "relay.store.log": "frames journal",
    "relay.upstream": "connection pool tls tls_sending tls_sessions",
    "relay.wire": "api_keys classify http sse websocket",
    "relay.wire.refusals": "quota_headers upstream_errors",
    "relay.wire.request": "asked content_request json_request text_size",
    "relay.wire.state": "marks",
    "relay.wire.usage": "claims conventions counted delivered_tokens reader",
}
"""What mypyc cannot do is not among them: classes with a foreign base (msgspec's structs, aiohttp's
handler) and asynchronous generators."""
MODULES: Final = tuple(f"{package}.{name}" for package in _HOT for name in _HOT[package].split())

GROUP: Final = "relay"
"""The library is named after this: mypyc adds `__mypyc`."""
FOLDER: Final = Path(__file__).parents[1] / "build" / "compiled"
NOTE: Final = "made_from"
FLOORS: Final = (
    *("billing", "edge", "flow", "limits", "routing", "splice", "store", "translate"),
    *("upstream", "wire"),
)
_SOURCES: Final = ("*.py", *(f"{floor}/**/*.py" for floor in FLOORS))
"""All that a hot module imports, and a little more."""


def made_from() -> str:
    """Return the digest of all that compiled modules are made from, as it is now."""
    root = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(file for pattern in _SOURCES for file in root.glob(pattern)):
        text = file.read_bytes()
        digest.update(b"%b %d\n%b" % (bytes(file.relative_to(root)), len(text), text))
    return digest.hexdigest()


def is_compiled() -> bool:
    """Tell whether the hot modules of this process are compiled."""
    spec = find_spec("relay.flow.exchange")
    return spec is not None and not (spec.origin or "").endswith(".py")


def describe() -> str:
    """Return whether compiled or plain Python code runs, and why, where that may surprise."""
    if is_compiled():
        return "compiled"
    unused = (FOLDER / NOTE).is_file() and os.environ.get("RELAY_PURE") != "1"
    return "pure Python: what is compiled is of other sources" if unused else "pure Python"


class Finder:
    """Finds compiled modules before Python finds their sources."""

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module is, None for what is not compiled."""
        file = self._files.get(fullname)
        return None if file is None else spec_from_file_location(fullname, file)


def use_compiled() -> None:
    """Have the hot modules imported from what `make compiled` built, if that is up to date."""
    if os.environ.get("RELAY_PURE") == "1" or not (FOLDER / NOTE).is_file():
        return
    suffix = EXTENSION_SUFFIXES[0]
    names = [f"{GROUP}__mypyc", *MODULES]
    files = {name: FOLDER / (name.replace(".", "/") + suffix) for name in names}
    if (FOLDER / NOTE).read_text() == made_from() and all(map(Path.is_file, files.values())):
        sys.meta_path.insert(0, Finder(files))
