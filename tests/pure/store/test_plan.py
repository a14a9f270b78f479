"""Goal: the changes of a plan are exactly those that make a declaration hold.

Method: hypothesis draws two catalogs over a few names; a model of the database carries the changes
out one by one; then nothing is left to change, and what was not mentioned is untouched.
"""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.errors import ConfigError
from relay.store.catalog.channel_entry import ChannelEntry
from relay.store.catalog.declaration import AccountEntry, Declaration, GroupEntry, LineEntry
from relay.store.catalog.entry import Entry
from relay.store.catalog.plan import (
    KINDS,
    Catalog,
    CatalogChange,
    ChangeKind,
    compare,
    entries_of,
    identity,
)

names = st.sampled_from("ab")
few = st.lists(names, unique=True, min_size=1)
channels = st.builds(
    ChannelEntry, name=names, base_url=st.just("http://a"), models=few, tpm=st.integers(0, 1)
)
lines = st.builds(LineEntry, name=names, channels=few, tpm=st.just(0))
groups = st.builds(GroupEntry, name=names, lines=few, multiplier=st.sampled_from(["1", "2"]))
accounts = st.builds(AccountEntry, name=names, group=names)


def some(entries: st.SearchStrategy[Entry]) -> st.SearchStrategy[list[Entry]]:
    return st.lists(entries, unique_by=identity, max_size=2)


declarations = st.builds(
    Declaration,
    channel=some(channels),
    line=some(lines),
    group=some(groups),
    account=some(accounts),
)


def carry_out(present: Declaration, changes: list[CatalogChange]) -> Declaration:
    """Return the declaration that the database would hold after the changes, one after another."""
    held = {kind: {identity(e): e for e in entries_of(present, kind)} for kind in KINDS}
    for change in changes:
        name = identity(change.entry)
        if change.action is ChangeKind.REMOVED:
            del held[change.kind][name]
            continue
        assert (name in held[change.kind]) == (change.action is ChangeKind.CHANGED)
        assert bool(change.fields) == (change.action is ChangeKind.CHANGED)
        held[change.kind][name] = change.entry
    lists = {kind: list(entries.values()) for kind, entries in held.items()}
    return msgspec.structs.replace(Declaration(), **lists)


@settings(max_examples=200)
@given(first=declarations, second=declarations, prune=st.booleans())
def test_carried_out_plan_leaves_nothing_to_change(
    first: Declaration, second: Declaration, *, prune: bool
) -> None:
    try:
        base = carry_out(Declaration(), compare(whole(Declaration()), whole(first), prune=False))
        changes = compare(whole(base), whole(second), prune=prune)
    except ConfigError as error:
        assert "there is no" in error.message
        return
    after = carry_out(base, changes)
    assert compare(whole(after), whole(second), prune=prune) == []
    mentioned = {(kind, identity(e)) for kind in KINDS for e in entries_of(second, kind)}
    for kind in KINDS:
        kept = {identity(e): e for e in entries_of(after, kind)}
        for entry in entries_of(base, kind):
            if (kind, identity(entry)) in mentioned:
                continue
            pruned = prune and bool(entries_of(second, kind))
            assert kept.get(identity(entry)) == (None if pruned else entry)


def whole(declaration: Declaration) -> Catalog:
    return Catalog(declaration, {})
