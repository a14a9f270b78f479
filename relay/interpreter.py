"""Which Python runs, and whether it was built for speed.

CPython's own build makes a slower interpreter unless it is asked to profile itself first
(`--enable-optimizations`); pyenv, for one, does not ask. The same compiled relay cost a sixth to a
quarter more of a processor on such a build than on Debian's, on two cores, in turns.
"""

import platform
import sys
import sysconfig
from typing import Final

SYSTEM_PREFIX: Final = "/usr"
"""What distributions ship is built for speed, whatever it notes of itself: Debian's notes are those
of another of the builds that its package is made of."""


def is_optimized(arguments: str | None = None, prefix: str | None = None) -> bool:
    """Tell whether this Python was built for speed, by how it was configured and where it lies."""
    if arguments is None:
        arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    return (prefix or sys.base_prefix) == SYSTEM_PREFIX or "--enable-optimizations" in arguments


def describe_python() -> str:
    """Return its version, and that it is a slow build where it is one."""
    return platform.python_version() + ("" if is_optimized() else ", not optimized")
