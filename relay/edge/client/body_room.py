"""The memory that request bodies may take: of all of them, and of one account's or one address's.

What has arrived counts, not what was announced: a stranger's announcement costs us nothing, and one
account that sends much leaves room for the others.
"""

from typing import Final

from relay.config import Server
from relay.errors import RateLimited, Unavailable
from relay.flow.call import Call

RETRY_AFTER_S: Final = 1.0
SMALL_BYTES: Final = 4096
"""Bodies up to this count in the whole only: those of as many connections as a worker takes come to
a twelfth of it, and most calls need not be looked up."""


class BodyRoom:
    """Counts the bodies that one worker holds.

    Args:
        limits: `[server]`.
    """

    __slots__ = ("_accounts", "_addresses", "_bytes_max", "_held_bytes", "_share_bytes_max")

    def __init__(self, limits: Server) -> None:
        self._bytes_max = limits.buffered_bytes_max
        self._share_bytes_max = int(limits.buffered_bytes_max * limits.buffered_share_max)
        self._held_bytes = 0
        self._accounts: dict[int, int] = {}
        self._addresses: dict[str, int] = {}

    @property
    def held_bytes(self) -> int:
        """What all bodies take now."""
        return self._held_bytes

    @property
    def share(self) -> float:
        """What part of all that they may take that is."""
        return self._held_bytes / self._bytes_max

    def take(self, call: Call, size: int) -> None:
        """Take the room that so many more bytes of a call's body need.

        Raises:
            Unavailable: RELAY; all bodies together take what they may.
            RateLimited: CLIENT; those of the account, or of the address, do.
        """
        held = call.body_bytes + size
        if self._held_bytes + size > self._bytes_max:
            raise Unavailable("The relay is overloaded; try again.", retry_after_s=RETRY_AFTER_S)
        if held > SMALL_BYTES:
            self._take_share(call, size if call.body_bytes > SMALL_BYTES else held)
        call.body_bytes = held
        self._held_bytes += size

    def free(self, call: Call) -> None:
        """Give back what a call's body took; a second time does nothing."""
        held, call.body_bytes = call.body_bytes, 0
        self._held_bytes -= held
        if held > SMALL_BYTES:
            account_id = _account_of(call)
            self._accounts[account_id] -= held
            self._addresses[call.head.ip] -= held
            if not self._accounts[account_id]:
                del self._accounts[account_id]
            if not self._addresses[call.head.ip]:
                del self._addresses[call.head.ip]

    def _take_share(self, call: Call, size: int) -> None:
        account_id = _account_of(call)
        of_account = self._accounts.get(account_id, 0) + size
        of_address = self._addresses.get(call.head.ip, 0) + size
        if max(of_account, of_address) > self._share_bytes_max:
            whose = "account" if of_account > self._share_bytes_max else "address"
            raise RateLimited(
                f"The calls of this {whose} take its share of the relay's memory: send fewer.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._accounts[account_id] = of_account
        self._addresses[call.head.ip] = of_address


def _account_of(call: Call) -> int:
    account = call.rights.account
    return account.id if account is not None else 0
