"""Calls of one line that wait for its limits: fair by account, bounded in calls and bytes. Pure.

Deficit round robin on tokens: each account in its turn may spend what it has saved up, so that a
hundred small calls of one are worth as much as one large call of another, and an account that
offers a hundred times as much gets no more for it. When the queue is full, who has most in it loses
its newest call to who has less.

Source: Shreedhar and Varghese, "Efficient Fair Queuing Using Deficit Round Robin", SIGCOMM 1995.
"""

from collections import deque
from typing import Final

QUANTUM: Final = 4_096
"""Tokens that an account's turn is worth: about a call."""


class Ticket:
    """A call that waits."""

    __slots__ = ("account_id", "cost", "size", "waits")

    def __init__(self, account_id: int, cost: int, size: int) -> None:
        self.account_id = account_id
        self.cost = max(cost, 1)
        """Tokens; a call without any is worth one."""
        self.size = size
        """Bytes that it takes while it waits."""
        self.waits = False


class AccountTurn:
    """What one account has in the queue; the oldest first."""

    __slots__ = ("cost", "deficit", "tickets", "visited")

    def __init__(self) -> None:
        self.tickets: dict[Ticket, None] = {}
        self.cost = 0
        self.deficit = 0
        self.visited = False
        """Its turn has begun: what the turn is worth is in `deficit`."""

    @property
    def first(self) -> Ticket:
        """The oldest of them."""
        return next(iter(self.tickets))


class FairQueue:
    """Tickets of one line.

    Args:
        calls_max: So many wait at most.
        bytes_max: ...and take so much.
    """

    def __init__(self, calls_max: int, bytes_max: int) -> None:
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._accounts: dict[int, AccountTurn] = {}
        self._ring: deque[int] = deque()
        self._calls = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._calls

    @property
    def held_bytes(self) -> int:
        """What all of them take."""
        return self._bytes

    @property
    def accounts(self) -> int:
        """How many accounts have calls in it."""
        return len(self._ring)

    def push(self, ticket: Ticket) -> list[Ticket] | None:
        """Let a ticket wait, behind those of its account.

        Returns:
            Who has to go for it, the newest of the longest; None: there is no room for it.
        """
        gone: list[Ticket] = []
        own = self._accounts.get(ticket.account_id)
        own_calls = len(own.tickets) + 1 if own is not None else 1
        while self._calls >= self._calls_max or self._bytes + ticket.size > self._bytes_max:
            longest = max(self._accounts.values(), key=_length, default=None)
            if longest is None or longest is own or len(longest.tickets) <= own_calls:
                for one in gone:
                    self._append(one)
                return None
            newest = next(reversed(longest.tickets))
            self.drop(newest)
            gone.append(newest)
        self._append(ticket)
        return gone

    def drop(self, ticket: Ticket) -> None:
        """Forget a ticket, wherever it stands; a second time does nothing."""
        if not ticket.waits:
            return
        ticket.waits = False
        account = self._accounts[ticket.account_id]
        del account.tickets[ticket]
        account.cost -= ticket.cost
        self._calls -= 1
        self._bytes -= ticket.size
        if not account.tickets:
            del self._accounts[ticket.account_id]
            self._ring.remove(ticket.account_id)

    def first(self) -> Ticket | None:
        """Return whose turn it is; None where nobody waits."""
        if not self._ring:
            return None
        while True:
            for _ in range(len(self._ring)):
                account = self._accounts[self._ring[0]]
                if not account.visited:
                    account.visited = True
                    account.deficit += QUANTUM
                if account.first.cost <= account.deficit:
                    return account.first
                self._pass_on(account)
            # Nobody has saved enough: as many rounds at once as the first of them needs.
            lacking = min(a.first.cost - a.deficit for a in self._accounts.values())
            for account in self._accounts.values():
                account.deficit += max(0, -(-lacking // QUANTUM) - 1) * QUANTUM

    def firsts(self) -> list[Ticket]:
        """Return the oldest of each account, in the order of their turns."""
        return [self._accounts[account_id].first for account_id in self._ring]

    def take(self, ticket: Ticket) -> None:
        """Let the first one of an account go: it is served, at that account's expense."""
        self._accounts[ticket.account_id].deficit -= ticket.cost
        self.drop(ticket)

    def skip(self) -> None:
        """Let the first account's turn pass, as a limit holds it up.

        It keeps what it has saved and is given no more for it: where one limit holds all of them
        up, who comes first after each wait would never use up its turn.
        """
        self._ring.rotate(-1)

    def ahead(self, account_id: int, cost: int) -> int:
        """Return about how many tokens are served before a call that would come now is.

        By the time that its account has had so much, every other one had as much at most.
        """
        own = self._accounts.get(account_id)
        wanted = cost + (own.cost if own is not None else 0)
        others = (a.cost for id_, a in self._accounts.items() if id_ != account_id)
        return wanted - cost + sum(min(other, wanted) for other in others)

    def _append(self, ticket: Ticket) -> None:
        account = self._accounts.get(ticket.account_id)
        if account is None:
            account = self._accounts[ticket.account_id] = AccountTurn()
            self._ring.append(ticket.account_id)
        account.tickets[ticket] = None
        account.cost += ticket.cost
        ticket.waits = True
        self._calls += 1
        self._bytes += ticket.size

    def _pass_on(self, account: AccountTurn) -> None:
        account.visited = False
        self._ring.rotate(-1)


def _length(account: AccountTurn) -> int:
    return len(account.tickets)
