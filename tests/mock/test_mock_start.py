"""A mock that cannot start as it was told says so at once; nothing is left behind."""

from pathlib import Path

import pytest

from relay.mock.options import MockOptions
from relay.mock.server import start


async def test_half_of_a_tls_pair(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both"):
        await start(MockOptions(tls_cert=tmp_path / "cert.pem"))


async def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="such file"):
        await start(MockOptions(served_path=tmp_path / "absent" / "served"))


async def test_an_address_that_is_taken() -> None:
    mock = await start(MockOptions())
    try:
        with pytest.raises(OSError, match=r"[Aa]ddress"):
            await start(MockOptions(), port=mock.port)
    finally:
        await mock.close()
