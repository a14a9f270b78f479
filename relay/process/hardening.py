"""What a process that sees keys and prompts gives up before it sees the first one."""

import ctypes
import resource
from typing import Final

PR_SET_DUMPABLE: Final = 4
"""Source: prctl(2), linux/prctl.h."""


def refuse_dumps() -> None:
    """Make this process leave no core file and let no process of the same user read its memory.

    RLIMIT_CORE alone is not enough: a core_pattern that is a pipe is fed whatever the limit says.

    Source: docs/reliability.md, "Keys and secrets".
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; return it. A stream takes two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
