"""Views into HTML: one Jinja environment, the filters of numbers and moments, texts, static files.

A template is given `view`, `frame`, `t` (a text in the reader's language) and `static` (the address
of a file below static/); everything is escaped, and a name that is not there is an error.
"""

import datetime
import gzip
import hashlib
import mimetypes
from collections.abc import Iterable, Mapping
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlencode

import jinja2
import msgspec
from markupsafe import Markup

from relay.console.views import Frame, LogFilter, View

HERE: Final = Path(__file__).parent
DIGEST_CHARS: Final = 12
NONE: Final = "\N{EN DASH}"
"""Nothing is known: never shown as 0."""
_STEPS: Final = ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k"))
_PRESSED: Final = frozenset({".js", ".css", ".svg", ".json", ".txt"})


class StaticFile(msgspec.Struct, frozen=True):
    """A file of static/, as it is sent."""

    body: bytes
    pressed: bytes | None
    """Gzipped, where that is smaller."""
    content_type: str


class StaticFiles:
    """All files below static/, read once; their address changes when any of them does."""

    def __init__(self, folder: Path = HERE / "static") -> None:
        digest = hashlib.sha256()
        self._files: dict[str, StaticFile] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                body = path.read_bytes()
                digest.update(name.encode() + b"\0" + body)
                self._files[name] = _read(path, body)
        self.version = digest.hexdigest()[:DIGEST_CHARS]

    def address(self, name: str) -> str:
        """Return where a file is: below a folder named by the digest of all, so kept for ever."""
        return f"/static/{self.version}/{name}"

    def find(self, name: str) -> StaticFile | None:
        """Return the file of that name, None if there is none."""
        return self._files.get(name)


class Renderer:
    """Draws views; made once a process."""

    def __init__(self, static: StaticFiles, folder: Path = HERE) -> None:
        self._texts = {
            path.stem: msgspec.json.decode(path.read_bytes(), type=dict[str, str])
            for path in (folder / "texts").glob("*.json")
        }
        self._environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(
            usd=show_usd,
            count=show_count,
            compact=show_compact,
            seconds=show_seconds,
            share=show_share,
            moment=show_moment,
            pairs=as_pairs,
            query=as_query,
        )
        self._environment.globals["static"] = static.address

    def render(self, view: View, frame: Frame) -> str:
        """Return the page of a view."""
        texts = self._texts.get(frame.language, {})
        template = self._environment.get_template(view.template)
        return template.render(view=view, frame=frame, t=Translator(texts))


def show_usd(usd: str | None, places: int = 6) -> str:
    """Return an amount with a fixed number of places; rounded here, once, for the eye only."""
    if usd is None:
        return NONE
    step = Decimal(1).scaleb(-places)
    return f"{Decimal(usd).quantize(step, ROUND_HALF_UP):,f}"


def show_count(number: float | None) -> str:
    """Return 18204 as "18,204", None as a dash."""
    return NONE if number is None else f"{number:,.0f}"


def show_compact(number: float | None) -> str:
    """Return 61234567 as "61.2M"."""
    if number is None:
        return NONE
    for size, letter in _STEPS:
        if abs(number) >= size:
            return f"{number / size:.1f}".removesuffix(".0") + letter
    return f"{number:,.0f}"


def show_seconds(ms: float | None) -> str:
    """Return milliseconds as seconds with two or three digits that say something."""
    if ms is None:
        return NONE
    seconds = ms / 1000
    return (
        f"{seconds:.2f}"
        if seconds < 10
        else f"{seconds:.1f}"
        if seconds < 100
        else f"{seconds:,.0f}"
    )


def show_share(share: float | None) -> str:
    """Return 0.0002 as "0.02 %"."""
    return NONE if share is None else f"{share * 100:.2f} %"


def show_moment(moment: str | None, form: Literal["", "short", "span"] = "") -> str | Markup:
    """Return a <time> in UTC to the second; a script may say it in the reader's own zone.

    As "short" it has no year, and milliseconds: for rows of which there are many in a second. As
    "span" it is the begin of a minute or more, in few bytes: a page may have thousands of them.
    """
    if not moment:
        return NONE
    at = datetime.datetime.fromisoformat(moment)
    if form == "span":
        begin = f"{at:%Y-%m-%d %H:%M}"
        return Markup('<time datetime="{}Z">{}</time>').format(begin.replace(" ", "T"), begin)
    whole = f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"
    return Markup('<time datetime="{}" title="{} UTC"{}>{}</time>').format(
        moment,
        whole,
        Markup(' class="short"') if form == "short" else "",
        whole[5:] if form == "short" else whole[:-4],
    )


def as_pairs(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return what a list of choices offers where value and text are the same."""
    return [(word, word) for word in words]


def as_query(wanted: LogFilter) -> str:
    """Return a filter as a query string, without its range."""
    fields = msgspec.structs.asdict(wanted)
    return urlencode({n: v for n, v in fields.items() if v and n not in {"since", "until"}})


class Translator:
    """Gives a text in the reader's language; in English where that has none."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def __call__(self, text: str, **values: object) -> str:
        """Return the text; its {names} filled with `values`."""
        found = self._texts.get(text, text)
        return found.format(**values) if values else found


def _read(path: Path, body: bytes) -> StaticFile:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    if kind.startswith("text/") or kind.endswith(("javascript", "json")):
        kind += "; charset=utf-8"
    pressed = gzip.compress(body, mtime=0) if path.suffix in _PRESSED else None
    return StaticFile(body, pressed if pressed and len(pressed) < len(body) else None, kind)
