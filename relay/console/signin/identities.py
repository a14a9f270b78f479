"""Who a user is at an identity provider: kept at the first sign-in, and the same ever after."""

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
