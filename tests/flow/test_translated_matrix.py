"""Goal: what docs/translation.md says of each cell is so over real sockets, billing included.

Method: tests/flow/translated_cells.py tries every feature of a pair of dialects, as a stream and as
JSON, through a whole data plane; each must come out as the document's own table says.
"""

from typing import Final

import pytest

from relay.translate import TranslateDialect
from tests.flow.rig import Rig, make_snapshot
from tests.flow.translated_cells import Upstream, channel_of, try_cell
from tests.pure.translate.matrix import COLUMNS, cell
from tests.pure.translate.samples import DIALECTS

PAIRS: Final = [(one, other) for one in DIALECTS for other in DIALECTS]


@pytest.mark.parametrize("how", ["stream", "JSON"])
@pytest.mark.parametrize(("client", "dialect"), PAIRS, ids=lambda one: one.value)
async def test_every_cell_is_as_the_document_says(
    client: TranslateDialect, dialect: TranslateDialect, how: str
) -> None:
    upstream = Upstream(dialect)
    async with (
        upstream.peer as peer,
        Rig(make_snapshot([channel_of(dialect, 1, peer.port)])) as rig,
    ):
        found = {name: await try_cell(rig, client, upstream, name, how) for name in COLUMNS}
    assert found == {name: cell(client, dialect, name, how) for name in COLUMNS}
