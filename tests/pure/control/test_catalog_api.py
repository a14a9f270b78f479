"""Goal: a catalog that comes over the API names no secret of this host, in whatever field."""

import pytest

from relay.control.api.catalog import credentials_of
from relay.errors import BadRequest
from relay.model import Secret
from relay.store.catalog.declaration import parse_catalog

CATALOG = """
[[channel]]
name = "up"
base_url = "https://up.example/v1"
models = ["m"]
{credential}
"""


def read(credential: str, given: dict[str, str]) -> list[str]:
    declared = parse_catalog(
        CATALOG.format(credential=credential).encode(), dedicated_tpm=1, plain_upstreams=False
    )
    found = credentials_of(declared, given).values()
    return [one.reveal() for one in found if isinstance(one, Secret)]


@pytest.mark.parametrize(
    "credential",
    [
        'api_key = "file:/etc/hostname"',
        'api_key = "env:HOME"',
        'api_keys = ["cred:pepper"]',
        'api_keys = ["env:A", "file:/etc/shadow"]',
    ],
)
def test_a_reference_is_refused(credential: str) -> None:
    with pytest.raises(BadRequest, match="give it in api_keys"):
        read(credential, {"up": "sk-1"})


def test_a_credential_that_came_along_is_taken() -> None:
    assert read("", {"up": "sk-1"}) == ["sk-1"]
    assert read('api_key = ""', {}) == []
