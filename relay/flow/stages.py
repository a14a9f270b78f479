"""The stages of call.Stage under names that compiled code reads at once.

A member of an enum is looked up in its class, through a metaclass, each time it is named; a call
names one a dozen times.
"""

from typing import Final

from relay.call import Stage

ADMITTED: Final = Stage.ADMITTED
DIALED: Final = Stage.DIALED
ASKED: Final = Stage.ASKED
HEADED: Final = Stage.HEADED
COMMITTED: Final = Stage.COMMITTED
ENDED: Final = Stage.ENDED
