"""Goal: the catalog on a host's disk is the catalog, and gives no secret away.

Method: a snapshot that uses every field is written, read back and compared; the file is searched
for the credential, damaged, and read under another master key.
"""

from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.errors import NotFound
from relay.facts import ModelFacts
from relay.model import (
    Account,
    Allowance,
    Block,
    Channel,
    Dialect,
    Group,
    Key,
    Line,
    Price,
    PriceDetail,
    PriceTier,
    Secret,
    Snapshot,
    index_routes,
)
from relay.reach import Auth, Egress, Reach
from relay.store.outage.catalog import _Stored, read_catalog_copy, write_catalog
from relay.store.secrets.vault import Vault

VAULT = Vault(bytes(32))
CANARY = "sk-canary-0123456789"
CHANNEL = Channel(
    id=3,
    name="up",
    base_url="https://up.example/v1",
    api_key=Secret(CANARY),
    models={"m": "m-1"},
    protocol=Dialect.ANTHROPIC,
    version=7,
    reach=Reach(auth=Auth.API_KEY, query={"api-version": "1"}, egress=Egress(ca_file="/ca")),
)
LINE = Line(id=2, name="line", channel_ids=(3,), model_limits={"m": Allowance(tpm=5)})
TIER = PriceTier(above_tokens=5, input=1, output=2, cached_input=3)
SNAPSHOT = Snapshot(
    generation=41,
    keys={
        b"digest": Key(
            id=1,
            account_id=5,
            name="k",
            digest=b"digest",
            last4="abcd",
            models=frozenset({"m"}),
            networks=(ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")),
            quota_nanos=9,
            line_ids=(2,),
        ),
        b"other": Key(id=2, account_id=5, name="o", digest=b"other", last4="efgh"),
    },
    accounts={5: Account(id=5, name="a", group_id=4, granted_line_ids=(2,))},
    groups={4: Group(id=4, name="g", line_ids=(2,))},
    lines={2: LINE},
    channels={3: CHANNEL},
    prices={
        "m": Price(
            id=8, model="m", input=1, output=2, cached_input=3, detail=PriceDetail(tiers=(TIER,))
        )
    },
    routes=index_routes({2: LINE}, {3: CHANNEL}),
    blocks=(
        Block(id=1, network=ip_network("192.0.2.0/24"), expires_s=7),
        Block(id=2, path="/v1/x", allow=True),
    ),
    facts={"m": ModelFacts(context_tokens=9, input_modalities=("text", "image"))},
)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write_catalog(tmp_path / "copies" / "catalog", SNAPSHOT, VAULT)
    assert read_catalog_copy(tmp_path / "copies" / "catalog", VAULT).snapshot == SNAPSHOT


def test_nothing_of_a_snapshot_is_left_out() -> None:
    """What a later release adds to it has to be written too, or a host would start without it."""
    assert set(Snapshot.__struct_fields__) - {"routes"} == set(_Stored.__struct_fields__) - {
        "sealed"
    }


def test_it_is_the_owners_alone_and_holds_no_credential_in_the_clear(tmp_path: Path) -> None:
    path = tmp_path / "copies" / "catalog"
    write_catalog(path, SNAPSHOT, VAULT)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert CANARY.encode() not in path.read_bytes()
    assert [found.name for found in path.parent.iterdir()] == ["catalog"]


def test_a_channel_sealed_under_another_master_key_comes_drained(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", SNAPSHOT, VAULT)
    found = read_catalog_copy(tmp_path / "catalog", Vault(bytes([1]) * 32)).snapshot
    assert found.channels[3].drained
    assert found.channels[3].api_key == Secret("")
    assert found.routes == {}


@pytest.mark.parametrize("at", [0, 20, 60, -1])
def test_a_damaged_file_is_no_file(tmp_path: Path, at: int) -> None:
    path = tmp_path / "catalog"
    write_catalog(path, SNAPSHOT, VAULT)
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(NotFound, match="damaged"):
        read_catalog_copy(path, VAULT)


@pytest.mark.parametrize("kept", [0, 10, 100])
def test_a_torn_file_is_no_file(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "catalog"
    write_catalog(path, SNAPSHOT, VAULT)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(NotFound, match="damaged"):
        read_catalog_copy(path, VAULT)


def test_a_host_without_a_copy_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no"):
        read_catalog_copy(tmp_path / "catalog", VAULT)
