"""What operators ask about limits: the load of each line, and which limit binds a key now."""

from collections.abc import Sequence

from relay.errors import BadRequest
from relay.limits.scopes import Limit, Scope, Terms, Weights, limit_of, limits_of
from relay.model import Account, Allowance, Dialect, Key, Line, Snapshot, lines_of
from relay.store.limits.lendings import (
    UNSHARED,
    read_standings,
    show_lending,
    show_standing,
)
from relay.store.limits.levels import (
    Level,
    Occupancy,
    Row,
    read_levels,
    show_level,
    show_occupancy,
    tightest,
)
from relay.store.limits.nodes import Nodes
from relay.units import parse_multiplier


async def add_loads(rows: Sequence[Row], snapshot: Snapshot, nodes: Nodes) -> list[Row]:
    """Return the rows of `list_lines` with the load of each.

    `tpm_load`, `rpm_load`: what is asked for a minute now; `remaining`: tokens that may be used at
    once; `leased`, `debt`: tokens; `in_flight`: permits held; `reserve`, `used`, `lent` and
    `borrowed`: tokens a minute of its channels. None: no such limit, or Redis does not answer.
    """
    limits = [_limit_of_row(row) for row in rows]
    found = await read_levels(nodes, limits)
    levels, held = found if found is not None else ([], [])
    standings = await read_standings(snapshot, nodes) if found is not None else None
    shown = []
    for row, limit in zip(rows, limits, strict=True):
        loads = _load(limit, levels, held)
        line = snapshot.lines.get(row["id"])  # it may have gone since
        lending = None if line is None else show_lending(line, loads["tpm_load"], standings)
        shown.append({**UNSHARED, **row, **loads, **(lending or {})})
    return shown


async def explain(
    snapshot: Snapshot, key: Key, model: str | None, nodes: Nodes
) -> tuple[str, list[Row] | None]:
    """Return the line that a key's calls go to, and how everything that limits them stands.

    The row with `binds` true is the one with least left; channels come after, as any of them may
    serve. None: Redis does not answer.

    Raises:
        BadRequest: No line serves the model to this key.
    """
    account = snapshot.accounts[key.account_id]
    line = _line_of(snapshot, account, key, model)
    limits = limits_of(line, account, key, model)
    found = await read_levels(nodes, limits)
    if found is None:
        return line.name, None
    levels, held = found
    rows = [show_level(level) for level in levels] + [
        show_occupancy(concurrency) for concurrency in held
    ]
    binding = tightest(rows)
    rows = [{**row, **UNSHARED, "binds": at == binding} for at, row in enumerate(rows)]
    standings = await read_standings(snapshot, nodes) or {}
    over = [standings[at] for at in line.channel_ids if at in standings]
    return line.name, rows + [{**show_standing(line, one), "binds": False} for one in over]


def _line_of(snapshot: Snapshot, account: Account, key: Key, model: str | None) -> Line:
    for line in lines_of(snapshot, key, account):
        served = any(snapshot.routes.get((line.id, dialect, model or "")) for dialect in Dialect)
        if model is None or served:
            return line
    raise BadRequest(f"no line serves {model!r} to this key")


def _limit_of_row(row: Row) -> Limit:
    weights = Weights(
        *(parse_multiplier(row[f"{kind}_weight"]) for kind in ("input", "cached", "output"))
    )
    numbers = Allowance(tpm=row["tpm"], rpm=row["rpm"], concurrency=row["concurrency"])
    return limit_of(Scope.LINE, row["id"], numbers, Terms(weights=weights))


def _load(limit: Limit, levels: Sequence[Level], held: Sequence[Occupancy]) -> Row:
    keys = {bucket.key for bucket in limit.buckets}
    own = {
        row["what"]: row
        for level in levels
        if level.bucket.key in keys
        for row in [show_level(level)]
    }
    permits = [
        concurrency.held
        for concurrency in held
        if limit.concurrency and concurrency.concurrency.key == limit.concurrency.key
    ]
    tokens, calls = own.get("tpm", {}), own.get("rpm", {})
    return {
        "tpm_load": tokens.get("load"),
        "rpm_load": calls.get("load"),
        "remaining": tokens.get("remaining"),
        "leased": tokens.get("leased"),
        "debt": tokens.get("debt"),
        "in_flight": permits[0] if permits else None,
    }
