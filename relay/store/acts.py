"""The audit log: what was done, by whom, when, from where. Only ever added to."""

from typing import Final

import msgspec

from relay.store.postgres import Connection

DETAIL_CHARS_MAX: Final = 1_000

_ADD: Final = """
    INSERT INTO audit_log (actor, user_id, account_id, act, target, detail, ip)
    VALUES ($1, $2, $3, $4, $5, $6, $7::text::inet)"""


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done.

    `actor` is what the credential says that was shown: a user's address, a management key's name,
    the admin token, the login of whoever ran a command; never what a caller says of itself.
    `act`: as "key.disable". `target`: a name, an id, an order number. `detail`: no secret.
    `account_id`: whose matter it is; None = the operator's own. `ip` "": from this machine.
    """

    actor: str
    act: str
    target: str = ""
    detail: str = ""
    user_id: int | None = None
    account_id: int | None = None
    ip: str = ""


async def keep_act(connection: Connection, act: Act) -> None:
    """Keep an act; call it in the transaction that does it, where there is one."""
    await connection.execute(
        _ADD,
        act.actor,
        act.user_id,
        act.account_id,
        act.act,
        act.target[:DETAIL_CHARS_MAX],
        act.detail[:DETAIL_CHARS_MAX],
        act.ip or None,
    )
