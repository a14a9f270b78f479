"""Goal: every page can be drawn, light, in all languages, and says nothing that is not escaped.

Method: the samples; the templates and modules as texts.
"""

import datetime
import gzip
import re
from pathlib import PurePosixPath

import msgspec
import pytest

from relay.console.render import (
    HERE,
    Renderer,
    StaticFiles,
    show_compact,
    show_moment,
    show_seconds,
    show_usd,
)
from relay.console.views import VIEWS, FailureView
from tests.console.rig import draw, frame_of
from tests.console.samples import samples
from tests.console.values import usage

PAGE_BYTES_MAX = 150_000


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(StaticFiles())


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", samples())
def test_every_sample_is_drawn(name: str, language: str, renderer: Renderer) -> None:
    html = draw(name, language=language, renderer=renderer)
    assert html.startswith("<!doctype html>")


def test_every_view_has_a_sample() -> None:
    assert {type(view) for _, view in samples().values()} == set(VIEWS)


@pytest.mark.parametrize("name", samples())
def test_nothing_inline_that_the_policy_forbids(name: str, renderer: Renderer) -> None:
    html = draw(name, renderer=renderer)
    assert re.search(r"<[^>]*\s(on\w+|style)\s*=", html) is None
    assert re.search(r"<style", html) is None
    scripts = re.findall(r"<script([^>]*)>", html)
    assert all(" src=" in one or 'type="application/json"' in one for one in scripts)


def test_every_text_is_there_in_every_language() -> None:
    said = set()
    for path in (HERE / "templates").rglob("*.html"):
        said |= set(re.findall(r"\bt\('([^'\n]+)'", path.read_text()))
    said |= {view.title for view in VIEWS}
    for path in (HERE / "texts").glob("*.json"):
        texts = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        assert said - set(texts) == set()
        for text, told in texts.items():
            assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", told))


@pytest.mark.parametrize("name", samples())
def test_a_page_with_all_it_needs_is_light(name: str, renderer: Renderer) -> None:
    assert weigh(draw(name, renderer=renderer)) < PAGE_BYTES_MAX


def test_two_days_by_minute_are_a_light_page(renderer: Renderer) -> None:
    side, view = samples()["usage-whole"]
    begin = datetime.datetime(2026, 11, 28, tzinfo=datetime.UTC)
    rows = [
        msgspec.structs.replace(
            row, time=(begin + datetime.timedelta(minutes=at)).isoformat(timespec="milliseconds")
        )
        for at, row in enumerate(usage(2 * 1_440 + 4))
    ]
    long = msgspec.structs.replace(view, usage=rows)
    assert weigh(renderer.render(long, frame_of(side, long))) < PAGE_BYTES_MAX


def weigh(html: str) -> int:
    """Return the bytes of a page and of all files that it loads, as they are sent."""
    static = StaticFiles()
    prefix = f"/static/{static.version}/"
    wanted = [
        one.removeprefix(prefix) for one in re.findall(r'(?:src|href)="(/static/[^"]+)', html)
    ]
    weight, seen = len(gzip.compress(html.encode())), set[str]()
    while wanted:
        file = wanted.pop()
        if file in seen:
            continue
        seen.add(file)
        found = static.find(file)
        assert found is not None, file
        weight += len(found.pressed or found.body)
        modules = re.findall(r'from "\./([^"]+)"', found.body.decode())
        wanted += [str(PurePosixPath(file).parent / module) for module in modules]
    return weight


def test_what_is_shown_is_escaped(renderer: Renderer) -> None:
    view = FailureView(status=400, message="<b>no</b>", request_id='"><script>')
    html = renderer.render(view, frame_of("account", view))
    assert "<b>no" not in html
    assert "<script>" not in html


def test_numbers_are_shown_as_they_are_read() -> None:
    assert show_usd("0.051108975") == "0.051109"
    assert show_usd("1234567.5", 2) == "1,234,567.50"
    assert show_compact(61_234_567) == "61.2M"
    assert show_compact(30_000_000) == "30M"
    assert show_compact(None) == "\N{EN DASH}"
    assert show_seconds(412.3) == "0.41"
    assert "2026-11-30 05:22:05.123 UTC" in show_moment("2026-11-30T05:22:05.123Z")
