"""Who a user is at an identity provider: kept at the first sign-in, and the same ever after."""

from relay.console.queries.forms import format_moment
from relay.console.rows import IdentityRow
from relay.store.postgres import Connection


async def is_same_person(connection: Connection, user_id: int, issuer: str, subject: str) -> bool:
    """Return whether a user is `subject` at a provider; whoever is not known there is from now."""
    known: str = await connection.fetchval(
        """INSERT INTO user_identities (user_id, issuer, subject) VALUES ($1, $2, $3)
        ON CONFLICT (user_id, issuer) DO UPDATE SET subject = user_identities.subject
        RETURNING subject""",
        user_id,
        issuer,
        subject,
    )
    return known == subject


async def forget_identities(connection: Connection, user_id: int) -> None:
    """Let a user be anybody at any provider who has the address: an operator vouched for them."""
    await connection.execute("DELETE FROM user_identities WHERE user_id = $1", user_id)


async def list_identities(connection: Connection, user_id: int) -> list[IdentityRow]:
    """Return whom a user has signed in as elsewhere."""
    rows = await connection.fetch(
        "SELECT issuer, subject, created_at FROM user_identities WHERE user_id = $1 ORDER BY 3",
        user_id,
    )
    return [
        IdentityRow(
            issuer=row["issuer"],
            subject=row["subject"],
            created_at=format_moment(row["created_at"]),
        )
        for row in rows
    ]


async def unlink(connection: Connection, user_id: int, issuer: str) -> bool:
    """Forget who a user is at one provider; False: nobody was known there."""
    found = await connection.fetchval(
        "DELETE FROM user_identities WHERE user_id = $1 AND issuer = $2 RETURNING true",
        user_id,
        issuer,
    )
    return found is not None
