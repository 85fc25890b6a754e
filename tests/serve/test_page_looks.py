"""The page on any screen, by keyboard and to a screen reader; and a server that is not at ease."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

import medlens

WIDTHS = (1400, 390)
SCHEMES = ("light", "dark")
OVERHANG = """() => document.documentElement.scrollWidth - document.documentElement.clientWidth"""
NOTICE = "Not a medical device."

Show = Callable[..., Any]


def violations(page: Any) -> list[str]:
    """What axe-core finds, each with the place of it."""
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


def in_sight(page: Any, text: str) -> bool:
    """Whether a text stands on the screen now, with nothing over it."""
    return bool(
        page.get_by_text(text).first.evaluate(
            """one => {
              const {x, y, width, height} = one.getBoundingClientRect();
              const top = document.elementFromPoint(x + width / 2, y + height / 2);
              return one.contains(top);
            }"""
        )
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_state_fits_the_screen_and_is_accessible(
    show: Show, samples: list[Path], odd_files: dict[str, Path], width: int, scheme: str
) -> None:
    shown = show(width, scheme)
    page = shown.page

    def look() -> None:
        assert page.evaluate(OVERHANG) <= 0
        page.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
        assert in_sight(page, NOTICE)
        assert violations(page) == []

    page.wait_for_selector("#about:not([hidden])")
    look()
    shown.give(samples[0])
    look()
    # A name without a place to break it, too.
    long = samples[0].with_name("x" * 120 + ".png")
    shutil.copy(samples[0], long)
    shown.give(odd_files["board"], odd_files["text"], odd_files["dicom"], long)
    look()
    for name in (odd_files["board"].name, odd_files["text"].name, odd_files["dicom"].name):
        page.locator("#rows tr", has_text=name).locator("button").click()
        shown.wait()
        look()
    assert page.locator("#window").is_visible()


def test_axe_finds_what_is_wrong(show: Show) -> None:
    """The test above can fail."""
    page = show().page
    page.evaluate("() => document.querySelector('label[for=opacity]').remove()")
    page.evaluate("() => { document.querySelector('.hint').style.color = '#bbb'; }")
    page.evaluate("() => { document.getElementById('results').hidden = false; }")
    found = {line.split(":")[0] for line in violations(page)}
    assert {"color-contrast", "label"} <= found


def test_light_and_dark_are_two(show: Show) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert show(scheme="light").page.evaluate(ground) != show(scheme="dark").page.evaluate(ground)


def test_the_keyboard_alone_is_enough(show: Show, samples: list[Path]) -> None:
    shown = show()
    page = shown.page
    page.wait_for_selector("#about:not([hidden])")

    def focused() -> str:
        return str(page.evaluate("() => document.activeElement.id || document.activeElement.className"))

    def reach(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            ring = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert ring != "none", focused()
            if focused() == name:
                return
        raise AssertionError(f"{name} is not reached by the Tab key")

    page.keyboard.press("Tab")
    assert focused() == "skip"
    page.keyboard.press("Enter")
    assert focused() == "main"
    page.keyboard.press("Tab")
    assert focused() == "choose-files"
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(samples[:4])
    shown.wait()
    reach("next")
    page.keyboard.press("Enter")
    assert shown.text("#chosen-name") == samples[1].name
    assert samples[1].name in shown.text("#status")
    shown.wait()
    reach("heat-class")
    page.keyboard.press("ArrowDown")
    shown.wait()
    reach("opacity")
    page.keyboard.press("ArrowRight")
    assert shown.text("#opacity-value") == "61 %"
    reach("download")
    reach("file")  # after the heads of the columns, one stop for all rows
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert shown.text("#chosen-name") == samples[2].name
    page.keyboard.press("Tab")
    assert focused() != "file"


def test_on_a_phone_the_chosen_image_comes_into_view(show: Show, samples: list[Path]) -> None:
    shown = show(390)
    shown.give(*samples[:8])
    shown.page.locator("#rows .file").last.click()
    name = shown.page.locator("#chosen-name")
    assert name.inner_text() == samples[7].name
    assert name.evaluate("one => document.activeElement === one")
    assert in_sight(shown.page, samples[7].name)


def test_a_busy_server_is_waited_for(
    show: Show, serve_runs: Any, finished_run: medlens.Run, samples: list[Path], tmp_path: Path
) -> None:
    copies = [
        Path(shutil.copy(samples[n % 12], tmp_path / f"{n:02}.png")) for n in range(40)
    ]
    # Room for one request with eight images; the page sends two at a time.
    with serve_runs(finished_run.path, queue=8, max_images=8) as address:
        shown = show(address=address)
        statuses = []
        shown.page.on("response", lambda response: statuses.append(response.status))
        shown.give(*copies)
        assert 429 in statuses
        assert shown.text("#batch-title") == "40 images"
        assert shown.page.locator("#rows td.number").count() == 40
        assert shown.text("#busy") == ""
        assert shown.text("#problem") == ""


def test_what_is_too_large_together_goes_apart(
    show: Show, serve_runs: Any, finished_run: medlens.Run, samples: list[Path], tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(samples[0].read_bytes() + bytes(300_000))
    with serve_runs(finished_run.path, max_images=3, max_body=0.2) as address:
        shown = show(address=address)
        shown.give(*samples[:7], large)
        rows = shown.page.locator("#rows tr")
        assert rows.locator("td.number").count() == 7
        assert "Too large for this server." in rows.last.inner_text()


def test_the_token_is_asked_for_once_and_kept_nowhere(
    show: Show, serve_runs: Any, finished_run: medlens.Run, samples: list[Path]
) -> None:
    with serve_runs(finished_run.path, token="right-token") as address:  # noqa: S106
        shown = show(address=address)
        page = shown.page
        page.wait_for_selector("#token-dialog[open]")
        assert violations(page) == []
        for token in ("wrong-token", "right-token"):
            page.fill("#token", token)
            page.keyboard.press("Enter")
            if token == "wrong-token":  # noqa: S105
                page.wait_for_function(
                    "() => document.getElementById('token-refused').textContent !== ''"
                )
        page.wait_for_selector("#about:not([hidden])")
        shown.give(*samples[:2])
        assert page.locator("#token-dialog").is_hidden()
        with page.context.expect_page() as report:
            page.click("#report")
        report.value.wait_for_load_state()
        assert NOTICE in report.value.inner_text("body")
        stored = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])"
        assert "token" not in page.evaluate(stored)
        assert "right-token" not in str(page.context.cookies())
        page.reload()
        page.wait_for_selector("#token-dialog[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("#problem:not([hidden])")
        assert "token" in shown.text("#problem")


def test_a_server_that_is_gone_is_named_and_nothing_is_lost(
    show: Show, serve_runs: Any, finished_run: medlens.Run, samples: list[Path]
) -> None:
    with serve_runs(finished_run.path) as address:
        shown = show(address=address)
        shown.give(*samples[:2])
    page = shown.page
    page.set_input_files("#files", samples[2:4])
    page.wait_for_selector("#problem:not([hidden])")
    assert "The server does not answer. 2 of 4 images not answered yet." in shown.text("#problem")
    assert page.locator("#go-on").is_visible()
    assert page.locator("#rows td.number").count() == 2
    shown.said.clear()  # the browser itself says that it could not connect
