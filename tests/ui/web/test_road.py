"""The whole road on the page, from a folder of images to a run that is handed over."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Page

NOTICE = "Not a medical device."
# A network that is small and of random filters, so that a run takes seconds.
SMALL = {
    "backbone": "mobilenet_v2",
    "weights": "random",
    "image_size": "32",
    "epochs": "15",
    "plan": "plain",
    "no_saliency": "yes",
}
# So many that there is time to do something meanwhile.
LONG = {**SMALL, "epochs": "3000", "patience": "3000", "stop_at_accuracy": "none"}

CLICK_AT = """moment => {
  setTimeout(() => document.getElementById("start-audit")?.click(), moment - Date.now());
}"""

Visits = Callable[..., Any]
Start = Callable[..., Any]


def set_options(page: Page, options: dict[str, str]) -> None:
    """Set options in the step of the plan, each kept by the server before the next."""
    page.wait_for_selector("#other-options")
    if not page.locator("#other-options[open]").count():
        page.click("#other-options summary")
    for name, value in options.items():
        field = page.locator(f"#option-{name}")
        if field.input_value() == value:
            continue
        with page.expect_response(lambda one: one.request.method == "PATCH") as answer:
            if field.evaluate("one => one.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
                field.press("Tab")
        assert answer.value.ok, answer.value.text()


def begin(page: Page, folder: str, name: str) -> None:
    """Choose a folder, make a run with its images, and audit them."""
    page.click("#choose")
    page.get_by_role("link", name=folder, exact=True).click()
    page.fill("#run-name", name)
    page.click("#use")
    page.click("#start-audit")
    page.wait_for_selector(".verdict")


def contents(folder: Path) -> dict[str, bytes]:
    """What lies in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def command_of(page: Page) -> str:
    """The command line that the step shows."""
    return page.locator(".command code").inner_text()


def test_the_whole_road_on_phantoms(
    start: Start, visit: Visits, tmp_path: Path, nobody_works_on: Callable[[Path], None]
) -> None:
    nobody_works_on(tmp_path)
    ui = start(tmp_path)
    shown = visit(ui.address)
    page = shown.page
    page.click("#phantoms")
    page.wait_for_selector("#use")
    assert "in 3 classes" in page.inner_text(".choice")
    drawn = shutil.move(tmp_path / "phantom-data", tmp_path / "drawn-by-the-page")
    python, *words = shlex.split(command_of(page))
    assert python == "python"
    subprocess.run([sys.executable, *words], check=True)
    assert contents(tmp_path / "phantom-data") == contents(drawn)
    shutil.rmtree(drawn)
    images = contents(tmp_path / "phantom-data")
    page.fill("#run-name", "phantoms")
    page.click("#use")

    page.focus("#start-audit")
    page.keyboard.press("Enter")
    page.wait_for_selector(".verdict.good")
    assert page.evaluate("() => document.activeElement.closest('#step') !== null")
    assert command_of(page).startswith("medlens audit ")
    page.click("#next")

    set_options(page, SMALL)
    page.click("#start-plan")
    page.wait_for_selector(".decisions")
    assert "--backbone=mobilenet_v2" in command_of(page)
    reasons = page.locator(".decisions .reason").all_inner_texts()
    assert len(reasons) > 5
    assert all(reasons)
    page.click("#next")

    page.click("#train")
    page.wait_for_selector("progress")
    page.reload()  # in the middle
    page.wait_for_selector("progress")
    assert page.url.endswith("step=train")
    page.wait_for_selector(".curves", state="visible")
    for name in ("Loss", "Accuracy"):
        told = page.get_by_role("img", name=f"{name} after").get_attribute("aria-label")
        assert re.search(r"validation \d\.\d{3}", told or "")
    page.click("#next")

    run = tmp_path / "medlens-runs" / "phantoms"
    page.wait_for_selector(".measures")
    assert re.search(r"95 % interval \d\.\d{3} to \d\.\d{3}", page.inner_text(".measures"))
    with page.context.expect_page() as report:
        page.get_by_role("link", name="Open the whole report").click()
    report.value.wait_for_load_state()
    assert NOTICE in report.value.inner_text("body")

    page.click("#to-try")
    page.click("#start-try")
    page.wait_for_selector("text=Open the page")
    with page.context.expect_page() as trial:
        page.get_by_role("link", name="Open the page").click()
    image = next((tmp_path / "phantom-data").rglob("*.png"))
    trial.value.wait_for_selector("#report")
    assert "#" not in trial.value.url
    trial.value.reload()
    trial.value.set_input_files("#files", image)
    trial.value.wait_for_selector("#answer-part .number")
    assert trial.value.inner_text("#chosen-name") == image.name

    page.click("#to-hand-over")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the whole run").click()
    with zipfile.ZipFile(saved.value.path()) as file:
        names = {Path(name).name for name in file.namelist()}
    assert saved.value.suggested_filename == "phantoms.zip"
    assert {"classifier.keras", "report.html", "evaluation.json"} <= names
    assert contents(tmp_path / "phantom-data") == images
    assert (run / "report.html").is_file()


