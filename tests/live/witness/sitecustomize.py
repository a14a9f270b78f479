"""What every process of the relay under test runs first: on SIGUSR1 it tells what it has mapped.

A worker lets no other process of its user look at it (PR_SET_DUMPABLE), so only it can say. It
writes /proc/self/maps to PID.maps in the folder that WITNESS_DIR names; the file appears whole.
"""

import os
import signal
from pathlib import Path
from types import FrameType


def testify(_number: int, _frame: FrameType | None) -> None:
    """Write down the mapped files."""
    folder = Path(os.environ["WITNESS_DIR"])
    draft = folder / f".{os.getpid()}.draft"
    draft.write_bytes(Path("/proc/self/maps").read_bytes())
    draft.rename(folder / f"{os.getpid()}.maps")


if "WITNESS_DIR" in os.environ:
    signal.signal(signal.SIGUSR1, testify)
