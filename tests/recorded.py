"""The recorded answers of real providers, in tests/recorded; its index.md says whose they are.

RELAY_RECORDED may name a further folder of them, with an index like that one.
"""

import os
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "recorded"
_MORE: Final = os.environ.get("RELAY_RECORDED")
FOLDERS: Final = (FOLDER, *([Path(_MORE)] if _MORE else []))


def recorded_streams(*kinds: str) -> list[Path]:
    """Return the recorded SSE bodies; with kinds, such as "chat", those of these protocols only."""
    found = {path.name: path for folder in reversed(FOLDERS) for path in folder.glob("*.sse")}
    return [
        path
        for _, path in sorted(found.items())
        if path.stat().st_size and (not kinds or any(f"-{kind}-" in path.name for kind in kinds))
    ]


def indexed() -> list[str]:
    """Return the names of the files that our own index has a row for, in its order."""
    rows = [line.split(" | ")[0] for line in _index(FOLDER)]
    return [name.removeprefix("| ") for name in rows if name.endswith(".sse")]


def features(path: Path) -> frozenset[str]:
    """Return what the index says of a recorded stream."""
    for line in _index(path.parent):
        if line.startswith(f"| {path.name} |"):
            said = line.rstrip(" |").rpartition("|")[2]
            return frozenset(word.strip() for word in said.split(","))
    raise AssertionError(f"{path.name} has no row in the index")


def _index(folder: Path) -> list[str]:
    return (folder / "index.md").read_text("utf-8").splitlines()