@pytest.mark.slow
def test_a_killed_server_loses_nothing(
    start: Start,
    visit: Visits,
    root: Path,
    tmp_path: Path,
    nobody_works_on: Callable[[Path], None],
) -> None:
    shutil.copytree(root / "tidy", tmp_path / "tidy")
    nobody_works_on(tmp_path)
    ui = start(tmp_path)
    shown = visit(ui.address)
    page = shown.page
    begin(page, "tidy", "one")
    page.click("#next")
    set_options(page, LONG)
    page.click("#start-plan")
    page.wait_for_selector(".decisions")
    page.click("#next")
    page.click("#train")
    page.wait_for_selector(".curves", state="visible")
    ui.process.kill()
    page.wait_for_selector("#away", state="visible")
    assert "goes on by itself" in page.inner_text("#away")
    again = start(tmp_path, ui.port)
    assert again.address != ui.address
    page.wait_for_selector("#token-dialog[open]")
    page.fill("#token", again.address)
    page.keyboard.press("Enter")
    page.wait_for_selector("#away", state="hidden")
    assert page.inner_text(".run-head .state") == "training"
    page.click("#stop")
    page.wait_for_selector("#resume")
    assert "--resume" in command_of(page)
    page.click("#resume")
    page.wait_for_selector("#next", timeout=600_000)
    run = tmp_path / "medlens-runs" / "one"
    assert (run / "report.html").is_file()
    epochs = pd.read_csv(run / "history.csv")["epoch"]
    assert list(epochs) == list(range(1, 1 + int(LONG["epochs"])))
    shown.forgive("net::ERR_")


@pytest.mark.slow
def test_two_tabs_show_the_same(start: Start, visit: Visits, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "messy", tmp_path / "messy")
    ui = start(tmp_path)
    one, other = visit(ui.address).page, visit(ui.address).page
    begin(one, "messy", "shared")
    other.get_by_role("link", name="shared", exact=True).click()
    other.wait_for_selector(".verdict.bad")
    one.get_by_role("button", name="Leave out mass/the-same.png").first.click()
    other.wait_for_selector(".left-out")
    assert "mass/the-same.png" in other.inner_text(".left-out")
    one.wait_for_selector("#start-audit:enabled")
    # In both at the same time: whichever comes second is told that the first is at work.
    moment = 1000 * (time.time() + 1)
    for page in (one, other):
        page.evaluate(CLICK_AT, moment)
    for page in (one, other):
        page.wait_for_selector(".verdict.good")
        assert "mass/the-same.png" in page.inner_text(".left-out")


@pytest.mark.shared_data
@pytest.mark.slow
def test_the_whole_road_on_blood_cells(
    start: Start,
    visit: Visits,
    shared: Path,
    tmp_path: Path,
    nobody_works_on: Callable[[Path], None],
) -> None:
    shutil.copytree(shared / "data" / "blood_wbc_original", tmp_path / "blood")
    weights = "mobilenet_v2_imagenet_notop.weights.h5"
    shutil.copy(shared / "weights" / weights, tmp_path / weights)
    nobody_works_on(tmp_path)
    ui = start(tmp_path)
    page = visit(ui.address).page
    begin(page, "blood", "blood")
    page.wait_for_selector(".verdict.bad")
    assert not page.locator("#next").count()
    page.get_by_role("button", name="Leave out BASOPHIL").click()
    page.click("#start-audit")
    page.wait_for_selector(".verdict.good")
    assert "--drop-class=BASOPHIL" in command_of(page)
    page.click("#next")
    set_options(page, {"backbone": "mobilenet_v2", "weights": weights})
    page.click("#start-plan")
    page.wait_for_selector(".decisions")
    page.click("#next")
    page.click("#train")
    page.wait_for_selector("#next", timeout=600_000)
    page.click("#next")
    page.wait_for_selector(".measures")
    recall = page.locator(".measures").last.inner_text()
    assert "NEUTROPHIL" in recall
    assert "BASOPHIL" not in recall
