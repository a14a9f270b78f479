"""What upstreams list against what is sold: compared, and written where it is wanted.

`models` of a channel is what is sold: names that somebody wrote, and `models_found`, which the
channel's patterns chose out of its list. A sync changes the second part only.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from relay.store.catalog.apply import LOCK
from relay.store.catalog.canonical import choose_models
from relay.store.catalog.write import FOLLOW_CHANNEL
from relay.store.postgres import Connection
from relay.wire.kinds.listing import Listed

LOSS_MIN: Final = 4
"""A list may lose so many at once and be believed, however short it was."""

_STATED: Final = """
    SELECT name, models, model_patterns, models_found, models_auto
    FROM channels WHERE deleted_at IS NULL AND key_of IS NULL ORDER BY name"""
_WRITE: Final = """
    UPDATE channels SET models = $2, models_found = $3, listed_at = now()
    WHERE name = $1 AND deleted_at IS NULL"""
_FACTS: Final = """
    INSERT INTO models AS old (name, context_tokens, output_tokens, input_modalities,
        output_modalities)
    SELECT name, context_tokens, output_tokens, input_modalities, output_modalities
    FROM jsonb_to_recordset($1::jsonb) AS said (name text, context_tokens bigint,
        output_tokens bigint, input_modalities text[], output_modalities text[])
    ON CONFLICT (name) DO UPDATE SET
        context_tokens = COALESCE(NULLIF(excluded.context_tokens, 0), old.context_tokens),
        output_tokens = COALESCE(NULLIF(excluded.output_tokens, 0), old.output_tokens),
        input_modalities = CASE WHEN excluded.input_modalities = '{}'
            THEN old.input_modalities ELSE excluded.input_modalities END,
        output_modalities = CASE WHEN excluded.output_modalities = '{}'
            THEN old.output_modalities ELSE excluded.output_modalities END
    WHERE (old.context_tokens, old.output_tokens) IS DISTINCT FROM
          (excluded.context_tokens, excluded.output_tokens)
       OR (old.input_modalities, old.output_modalities) IS DISTINCT FROM
          (excluded.input_modalities, excluded.output_modalities)"""


class Stated(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel sells: `named` by hand, `found` chosen by `patterns` out of its list."""

    channel: str
    named: dict[str, str]
    patterns: list[str]
    found: dict[str, str]
    auto: bool


class ListChange(msgspec.Struct, frozen=True, kw_only=True):
    """What a list means for a channel.

    `gained`, `lost`: models that patterns choose now, and no longer. `vanished`: sold by name, and
    not listed. `left`: listed, and chosen by nobody. `doubt`: why it is not taken over unasked.
    """

    channel: str
    listed: int
    gained: list[str]
    lost: list[str]
    vanished: list[str]
    left: int
    doubt: str = ""

    @property
    def changes(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.gained or self.lost)


async def read_stated(connection: Connection) -> list[Stated]:
    """Return what each channel sells."""
    rows = await connection.fetch(_STATED)
    stated = []
    for row in rows:
        models = msgspec.json.decode(row["models"], type=dict[str, str])
        found = msgspec.json.decode(row["models_found"], type=dict[str, str])
        stated.append(
            Stated(
                channel=row["name"],
                named={public: up for public, up in models.items() if public not in found},
                patterns=list(row["model_patterns"]),
                found=found,
                auto=row["models_auto"],
            )
        )
    return stated


def compare_list(stated: Stated, listed: Sequence[Listed]) -> ListChange:
    """Return what a channel's list changes of what it sells. Pure."""
    names = [model.name for model in listed]
    chosen = [name for name in choose_models(stated.patterns, names) if name not in stated.named]
    lost = sorted(stated.found.keys() - set(chosen))
    known = {*chosen, *stated.named.values()}
    doubt = ""
    if not names:
        doubt = "its list is empty"
    elif len(lost) > LOSS_MIN and len(lost) * 2 > len(stated.found):
        doubt = "its list lost more than half of what it had"
    return ListChange(
        channel=stated.channel,
        listed=len(names),
        gained=sorted(set(chosen) - stated.found.keys()),
        lost=lost,
        vanished=sorted(set(stated.named.values()) - set(names)),
        left=len(set(names) - known),
        doubt=doubt,
    )


async def take_over(
    connection: Connection, lists: Mapping[str, Sequence[Listed]], *, even_doubtful: bool
) -> list[ListChange]:
    """Make channels sell what their patterns choose out of these lists; return what that changed.

    Args:
        connection: Outside of any transaction.
        lists: By channel.
        even_doubtful: Whether lists are believed that look broken.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        changes = []
        facts: dict[str, Listed] = {}
        for stated in await read_stated(connection):
            listed = lists.get(stated.channel)
            if listed is None:
                continue
            change = compare_list(stated, listed)
            changes.append(change)
            if change.changes and (even_doubtful or not change.doubt):
                await _write(connection, stated, listed)
            for public, model in _sold(stated, listed):
                # Where two lists tell different things of a model, the first one counts.
                facts.setdefault(public, model)
        await _write_facts(connection, facts)
    return changes


async def _write(connection: Connection, stated: Stated, listed: Sequence[Listed]) -> None:
    chosen = choose_models(stated.patterns, [model.name for model in listed])
    found = {name: name for name in chosen if name not in stated.named}
    await connection.execute(
        _WRITE,
        stated.channel,
        msgspec.json.encode(found | stated.named).decode(),
        msgspec.json.encode(found).decode(),
    )
    await connection.execute(FOLLOW_CHANNEL, stated.channel)


def _sold(stated: Stated, listed: Sequence[Listed]) -> Iterator[tuple[str, Listed]]:
    """Yield what is told of the models that a channel sells, by the names they are sold under."""
    told = {model.name: model for model in listed if model != Listed(name=model.name)}
    chosen = choose_models(stated.patterns, told)
    for public, upstream in ({name: name for name in chosen} | stated.named).items():
        if upstream in told:
            yield public, msgspec.structs.replace(told[upstream], name=public)


async def _write_facts(connection: Connection, facts: Mapping[str, Listed]) -> None:
    if facts:
        said = msgspec.json.encode(list(facts.values())).decode()
        await connection.execute(_FACTS, said)
