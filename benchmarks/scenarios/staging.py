"""The relay before scripted upstreams, for scenarios that are more than one load on one target."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.scenarios.suite import Options
from benchmarks.targets import target
from benchmarks.targets.place import Place, Server
from benchmarks.targets.processes import raise_open_files
from benchmarks.targets.upstream import Script, Upstream, start_upstream


@contextmanager
def staged(
    options: Options, script: Script, *, upstreams: int = 1, **place: Any
) -> Iterator[tuple[Server, list[Upstream]]]:
    """Run the relay before scripted upstreams until the block ends.

    Raises:
        NotStarted: Something did not come up.
    """
    raise_open_files()
    bench = options.bench
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        found = [
            stack.enter_context(start_upstream(script, cores=set(bench.load_cores), folder=folder))
            for _ in range(upstreams)
        ]
        where = Place(
            folder=folder / target.RELAY,
            cores=bench.target_cores,
            upstreams=tuple(upstream.port for upstream in found),
            **place,
        )
        server = stack.enter_context(target.start(target.RELAY, where))
        yield server, found


def entry_of(name: str, about: str, figures: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return what a report says of a scenario."""
    return {
        "name": name,
        "target": target.RELAY,
        "about": about,
        "does": target.does(target.RELAY),
        **figures,
        "notes": notes,
    }
