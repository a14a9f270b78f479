"""The recorded answers of real providers, where they are there; the suite passes without them."""

from pathlib import Path

FOLDER = Path(__file__).parents[2] / "shared" / "streams"


def recorded_streams() -> list[Path]:
    """Return the recorded SSE bodies, empty ones left out."""
    return sorted(path for path in FOLDER.glob("*.sse") if path.stat().st_size)


def features(path: Path) -> frozenset[str]:
    """Return what the index says of a recording."""
    for line in (FOLDER / "index.md").read_text().splitlines():
        if line.startswith(f"| {path.name} |"):
            return frozenset(
                word.strip() for word in line.rstrip(" |").rpartition("|")[2].split(",")
            )
    return frozenset()
