"""The page on any screen, by keyboard and to a screen reader; and a server that is not at ease."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import medlens
from medlens.serve.service import FAILED

NOTICE = "Not a medical device."
TOKEN = "a-word-for-tests"  # noqa: S105

Show = Callable[..., Any]


@pytest.fixture(scope="module")
def narrow(start: Callable[..., Any], finished_run: medlens.Run) -> Iterator[str]:
    """The address of a server that wants a token and allows three images and 0.2 MiB at a time."""
    limits = ("--max-images", 3, "--queue", 3, "--max-body", 0.2)
    with start(finished_run.path, *limits, MEDLENS_TOKEN=TOKEN) as server:
        yield f"{server.url}/"


def give_token(shown: Any) -> None:
    shown.page.wait_for_selector("#token-dialog[open]")
    shown.page.fill("#token", TOKEN)
    shown.page.keyboard.press("Enter")
    shown.page.wait_for_selector("#about:not([hidden])")


def test_every_state_fits_the_screen_and_is_accessible(
    show: Show, samples: list[Path], odd_files: dict[str, Path], screen: dict[str, Any]
) -> None:
    shown = show(**screen)
    page = shown.page

    def look() -> None:
        assert shown.visit.overhang() <= 0
        page.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
        assert shown.visit.has_in_sight(NOTICE)
        assert shown.visit.violations() == []

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
    shown = show()
    page = shown.page
    page.evaluate("() => document.querySelector('label[for=opacity]').remove()")
    page.evaluate("() => { document.querySelector('.hint').style.color = '#bbb'; }")
    page.evaluate("() => { document.getElementById('results').hidden = false; }")
    found = {line.split(":")[0] for line in shown.visit.violations()}
    assert {"color-contrast", "label"} <= found


def test_light_and_dark_are_two(show: Show) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    assert show(scheme="light").page.evaluate(ground) != show(scheme="dark").page.evaluate(ground)


def test_the_keyboard_alone_is_enough(show: Show, samples: list[Path]) -> None:
    shown = show()
    page = shown.page
    # From now on no dialog of the system opens, however soon the key is pressed.
    page.on("filechooser", lambda _: None)
    page.wait_for_selector("#about:not([hidden])")

    focused, reach = shown.visit.focused, shown.visit.reach
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
    shown = show(width=390)
    shown.give(*samples[:8])
    shown.page.locator("#rows .file").last.click()
    name = shown.page.locator("#chosen-name")
    assert name.inner_text() == samples[7].name
    assert name.evaluate("one => document.activeElement === one")
    assert shown.visit.has_in_sight(samples[7].name)


@pytest.mark.slow
def test_a_busy_server_is_waited_for(show: Show, narrow: str, samples: list[Path]) -> None:
    # Eight images are too many at once, so are four; of two times two one has to wait.
    shown = show(address=narrow)
    give_token(shown)
    statuses: list[int] = []
    shown.page.on("response", lambda response: statuses.append(response.status))
    shown.give(*samples)
    assert {200, 413, 429} <= set(statuses)
    assert shown.page.locator("#rows td.number").count() == len(samples)
    assert shown.text("#busy") == ""
    assert shown.page.locator("#problem").is_hidden()


@pytest.mark.parametrize("width", [1400, 390])
def test_who_waits_for_a_heat_map_sees_that_the_server_is_busy(
    show: Show, samples: list[Path], width: int
) -> None:
    shown = show(width=width)
    page = shown.page
    later = {"status": 429, "headers": {"Retry-After": "30"}, "json": {"detail": "Later."}}
    page.route("**/explain?*", lambda route: route.fulfill(**later))
    page.set_input_files("#files", samples[:1])
    page.wait_for_selector("#busy:not(:empty)")
    page.wait_for_selector("#sending", state="hidden")
    page.locator("#busy").scroll_into_view_if_needed()
    assert shown.visit.has_in_sight("The server is busy.", "#busy")
    assert page.locator("#busy").get_attribute("role") == "status"
    assert shown.visit.overhang() <= 0


def test_what_the_server_cannot_answer_is_not_asked_for_ever(
    show: Show, samples: list[Path]
) -> None:
    shown = show()
    page = shown.page
    later = {"status": 503, "headers": {"Retry-After": "0.5"}, "json": {"detail": "Later."}}
    page.route("**/predict?*", lambda route: route.fulfill(**later))
    page.set_input_files("#files", samples[:1])
    page.wait_for_selector("#problem:not([hidden])")
    assert "The server cannot answer now." in shown.text("#problem")
    assert len([url for url in shown.visit.asked if "/predict?" in url]) == 3


@pytest.mark.slow
def test_images_that_are_too_much_for_a_slow_line_together_go_in_parts(
    show: Show,
    start: Callable[..., Any],
    finished_run: medlens.Run,
    samples: list[Path],
    tmp_path: Path,
) -> None:
    with start(finished_run.path, "--time-limit", 4) as server:
        shown = show(address=f"{server.url}/")
        page = shown.page
        large = [tmp_path / path.name for path in samples[:6]]
        for path, copy in zip(samples, large, strict=False):
            copy.write_bytes(path.read_bytes() + bytes(60_000))
        session = page.context.new_cdp_session(page)
        # In bytes per second: one of them takes 1 s, and so do its heat map and its picture.
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1}
        session.send("Network.enable")
        session.send("Network.emulateNetworkConditions", {**slow, "uploadThroughput": 70_000})
        page.set_input_files("#files", large)
        page.wait_for_selector("body.has-images")
        page.wait_for_selector("#sending", state="hidden")
        assert page.locator("#rows td.number").count() == 6
        assert page.locator("#problem").is_hidden()
        assert len([url for url in shown.visit.asked if "/predict?" in url]) > 2
        shown.visit.forgive("net::ERR_")


def test_what_is_too_large_alone_is_refused(
    show: Show, narrow: str, samples: list[Path], tmp_path: Path
) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(samples[0].read_bytes() + bytes(300_000))
    shown = show(address=narrow)
    give_token(shown)
    shown.give(large, samples[1])
    assert "Too large for this server." in shown.page.locator("#rows tr").first.inner_text()
    assert shown.page.locator("#rows td.number").count() == 1


def test_the_token_is_asked_for_once_and_kept_nowhere(
    show: Show, narrow: str, samples: list[Path]
) -> None:
    shown = show(address=narrow)
    page = shown.page
    page.wait_for_selector("#token-dialog[open]")
    assert shown.visit.violations() == []
    page.fill("#token", "another word")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('token-refused').textContent")
    give_token(shown)
    shown.give(samples[0])
    assert page.locator("#token-dialog").is_hidden()
    with page.context.expect_page() as report:
        page.click("#report")
    report.value.wait_for_load_state()
    assert NOTICE in report.value.inner_text("body")
    stored = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])"
    assert TOKEN not in page.evaluate(stored) + str(page.context.cookies())
    page.reload()
    page.wait_for_selector("#token-dialog[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#problem:not([hidden])")
    assert "token" in shown.text("#problem")


def test_a_place_on_the_page_is_no_token_and_one_that_was_refused_is_forgotten(
    show: Show, narrow: str
) -> None:
    shown = show(address=f"{narrow}#main")
    page = shown.page
    stored = "() => Object.values(sessionStorage)"
    page.wait_for_selector("#token-dialog[open]")
    assert page.evaluate(stored) == []
    assert shown.text("#token-refused") == ""
    shown = show(address=f"{narrow}#an-old-token")
    page = shown.page
    page.wait_for_selector("#token-dialog[open]")
    assert "did not accept" in shown.text("#token-refused")
    assert page.evaluate(stored) == []
    page.reload()
    page.wait_for_selector("#token-dialog[open]")
    assert shown.text("#token-refused") == ""


def test_a_server_that_does_not_answer_is_named_and_nothing_is_lost(
    show: Show, samples: list[Path]
) -> None:
    shown = show()
    page = shown.page
    shown.give(*samples[:2])
    page.context.set_offline(True)
    page.set_input_files("#files", samples[2:4])
    page.wait_for_selector("#problem:not([hidden])")
    assert "The server does not answer. 2 of 4 images not answered yet." in shown.text("#problem")
    assert page.locator("#rows td.number").count() == 2
    page.context.set_offline(False)
    page.click("#go-on")
    shown.wait()
    assert page.locator("#rows td.number").count() == 4
    assert page.locator("#problem").is_hidden()
    # The browser itself says that it could not connect.
    shown.visit.forgive("ERR_INTERNET_DISCONNECTED")


def test_sending_is_stopped_and_goes_on(show: Show, samples: list[Path]) -> None:
    shown = show()
    page = shown.page
    page.wait_for_selector("#about:not([hidden])")
    # Each upload takes its time, so that there is one to stop.
    session = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 1500, "downloadThroughput": -1, "uploadThroughput": -1}
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", slow)
    page.set_input_files("#files", samples)
    page.click("#stop")
    page.wait_for_selector("#go-on:not([hidden])")
    assert page.evaluate("() => document.activeElement.id") == "go-on"
    assert "12 of 12 images not answered yet." in shown.text("#sending")
    said = [(row["path"], row["unreadable"]) for row in shown.saved_table()]
    assert said == [(path.name, "not answered") for path in samples]
    session.send("Network.emulateNetworkConditions", {**slow, "latency": 0})
    page.click("#go-on")
    shown.wait()
    assert page.locator("#rows td.number").count() == 12
    # The button that had the focus is gone; the focus is not.
    assert page.evaluate("() => document.activeElement.id") == "chosen-name"


def test_an_image_the_server_failed_over_has_no_answer_and_is_sent_again(
    show: Show, samples: list[Path]
) -> None:
    def fail_the_second(route: Any) -> None:
        # Not route.fetch(), which sends the files without their content.
        files = [("images", (path.name, path.read_bytes())) for path in samples[:3]]
        content = httpx.post(route.request.url, files=files, timeout=120).json()
        said = dict.fromkeys(("predicted", "probabilities", "decision", "prediction_set"))
        content["results"][1] |= {**said, "unreadable": FAILED, "failed": True}
        route.fulfill(json=content)

    shown = show()
    page = shown.page
    # What the service says when a process dies over one image and cannot be started again.
    page.route("**/predict?*", fail_the_second, times=1)
    page.set_input_files("#files", samples[:3])
    page.wait_for_selector("#problem:not([hidden])")
    assert "1 of 3 images not answered yet." in shown.text("#problem")
    assert page.locator("#rows td.number").count() == 2
    page.click("#go-on")
    shown.wait()
    assert page.locator("#rows td.number").count() == 3
    assert page.locator("#problem").is_hidden()
    assert FAILED not in shown.text("body")
