"""What a session asks of whoever serves its turns (edge.service)."""

from typing import Protocol

from relay.errors import RelayError
from relay.flow.call import Call, CallOwner
from relay.flow.ports import Client
from relay.flow.request import RequestHead


class TurnService(Protocol):
    """What serves the turns of a session."""

    __slots__ = ()

    def begin_turn(self, client: Client, request_head: RequestHead) -> Call:
        """Return a new call, with its key; it is over by `let_go`, whatever becomes of it.

        Raises:
            RelayError: The key is no longer good; `let_go` was told.
        """
        ...

    def hold_turn(self, call: Call, size: int) -> None:
        """Take the room for so many more bytes of a turn; raises where there is none."""
        ...

    def ask_turn(self, call: Call, owner: CallOwner, body: bytes) -> bool:
        """Begin to answer a turn.

        Returns:
            False: something has to be waited for, and `run_turn` has to carry it out.

        Raises:
            RelayError: It may not run.
        """
        ...

    async def run_turn(self, call: Call, owner: CallOwner) -> bool:
        """Carry a turn out; as flow.exchange's `run`."""
        ...

    def fail_turn(self, call: Call, error: Exception) -> RelayError:
        """Settle a turn of which nothing is out; return what to tell its client."""
        ...

    def let_go(self, call: Call) -> None:
        """Note that a call is over."""
        ...

    def desert(self, call: Call) -> None:
        """Settle a call whose client went before anybody was asked, and note that it is over."""
        ...
