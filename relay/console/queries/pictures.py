"""Pictures of receipts: one of an order, kept by its holder, looked at by holder and support."""

from typing import Final

import msgspec

from relay.errors import BadRequest, Conflict, NotFound
from relay.store.postgres import Connection

BYTES_MAX: Final = 4 * 1024 * 1024
PICTURES_MAX: Final = 20
"""Of one account's orders that wait to be paid."""

_BEGINNINGS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"%PDF-", "application/pdf"),
)


class Picture(msgspec.Struct, frozen=True):
    """A receipt as it was sent."""

    content_type: str
    body: bytes


def read_picture(body: bytes) -> Picture:
    """Return what was sent as a picture of a kind that no browser takes for a page.

    Raises:
        BadRequest: CLIENT; it is none, or too large.
    """
    if len(body) > BYTES_MAX:
        raise BadRequest("picture: at most 4 MiB", param="picture")
    kind = next((kind for begin, kind in _BEGINNINGS if body.startswith(begin)), None)
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        kind = "image/webp"
    if kind is None:
        raise BadRequest("picture: a PNG, JPEG, WebP or PDF file", param="picture")
    return Picture(kind, body)


async def keep_picture(
    connection: Connection, account_id: int, order_no: str, picture: Picture
) -> None:
    """Keep the picture of an account's own order that is not paid yet, in place of an earlier one.

    Raises:
        NotFound: CLIENT; the account has no such order.
        Conflict: CLIENT; it is paid, or there are too many pictures.
    """
    status = await connection.fetchval(
        "SELECT status FROM orders WHERE order_no = $1 AND account_id = $2", order_no, account_id
    )
    if status is None:
        raise NotFound("there is no such order")
    others = await connection.fetchval(
        """SELECT count(*) FROM order_pictures JOIN orders USING (order_no)
        WHERE account_id = $1 AND status = 'pending' AND order_no <> $2""",
        account_id,
        order_no,
    )
    if status != "pending":
        raise Conflict("this order is paid")
    if others >= PICTURES_MAX:
        raise Conflict(f"at most {PICTURES_MAX} orders that wait may have a picture")
    await connection.execute(
        """INSERT INTO order_pictures (order_no, content_type, body) VALUES ($1, $2, $3)
        ON CONFLICT (order_no) DO UPDATE SET content_type = excluded.content_type,
            body = excluded.body, created_at = now()""",
        order_no,
        picture.content_type,
        picture.body,
    )


async def find_picture(
    connection: Connection, order_no: str, *, account_id: int | None = None
) -> Picture:
    """Return the picture of an order; for an account (None: an operator), of its own ones.

    Raises:
        NotFound: CLIENT; there is none.
    """
    row = await connection.fetchrow(
        """SELECT content_type, body FROM order_pictures JOIN orders USING (order_no)
        WHERE order_no = $1 AND ($2::bigint IS NULL OR account_id = $2)""",
        order_no,
        account_id,
    )
    if row is None:
        raise NotFound("there is no such picture")
    return Picture(row["content_type"], row["body"])
