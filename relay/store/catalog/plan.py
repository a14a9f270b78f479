"""What must change in the catalog so that a declaration holds: a diff of two catalogs.

Pure. What the declaration does not mention stays as it is, unless it is pruned.
"""

import enum
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from relay.errors import ConfigError
from relay.model import Secret
from relay.store.catalog.channel_entry import KEYS_MAX, ChannelEntry, key_name
from relay.store.catalog.declaration import (
    AccountEntry,
    Declaration,
    GroupEntry,
    KeyEntry,
    LineEntry,
    PriceEntry,
)
from relay.store.catalog.entry import Entry
from relay.store.catalog.keys import KeyMark

Identity = tuple[str, ...]
Credentials = dict[tuple[str, Identity], Secret | KeyMark | None]
"""By kind and identity: a channel's api_key, a key's mark. None: there, but unreadable."""

KINDS: Final = ("channel", "line", "group", "price", "account", "key")
"""The tables of a declaration in the order they are written: a name is defined before its use."""

CREDENTIAL: Final = "credential"
"""The field a changed credential is shown as; what it was and is stays hidden."""

_CREDENTIAL_FIELDS: Final = frozenset({"api_key", "api_keys", "key"})


class Catalog(msgspec.Struct, frozen=True):
    """A whole catalog, or the part of one that a file declares."""

    entries: Declaration
    credentials: Credentials


class ChangeKind(enum.StrEnum):
    """What happens to an entry."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class CatalogChange(msgspec.Struct, frozen=True, kw_only=True):
    """One entry to write.

    `fields`: for a changed entry {field: (before, after)} as text; credentials are never in it.
    """

    kind: str
    name: str
    action: ChangeKind
    entry: Entry
    fields: dict[str, tuple[str, str]] = {}


def identity(entry: Entry) -> Identity:
    """Return what an entry is known by among those of its kind."""
    match entry:
        case KeyEntry():
            return (entry.account, entry.name)
        case PriceEntry():
            return (entry.model,)
        case ChannelEntry() | LineEntry() | GroupEntry() | AccountEntry():
            return (entry.name,)
    raise AssertionError(f"no identity for {type(entry).__name__}")


def entries_of(declaration: Declaration, kind: str) -> Sequence[Entry]:
    """Return the entries of one kind, in their order."""
    entries: Sequence[Entry] = getattr(declaration, kind)
    return entries


def compare(present: Catalog, wanted: Catalog, *, prune: bool) -> list[CatalogChange]:
    """Return the changes that make `wanted` hold, in the order they can be written.

    Args:
        present: The whole catalog as it is.
        wanted: What the file declares.
        prune: Whether channels, lines, groups, prices and accounts that the file does not mention
            go, for each of these kinds that it mentions at all. Keys stay: most of them were never
            in a file; but a removed account takes its keys along.

    Raises:
        ConfigError: An entry is declared twice, or would refer to what is not there.
    """
    changes: list[CatalogChange] = []
    final: dict[str, dict[Identity, Entry]] = {}
    for kind in KINDS:
        before = _by_identity(kind, entries_of(present.entries, kind))
        declared = _by_identity(kind, entries_of(wanted.entries, kind))
        for name, entry in declared.items():
            changes += _compare_entry(kind, before.get(name), entry, present, wanted)
        removed: list[Identity] = []
        if kind == "key":
            removed = [name for name in before if (name[0],) not in final["account"]]
        elif prune and declared:
            removed = [name for name in before if name not in declared]
        changes += [_removal(kind, before[name]) for name in removed]
        final[kind] = {
            name: entry for name, entry in (before | declared).items() if name not in removed
        }
    _check_references(final)
    return changes


def digest_of(changes: Sequence[CatalogChange]) -> str:
    """Return a text that is another one for other changes; credentials are none of it."""
    shown = [(c.kind, c.name, c.action, c.fields, msgspec.to_builtins(c.entry)) for c in changes]
    return hashlib.sha256(msgspec.json.encode(shown)).hexdigest()


def _by_identity(kind: str, entries: Sequence[Entry]) -> dict[Identity, Entry]:
    found: dict[Identity, Entry] = {}
    for at, entry in enumerate(entries):
        name = identity(entry)
        if name in found:
            raise ConfigError(f"{kind} {_shown(name)} is declared twice - at `$.{kind}[{at}]`")
        found[name] = entry
    return found


def _compare_entry(
    kind: str, before: Entry | None, after: Entry, present: Catalog, wanted: Catalog
) -> Iterable[CatalogChange]:
    name = identity(after)
    if before is None:
        yield CatalogChange(kind=kind, name=_shown(name), action=ChangeKind.ADDED, entry=after)
        return
    fields = {
        field: (_text(getattr(before, field)), _text(getattr(after, field)))
        for field in after.__struct_fields__
        if field not in _CREDENTIAL_FIELDS and getattr(before, field) != getattr(after, field)
    }
    given = _credentials_of(after, wanted)
    if given and given != _credentials_of(after, present):
        fields[CREDENTIAL] = ("(hidden)", "(hidden)")
    if fields:
        yield CatalogChange(
            kind=kind, name=_shown(name), action=ChangeKind.CHANGED, entry=after, fields=fields
        )


def _credentials_of(entry: Entry, catalog: Catalog) -> list[Secret | KeyMark | None]:
    """Return an entry's credentials, the first one first; a channel may have several."""
    if isinstance(entry, KeyEntry):
        slots = [("key", identity(entry))]
    elif isinstance(entry, ChannelEntry):
        slots = [("channel", (key_name(entry.name, n),)) for n in range(1, KEYS_MAX + 1)]
    else:
        return []
    return [
        catalog.credentials[slot]
        for slot in itertools.takewhile(catalog.credentials.__contains__, slots)
    ]


def _removal(kind: str, entry: Entry) -> CatalogChange:
    return CatalogChange(
        kind=kind, name=_shown(identity(entry)), action=ChangeKind.REMOVED, entry=entry
    )


def _check_references(final: dict[str, dict[Identity, Entry]]) -> None:
    for kind, entries in final.items():
        for name, entry in entries.items():
            for field, target_kind, target in _references(entry):
                if (target,) not in final[target_kind]:
                    raise ConfigError(
                        f"{kind} {_shown(name)}: {field}: there is no {target_kind} {target!r}"
                    )


def _references(entry: Entry) -> list[tuple[str, str, str]]:
    """Return (field, kind, name) of everything an entry refers to."""
    match entry:
        case LineEntry():
            return [("channels", "channel", name) for name in entry.channels]
        case GroupEntry():
            return [("lines", "line", name) for name in entry.lines]
        case AccountEntry():
            return [("group", "group", entry.group)]
        case KeyEntry():
            lines = [("lines", "line", name) for name in entry.lines or ()]
            return [("account", "account", entry.account), *lines]
    return []


def _shown(name: Identity) -> str:
    return "/".join(name)


def _text(value: object) -> str:
    if value is None or value == "":
        return "(none)"
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return ", ".join(value)
    plain = msgspec.to_builtins(value)
    return plain if isinstance(plain, str) else msgspec.json.encode(plain).decode()
