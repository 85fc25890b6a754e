"""The report in a real Chromium: quiet, whole, linked, and readable on any screen and on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

import medlens

WIDTHS = (1400, 390)
SCHEMES = ("light", "dark")
# A page of A4 less its margins, at 96 pixels to the inch. What is wider is printed smaller by
# Chromium until it fits; below four fifths the letters would be too small.
PAPER_WIDTH = 673
WIDEST_ON_PAPER = PAPER_WIDTH * 5 // 4
# WCAG 2.2, success criterion 1.4.3.
LEAST_CONTRAST = 4.5

# Each figure and picture: what it is, whether it can be seen, its size, and the sides of what holds
# it; what is wider than the screen may be moved about in a frame that is not.
LIST_FIGURES = """() => [...document.querySelectorAll('figure svg, main img')].map(one => {
  let frame = one;
  for (let up = one.parentElement; up; up = up.parentElement)
    if (['auto', 'scroll'].includes(getComputedStyle(up).overflowX)) { frame = up; break; }
  const own = one.getBoundingClientRect(), held = frame.getBoundingClientRect();
  return {
    name: one.getAttribute('aria-label') || one.alt || '',
    seen: one.checkVisibility(), loaded: one.tagName !== 'IMG' || one.naturalWidth > 0,
    width: own.width, height: own.height, left: held.left, right: held.right,
  };
})"""
LIST_BROKEN_LINKS = """() => [...document.querySelectorAll('[href^="#"]')]
  .map(one => one.getAttribute('href').slice(1))
  .filter(id => [...document.querySelectorAll('[id]')].filter(one => one.id === id).length !== 1)"""
COUNT_LINKS = """() => document.querySelectorAll('a[href^="#"]').length"""
LIST_DOUBLE_IDS = """() => {
  const ids = [...document.querySelectorAll('[id]')].map(one => one.id);
  return ids.filter((id, place) => ids.indexOf(id) !== place);
}"""
OVERHANG = """() => document.documentElement.scrollWidth - document.documentElement.clientWidth"""
OPEN_ALL = """() => document.querySelectorAll('details').forEach(one => { one.open = true; })"""
# Text with too little contrast to what lies behind it. Colours are read from a canvas, which knows
# every way to write one; what is see-through lets the next colour behind it through.
LIST_FAINT = """(least) => {
  const brush = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const read = colour => {
    brush.clearRect(0, 0, 1, 1); brush.fillStyle = colour; brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = one => {
    const layers = [];
    for (; one; one = one.parentElement) layers.push(read(getComputedStyle(one).backgroundColor));
    const canvas = getComputedStyle(document.documentElement).colorScheme.includes('dark')
      && matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
    return layers.reduceRight((below, top) => over(top, below), canvas);
  };
  const light = colour => {
    const [r, g, b] = colour.map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const words = 'p, li, td, th, dt, dd, h1, h2, h3, h4, figcaption, summary, code, strong, span, a';
  return [...document.querySelectorAll(words)]
    .filter(one => one.checkVisibility() && !one.matches('.anchor')
      && [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .map(one => {
      const ground = behind(one), ink = over(read(getComputedStyle(one).color), ground);
      const [low, high] = [light(ground), light(ink)].sort((a, b) => a - b);
      const contrast = (high + 0.05) / (low + 0.05);
      return {text: one.textContent.trim().slice(0, 40), contrast, of: one.tagName};
    }).filter(one => one.contrast < least);
}"""
# What is wider or higher than the frame that clips it: on paper nobody can move it.
LIST_CUT = """() => [...document.querySelectorAll('body *')]
  .filter(one => one.checkVisibility() && !one.closest('svg') && one.clientWidth > 1)
  .filter(one => {
    const style = getComputedStyle(one);
    return (style.overflowX !== 'visible' && one.scrollWidth > one.clientWidth + 1)
      || (style.overflowY !== 'visible' && one.scrollHeight > one.clientHeight + 1);
  })
  .map(one => one.tagName + '.' + one.className + ' ' + (one.getAttribute('aria-label') || ''))"""


@dataclass
class Opened:
    """A report in the browser, and all that it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def show(chromium: Browser, finished_run: medlens.Run) -> Iterator[Callable[..., Opened]]:
    """Opens the report of a run from disk, with every folded part unfolded."""
    contexts = []

    def opened(
        width: int = 1400, scheme: str = "light", report: Path = finished_run.report
    ) -> Opened:
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="reduce",  # no waiting for a page that glides
        )
        contexts.append(context)
        page = context.new_page()
        shown = Opened(page)
        page.on("console", lambda message: shown.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: shown.said.append(f"error: {error}"))
        page.on("request", lambda request: shown.asked.append(request.url))
        page.goto(report.as_uri(), wait_until="load")
        page.evaluate(OPEN_ALL)
        return shown

    yield opened
    for context in contexts:
        context.close()


def is_inside(url: str, report: Path) -> bool:
    """Whether what was asked for is the page itself, or held in it."""
    return url.split("#")[0] == report.as_uri() or url.startswith("data:")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_page_says_nothing_and_asks_for_nothing(
    show: Callable[..., Opened], finished_run: medlens.Run, scheme: str
) -> None:
    shown = show(scheme=scheme)
    shown.page.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
    shown.page.wait_for_load_state("networkidle")
    assert shown.said == []
    assert shown.asked[0] == finished_run.report.as_uri()
    assert [url for url in shown.asked if not is_inside(url, finished_run.report)] == []


def test_a_page_that_complains_and_asks_is_caught(
    show: Callable[..., Opened], tmp_path: Path
) -> None:
    """The test above can fail."""
    page = tmp_path / "loud.html"
    page.write_text('<img src="gone.png"><script>console.warn("loud")</script>', encoding="utf-8")
    shown = show(report=page)
    assert "warning: loud" in shown.said
    assert [url for url in shown.asked if not is_inside(url, page)]


@pytest.mark.parametrize("width", WIDTHS)
def test_every_figure_and_picture_is_seen_within_the_page(
    show: Callable[..., Opened], width: int
) -> None:
    figures = show(width).page.evaluate(LIST_FIGURES)
    assert len(figures) > 10
    for one in figures:
        assert one["name"], one
        assert one["seen"], one
        assert one["loaded"], one
        assert one["width"] > 50, one
        assert one["height"] > 50, one
        assert one["left"] >= 0, one
        assert one["right"] <= width, one


def test_every_link_leads_to_one_place(show: Callable[..., Opened]) -> None:
    page = show().page
    assert page.evaluate(LIST_BROKEN_LINKS) == []
    assert page.evaluate(LIST_DOUBLE_IDS) == []
    assert page.evaluate(COUNT_LINKS) > 50  # the contents, and the checklists' items


def test_a_link_of_a_checklist_shows_its_place(show: Callable[..., Opened]) -> None:
    page = show().page
    link = page.locator('td a[href="#performance"]').first
    link.click()
    top = page.evaluate("() => document.getElementById('performance').getBoundingClientRect().top")
    assert -1 <= top <= 450


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_moves_sideways(
    show: Callable[..., Opened], width: int, scheme: str
) -> None:
    page = show(width, scheme).page
    assert page.evaluate(OVERHANG) <= 0
    # Folded as well: this is how the reader finds it.
    page.evaluate(
        "() => document.querySelectorAll('details').forEach(one => { one.open = false; })"
    )
    assert page.evaluate(OVERHANG) <= 0


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_stands_out_from_what_is_behind_it(
    show: Callable[..., Opened], width: int, scheme: str
) -> None:
    assert show(width, scheme).page.evaluate(LIST_FAINT, LEAST_CONTRAST) == []


def test_faint_text_is_found(show: Callable[..., Opened], tmp_path: Path) -> None:
    """The test above can fail."""
    page = tmp_path / "faint.html"
    page.write_text(
        '<p style="color: #999">faint</p><p style="color: #333">dark</p>'
        '<div style="background: #000"><p style="color: #333">lost</p></div>',
        encoding="utf-8",
    )
    faint = show(report=page).page.evaluate(LIST_FAINT, LEAST_CONTRAST)
    assert [one["text"] for one in faint] == ["faint", "lost"]


def test_light_and_dark_are_two(show: Callable[..., Opened]) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert show(scheme="light").page.evaluate(ground) != show(scheme="dark").page.evaluate(ground)


def test_nothing_is_cut_off_on_paper(show: Callable[..., Opened]) -> None:
    page = show(PAPER_WIDTH).page
    page.emulate_media(media="print")
    assert PAPER_WIDTH + page.evaluate(OVERHANG) <= WIDEST_ON_PAPER
    assert page.evaluate(LIST_CUT) == []
    for one in page.evaluate(LIST_FIGURES):
        assert one["seen"], one
        assert one["right"] <= WIDEST_ON_PAPER, one


def test_paper_is_white_in_the_dark_too(show: Callable[..., Opened]) -> None:
    page = show(PAPER_WIDTH, "dark").page
    page.emulate_media(media="print")
    assert page.evaluate(LIST_FAINT, LEAST_CONTRAST) == []
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert ground in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")


def test_what_it_is_not_is_seen_without_scrolling(show: Callable[..., Opened]) -> None:
    for width in WIDTHS:
        banner = show(width).page.get_by_text("Not a medical device.").first
        box = banner.bounding_box()
        assert banner.is_visible()
        assert box is not None
        assert box["y"] + box["height"] <= 900
