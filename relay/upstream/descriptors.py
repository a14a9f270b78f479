"""Whether this process has descriptors left: what it cannot do for want of them is its own fault.

Most of what fails without one does not say so: a name does not resolve, a certificate cannot be
verified since nobody could read those that it is verified by.
"""

import errno
import os
from typing import Final

OUR_SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What a connection cannot be made of because this process or machine has used it up."""
FEW: Final = 8
"""Who failed for want of one has closed what it had by the time that somebody looks."""


def few_left(few: int = FEW) -> bool:
    """Tell whether less than a few are left; some microseconds of work."""
    taken: list[int] = []
    try:
        for _ in range(few):
            file = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            taken.append(file)  # one by one: those before the one that fails are closed
    except OSError as error:
        return error.errno in OUR_SHORTAGES
    finally:
        for file in taken:
            os.close(file)
    return False
