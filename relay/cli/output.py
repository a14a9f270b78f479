"""How commands show rows: aligned columns for people, one JSON array for programs, CSV for both."""

import csv
import datetime
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click
import msgspec

_Command = TypeVar("_Command")

FORMULA_MARKS: Final = frozenset("=+-@\t\r")


class ReaderGone(Exception):
    """Whoever read our stdout has left (`| head`): no error of ours, nor of Postgres."""


Row = Mapping[str, Any]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on stdout and nothing else there."
)
"""The option of every command that has something to read."""


def print_json(value: object) -> None:
    """Print one JSON value on stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_line(value: object) -> None:
    """Print one JSON value on a line of its own.

    Raises:
        ReaderGone: Nobody reads on.
    """
    try:
        click.echo(msgspec.json.encode(value).decode())
    except BrokenPipeError as error:
        raise ReaderGone from error


def print_rows(rows: Sequence[Row], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows: whole ones as a JSON array, or the named columns as a table."""
    if as_json:
        print_json(rows)
        return
    table = [[column.replace("_", " ") for column in columns]]
    table += [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def print_csv(rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Print rows as CSV with a head; what a table would take for a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_plain_text(row[column]) for column in columns] for row in rows)
    click.echo(out.getvalue(), nl=False)


def _plain_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in FORMULA_MARKS else value


def print_fields(row: Row, *, as_json: bool) -> None:
    """Print one row, a field a line."""
    if as_json:
        print_json(row)
        return
    width = max(map(len, row))
    for field, value in row.items():
        click.echo(f"{field.replace('_', ' ').ljust(width)}  {_cell(value)}")


def _cell(value: object) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime.datetime():
            return value.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        case list() | tuple():
            return ", ".join(map(str, value)) or "-"
        case dict():
            pairs = (name if name == to else f"{name}={to}" for name, to in value.items())
            return ", ".join(pairs) or "-"
    return str(value)
