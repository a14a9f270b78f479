"""Goal: a Python that was not built for speed is told from one that was."""

import pytest

from relay.interpreter import describe_python, is_optimized


@pytest.mark.parametrize(
    ("arguments", "prefix", "optimized"),
    [
        ("'--enable-shared'", "/opt/pyenv/versions/3.11.7", False),
        ("'--enable-optimizations' '--with-lto'", "/opt/python", True),
        ("", "/opt/python", False),
        # Debian's package notes how one of its other builds was configured.
        ("'--enable-shared' '--prefix=/usr'", "/usr", True),
    ],
)
def test_how_it_was_configured_says_it(arguments: str, prefix: str, optimized: bool) -> None:
    """A distribution's own Python is built for speed, any other only if it was asked to be."""
    assert is_optimized(arguments, prefix) is optimized


def test_a_slow_build_is_said_beside_its_version() -> None:
    """Nothing is said of a good one."""
    assert ("not optimized" in describe_python()) is not is_optimized()
