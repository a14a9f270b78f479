"""All dialects that are spoken, by the name that the catalog gives them."""

from typing import Final

from relay.model import Dialect
from relay.wire.dialects import anthropic, gemini, openai
from relay.wire.dialects.table import DialectTable

TABLES: Final[dict[Dialect, DialectTable]] = {
    table.dialect: table for table in (openai.TABLE, anthropic.TABLE, gemini.TABLE)
}
KEY_HEADERS: Final[tuple[str, ...]] = tuple(
    name for dialect in reversed(TABLES) for name in TABLES[dialect].client_credentials
)
"""Where a key may be, in the order of looking: clients that were set up twice send several."""
MARKS: Final[dict[str, Dialect]] = {
    table.mark: table.dialect for table in TABLES.values() if table.mark
}
"""Header -> the dialect of the client that sends it."""
