"""Who acts, and the one table of what each role may do.

`label` goes into the audit log and the ledger: it comes from the session, the key or the token that
was shown, never from what a caller says of itself.
"""

import enum
import getpass
import os
from typing import Final, Literal

import msgspec

from relay.errors import Forbidden

ActorRole = Literal["owner", "member", "viewer", "management", "operator"]


class Permit(enum.Enum):
    """What a path asks of whoever calls it."""

    PUBLIC = "public"
    """Nothing: not even who it is."""
    LOOK = "look"
    """To read what is the account's."""
    KEYS = "keys"
    """To make and change keys."""
    MONEY = "money"
    """To open orders, redeem codes, set the alert."""
    PEOPLE = "people"
    """To invite and change users, and to make management keys."""
    SELF = "self"
    """To change one's own password, second factor and sessions."""
    OPERATE = "operate"
    """Everything of the operator's side."""


ROLES: Final[dict[Permit, frozenset[ActorRole]]] = {
    Permit.LOOK: frozenset({"owner", "member", "viewer", "management"}),
    Permit.KEYS: frozenset({"owner", "member", "management"}),
    Permit.MONEY: frozenset({"owner", "management"}),
    Permit.PEOPLE: frozenset({"owner"}),
    Permit.SELF: frozenset({"owner", "member", "viewer", "operator"}),
    Permit.OPERATE: frozenset({"operator"}),
}


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who showed a session, a management key or the admin token."""

    label: str
    role: ActorRole
    user_id: int | None = None
    account_id: int | None = None
    """None: an operator."""
    account: str = ""
    email: str = ""
    ip: str = ""
    session: bytes = b""
    """The digest of the session's token; empty: no browser."""
    csrf: str = ""

    def may(self, permit: Permit) -> bool:
        """Return whether the role allows it."""
        return permit is Permit.PUBLIC or self.role in ROLES[permit]

    def require(self, permit: Permit) -> None:
        """Refuse what the role does not allow.

        Raises:
            Forbidden: CLIENT.
        """
        if not self.may(permit):
            raise Forbidden(f"the role {self.role} may not do this")

    @property
    def own(self) -> int:
        """The id of the one account that this actor sees."""
        assert self.account_id is not None, "only an account's side asks for its account"
        return self.account_id


def command_actor() -> Actor:
    """Return whoever runs a command on this machine."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        login = str(os.getuid())
    return Actor(label=f"command {login}", role="operator")
