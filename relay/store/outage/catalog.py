"""The catalog on this host's disk: what workers start from while Postgres is away.

The control process writes it after each change (`CatalogCopy.keep`); a worker that cannot reach
Postgres when it starts reads it. Upstream credentials are sealed in it as they are in Postgres,
keys are digests, and the file is its owner's alone. Nobody hears of a revocation through it, so
one that is older than `[database] copy_age_max_s` is not served from.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final

import msgspec

from relay.errors import NotFound
from relay.facts import ModelFacts
from relay.model import (
    Account,
    Block,
    Channel,
    Group,
    Key,
    Line,
    Price,
    Secret,
    Snapshot,
    index_routes,
)
from relay.store.outage import checked
from relay.store.secrets.vault import Vault, channel_owner

NAME: Final = "catalog"
_HIDDEN: Final = Secret("")


_StoredBlock = tuple[int, str | None, str, bool, int | None]
"""A block's fields, its network as text."""


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot as it lies on the disk: credentials and networks apart, routes left out."""

    generation: int
    keys: msgspec.Raw
    accounts: list[Account]
    groups: list[Group]
    lines: list[Line]
    channels: list[Channel]
    sealed: dict[int, bytes]
    """By the channel's id."""
    prices: list[Price]
    blocks: list[_StoredBlock] = []
    facts: dict[str, ModelFacts] = {}


class FoundCatalog(msgspec.Struct, frozen=True):
    """A catalog from the disk. `confirmed_s`: seconds since 1970 when it was known to be so."""

    snapshot: Snapshot
    confirmed_s: float


def copy_path(data_dir: Path) -> Path:
    """Return where the copy is."""
    return data_dir / "copies" / NAME


def write_catalog(path: Path, snapshot: Snapshot, vault: Vault) -> None:
    """Write the copy anew.

    Raises:
        OSError: The disk does not take it; the old copy stands.
    """
    checked.write(path, encode(snapshot, vault))


def read_catalog_copy(path: Path, vault: Vault) -> FoundCatalog:
    """Return the catalog of the copy.

    Raises:
        NotFound: There is none, it is damaged, or another release wrote it in another form.
    """
    found = checked.read(path)
    try:
        snapshot = decode(found.content, vault)
    except msgspec.MsgspecError as error:
        raise NotFound(f"{path} is of another release") from error
    return FoundCatalog(snapshot, found.confirmed_s)


def encode(snapshot: Snapshot, vault: Vault) -> bytes:
    """Return a snapshot in bytes that hold no secret in the clear."""
    stored = _Stored(
        generation=snapshot.generation,
        keys=msgspec.Raw(_ENCODER.encode(list(snapshot.keys.values()))),
        accounts=list(snapshot.accounts.values()),
        groups=list(snapshot.groups.values()),
        lines=list(snapshot.lines.values()),
        channels=[
            msgspec.structs.replace(channel, api_key=_HIDDEN)
            for channel in snapshot.channels.values()
        ],
        sealed={
            channel.id: vault.seal(channel.api_key, channel_owner(channel.name))
            for channel in snapshot.channels.values()
        },
        prices=list(snapshot.prices.values()),
        blocks=[
            (one.id, str(one.network) if one.network else None, one.path, one.allow, one.expires_s)
            for one in snapshot.blocks
        ],
        facts=snapshot.facts,
    )
    return _ENCODER.encode(stored)


def decode(content: bytes, vault: Vault) -> Snapshot:
    """Return the snapshot; a channel whose credential cannot be opened comes drained.

    Raises:
        msgspec.MsgspecError: These are no bytes of `encode`.
    """
    stored = _DECODER.decode(content)
    sealed = stored.sealed
    channels = {one.id: _unseal(one, sealed.get(one.id, b""), vault) for one in stored.channels}
    lines = {line.id: line for line in stored.lines}
    return Snapshot(
        generation=stored.generation,
        keys={key.digest: key for key in _read_keys(stored.keys)},
        accounts={account.id: account for account in stored.accounts},
        groups={group.id: group for group in stored.groups},
        lines=lines,
        channels=channels,
        prices={price.model: price for price in stored.prices},
        routes=index_routes(lines, channels),
        blocks=tuple(_read_block(one) for one in stored.blocks),
        facts=stored.facts,
    )


def _read_block(stored: _StoredBlock) -> Block:
    id_, network, path, allow, expires_s = stored
    found = ip_network(network) if network else None
    return Block(id=id_, network=found, path=path, allow=allow, expires_s=expires_s)


def _unseal(channel: Channel, sealed: bytes, vault: Vault) -> Channel:
    api_key = vault.open(sealed, channel_owner(channel.name))
    drained = channel.drained or api_key is None
    return msgspec.structs.replace(channel, api_key=api_key or Secret(""), drained=drained)


def _read_keys(content: msgspec.Raw) -> list[Key]:
    found: list[Any] = _KEYS_DECODER.decode(content)
    return [_read_key(stored) for stored in found]


def _read_key(stored: Any) -> Key:
    fields = {name: getattr(stored, name) for name in Key.__struct_fields__}
    if stored.networks is not None:
        fields["networks"] = tuple(ip_network(one) for one in stored.networks)
    return Key(**fields)


def _hide(value: Any) -> str:
    if isinstance(value, IPv4Network | IPv6Network):
        return str(value)
    if value is _HIDDEN:
        return ""
    raise TypeError(f"{type(value).__name__} is not written to the disk")


def _show(kind: type, _value: Any) -> Secret:
    assert kind is Secret
    return _HIDDEN


def _stored_field(field: msgspec.structs.FieldInfo) -> tuple[str, Any, Any]:
    """Return a field of a key as msgspec reads it: it cannot tell two kinds of networks apart."""
    kind = tuple[str, ...] | None if field.name == "networks" else field.type
    if field.required:
        return field.name, kind, msgspec.NODEFAULT
    return field.name, kind, field.default


_STORED_KEY: Final = msgspec.defstruct(
    "StoredKey", [_stored_field(field) for field in msgspec.structs.fields(Key)], kw_only=True
)
_ENCODER: Final = msgspec.msgpack.Encoder(enc_hook=_hide)
_DECODER: Final = msgspec.msgpack.Decoder(_Stored, dec_hook=_show)
_KEYS_DECODER: Any = msgspec.msgpack.Decoder(list[_STORED_KEY])  # type: ignore[valid-type]
