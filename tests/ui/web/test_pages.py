"""Each page by itself: what it refuses, the table of runs, and how it looks on any screen."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, Route

import medlens
from medlens.config import config_toml, make_options
from medlens.run_dir import RunDir
from medlens.serve.run_zip import opened_run
from medlens.ui.choices import choices_file
from medlens.ui.folders import MOST_COUNTED
from medlens.ui.jobs import errors_file, job_file

RUNS = "medlens-runs"
NOTICE = "Not a medical device."
DROPPED = """async ([text, names]) => {
  const { droppedBy } = await import("/static/step_audit.js");
  return [...droppedBy(text, names)];
}"""
FOCUSED = "() => document.activeElement.ariaLabel ?? document.activeElement.textContent"
HIDDEN_BESIDE = "one => one.scrollWidth - one.clientWidth"
FINDING = "() => document.activeElement.closest('.finding')?.getAttribute('aria-labelledby')"
IDS = "() => [...document.querySelectorAll('[id]')].map((one) => one.id)"

Visits = Callable[..., Any]


def go(page: Page, place: str, **query: str) -> None:
    """Open another place of the page."""
    address = f"#{place}?{urlencode(query)}" if query else f"#{place}"
    page.evaluate("address => { location.hash = address; }", address)


def row_of(page: Page, name: str) -> Any:
    """The row of a run in the table."""
    return page.locator("#runs tbody tr", has=page.get_by_role("link", name=name, exact=True))


def press(page: Page, name: str, place: int = 0) -> None:
    """Press a button by the keyboard."""
    page.get_by_role("button", name=name, exact=True).nth(place).focus()
    page.keyboard.press("Enter")


def wait_for_focus(page: Page, name: str) -> None:
    """Wait until the keyboard is on what has this name."""
    page.wait_for_function(f"name => ({FOCUSED})() === name", arg=name)


def wait_to_hear(page: Page, text: str) -> None:
    """Wait until a screen reader is told of something."""
    page.wait_for_function(
        "text => document.getElementById('status').textContent === text", arg=text
    )


@pytest.mark.parametrize("path", ["..", "../elsewhere", "tidy/../..", "/etc", "out"])
def test_a_path_outside_the_root_is_refused(visit: Visits, ui: Any, path: str) -> None:
    outside = ui.root.parent / "elsewhere" / "class"
    outside.mkdir(parents=True, exist_ok=True)
    link = ui.root / "out"
    if not link.is_symlink():
        link.symlink_to(outside.parent)
    page = visit(ui.address).page
    page.wait_for_selector("#runs")
    for place in ("/data", "/run"):
        with page.expect_response(lambda one: "/api/" in one.url and not one.ok) as refused:
            go(page, place, path=path)
        assert refused.value.status == 403
        page.wait_for_selector("#problem", state="visible")
        assert refused.value.json()["detail"] in page.inner_text("#problem")
        assert page.inner_text("#view") == ""


def test_only_what_can_be_trained_on_is_offered(visit: Visits, ui: Any) -> None:
    page = visit(ui.address).page
    page.click("#choose")
    page.wait_for_selector(".entries")
    runs = page.locator(".entries li", has=page.get_by_role("link", name=RUNS, exact=True))
    assert runs.locator(".what").inner_text() == "Folder of runs"
    page.get_by_role("link", name="notes", exact=True).click()
    page.wait_for_selector("text=Not yet a folder of images")
    assert not page.locator("#use").count()
    page.get_by_label("Where this folder lies").get_by_role("link").first.click()
    page.get_by_role("link", name="tidy", exact=True).click()
    page.wait_for_selector("text=90 images, in 3 classes")
    bars = page.locator(".choice .class-bars li").all_inner_texts()
    assert [bar.split()[0] for bar in bars] == ["healthy", "mass", "microcalcification"]


def test_more_files_than_are_counted_can_be_used(visit: Visits, ui: Any) -> None:
    for name in ("one", "other"):
        (ui.root / "large" / name).mkdir(parents=True)
        for number in range(MOST_COUNTED // 2):
            (ui.root / "large" / name / f"{number}.png").touch()
    page = visit(ui.address).page
    go(page, "/data", path="")
    line = page.locator(".entries li", has=page.get_by_role("link", name="large", exact=True))
    assert "more than 20,000 files, not counted" in line.inner_text()
    line.get_by_role("link").click()
    page.wait_for_selector("#use")
    assert "more than 20,000 files, not counted" in page.inner_text(".choice")
    page.click("#use")
    page.wait_for_selector("#start-audit")
    page.click("#to-data")
    assert "more than 20,000 files, not counted" in page.inner_text(".narrow h4")
    shutil.rmtree(ui.root / "large")


def test_a_run_is_renamed_and_deleted_when_asked_twice(visit: Visits, ui: Any) -> None:
    shutil.copytree(ui.root / RUNS / "first", ui.root / RUNS / "passing")
    page = visit(ui.address).page
    row_of(page, "passing").get_by_role("button", name="Rename").click()
    for refused in ("", "passing", "../over", "it's", "-r", ".", "x" * 100, "ends with a dot."):
        page.fill("#question-answer", refused)
        assert page.locator("#question-go").is_disabled()
        assert page.inner_text("#question-command") == ""
    page.fill("#question-answer", "x 2_Ü.y")
    assert "The same on the command line" in page.inner_text("#question-command")
    command = page.inner_text("#question-command code")
    subprocess.run(["sh", "-c", command], check=True)
    assert (ui.root / RUNS / "x 2_Ü.y" / "report.html").is_file()
    (ui.root / RUNS / "x 2_Ü.y").rename(ui.root / RUNS / "passing")
    page.fill("#question-answer", "renamed")
    page.keyboard.press("Enter")
    row_of(page, "renamed").get_by_role("button", name="Delete").click()
    assert page.locator("#question-go").is_disabled()
    command = shlex.split(page.inner_text("#question-command code"))
    assert command == ["rm", "-r", str(ui.root / RUNS / "renamed")]
    assert "without the checks of this page" in page.inner_text("#question-command")
    page.fill("#question-answer", "rename")
    assert page.locator("#question-go").is_disabled()
    page.keyboard.press("Escape")
    assert (ui.root / RUNS / "renamed" / "report.html").is_file()
    row_of(page, "renamed").get_by_role("button", name="Delete").click()
    page.fill("#question-answer", "renamed")
    page.click("#question-go")
    row_of(page, "renamed").wait_for(state="detached")
    assert not (ui.root / RUNS / "renamed").exists()


def test_the_keyboard_stays_with_its_run_in_the_table(visit: Visits, ui: Any) -> None:
    shutil.copytree(ui.root / RUNS / "first", ui.root / RUNS / "passing")
    page = visit(ui.address).page
    row_of(page, "passing").wait_for()
    last = page.locator("#runs tbody th a").last.inner_text()
    page.get_by_role("button", name=f"Delete {last}", exact=True).focus()
    (ui.root / RUNS / last / "report.html").touch()
    page.wait_for_function(
        "name => document.querySelector('#runs tbody th a').textContent === name", arg=last
    )
    assert page.evaluate(FOCUSED) == f"Delete {last}"
    press(page, "Rename passing")
    os.utime(ui.root / RUNS / last / "report.html", (time.time() + 100, time.time() + 100))
    with page.expect_response(lambda one: one.url.endswith("/api/runs")):
        pass  # drawn anew below the question
    page.keyboard.press("Escape")
    wait_for_focus(page, "Rename passing")
    page.keyboard.press("Enter")
    page.fill("#question-answer", "renamed")
    page.keyboard.press("Enter")
    wait_to_hear(page, "passing is called renamed now.")
    wait_for_focus(page, "Rename renamed")
    press(page, "Delete renamed")
    page.fill("#question-answer", "renamed")
    page.keyboard.press("Enter")
    wait_to_hear(page, "renamed is deleted.")
    wait_for_focus(page, "Your runs")


def test_a_damaged_run_has_a_row(visit: Visits, ui: Any) -> None:
    run = RunDir(Path(shutil.copytree(ui.root / RUNS / "first", ui.root / RUNS / "damaged")))
    choices_file(run).parent.mkdir(exist_ok=True)
    choices_file(run).write_text("{", encoding="utf-8")
    page = visit(ui.address).page
    row = row_of(page, "damaged")
    assert "cannot be read" in row.inner_text()
    assert row.locator("td[data-title=Changed]").inner_text() == "\N{EN DASH}"
    shutil.rmtree(run.root)


def test_each_page_has_a_title(visit: Visits, ui: Any) -> None:
    page = visit(ui.address).page
    both = {"first": f"{RUNS}/first", "second": f"{RUNS}/second"}
    for place, query, title in (
        ("/", {}, "Your runs"),
        ("/run", {"path": f"{RUNS}/first", "step": "report"}, "Report · first"),
        ("/run", {"path": f"{RUNS}/first", "step": "try"}, "Try · first"),
        ("/data", {"path": "tidy"}, "Choose a folder of images"),
        ("/run", {"path": "gone"}, "A run"),
        ("/compare", both, "Which is better?"),
        ("/run", {"path": f"{RUNS}/second", "step": "plan"}, "Plan · second"),
        ("/", {}, "Your runs"),
    ):
        go(page, place, **query)
        page.wait_for_function("title => document.title === title", arg=f"{title} · medlens")


def test_the_question_for_the_token_is_accessible(
    visit: Visits, ui: Any, screen: dict[str, Any]
) -> None:
    shown = visit(ui.address.partition("#")[0], **screen)
    shown.page.wait_for_selector("#token-dialog[open]")
    assert shown.has_in_sight(NOTICE, "#token-dialog")
    assert shown.overhang() <= 0
    assert shown.page.locator("#token-dialog").evaluate(HIDDEN_BESIDE) == 0
    assert shown.violations() == []


@pytest.mark.slow
def test_the_question_for_the_token_stays_closed_until_something_is_asked(
    visit: Visits, ui: Any
) -> None:
    page = visit(ui.address).page
    page.wait_for_selector("#runs tbody a")

    def refuse(route: Route) -> None:
        route.fulfill(status=401)

    page.route("**/api/**", refuse)
    page.wait_for_selector("#token-dialog[open]")
    page.keyboard.press("Escape")
    for _ in range(2):  # the page goes on asking by itself
        with page.expect_response("**/api/runs"):
            pass
        assert page.locator("#token-dialog").is_hidden()
    assert "wants a token" in page.inner_text("#away")
    page.click("#choose")
    page.wait_for_selector("#token-dialog[open]")
    page.unroute("**/api/**", refuse)
    page.fill("#token", ui.token)
    page.keyboard.press("Enter")
    page.wait_for_selector(".entries")


def test_images_outside_are_said_to_lie_there(visit: Visits, ui: Any) -> None:
    run = ui.root / RUNS / "elsewhere"
    shutil.copytree(ui.root / RUNS / "first", run)
    shutil.rmtree(run / ".ui", ignore_errors=True)
    options = make_options({"data": "/elsewhere/tidy"})
    (run / "config.toml").write_text(config_toml(options), encoding="utf-8")
    page = visit(ui.address).page
    go(page, "/run", path=f"{RUNS}/elsewhere", step="data")
    page.wait_for_selector(".lead-text")
    assert "tidy, outside of the folder" in page.inner_text("#step")
    assert page.locator("#step .card").count() == 0
    go(page, "/run", path=f"{RUNS}/elsewhere", step="audit")
    page.wait_for_selector("#step .findings")
    assert "This run has begun training" in page.inner_text("#step")
    assert page.locator("#step img").count() == 0
    assert page.get_by_role("link", name="New run").count() == 0
    shutil.rmtree(run)


def test_the_lines_of_the_table_are_straight(visit: Visits, ui: Any) -> None:
    page = visit(ui.address).page
    page.wait_for_selector("#runs tbody a")
    cells = row_of(page, "first").locator("th, td")
    tops = cells.evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
    assert len(set(tops)) == 1


def test_two_runs_are_compared(visit: Visits, ui: Any) -> None:
    page = visit(ui.address).page
    evaluation = json.loads((ui.root / RUNS / "first" / "evaluation.json").read_text("utf-8"))
    accuracy = evaluation["test"]["accuracy"]["value"]
    low, high = evaluation["test"]["accuracy"]["ci95"]
    assert f"{accuracy:.2f} (" in row_of(page, "first").inner_text()
    page.get_by_label("Compare first").check()
    assert page.locator("#compare").is_hidden()
    page.get_by_label("Compare second").check()
    page.click("#compare")
    page.wait_for_selector(".compared")
    cells = page.locator(".compared tbody tr").first.locator("td").all_inner_texts()
    assert cells[:3] == [f"{accuracy:.3f} ({low:.3f} to {high:.3f})"] * 2 + ["0.000"]
    assert "exactly the same" in page.inner_text(".lines")
    page.reload()
    page.wait_for_selector(".compared")


def test_the_command_line_is_copied(visit: Visits, ui: Any) -> None:
    page = visit(ui.address).page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    go(page, "/run", path=f"{RUNS}/first", step="train")
    page.get_by_role("button", name="Copy").click()
    page.wait_for_selector("text=Copied")
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied == page.locator(".command code").inner_text()
    assert copied.startswith("medlens train ")


def test_command_lines_can_be_pasted(visit: Visits, ui: Any, tmp_path: Path) -> None:
    name = "it's 2"
    shutil.copytree(ui.root / RUNS / "first", ui.root / RUNS / name)
    page = visit(ui.address).page
    go(page, "/run", path=f"{RUNS}/{name}", step="hand-over")
    page.wait_for_selector("#format")
    lines = page.locator(".command code").all_inner_texts()
    *packing, use, export = (shlex.split(line) for line in lines)
    for pressed, (python, *words) in zip(("classifier alone", "whole run"), packing, strict=True):
        with page.expect_download() as saved:
            page.get_by_role("button", name=f"Save the {pressed}").click()
        assert python == "python"
        subprocess.run([sys.executable, *words], cwd=tmp_path, check=True)
        made = tmp_path / saved.value.suggested_filename
        assert made.read_bytes() == Path(saved.value.path()).read_bytes()
        assert medlens.load(made).classes == ("healthy", "mass", "microcalcification")
    assert use[:3] == ["medlens", "predict", f"{name}-classifier.zip"]
    with opened_run(tmp_path / use[2]) as run:
        assert (run / "classifier").is_dir()
        assert not (run / "dataset.csv").exists()
    assert export[:3] == ["medlens", "export", str(ui.root / RUNS / name)]
    assert export[export.index("--format") + 1] == page.input_value("#format")
    shutil.rmtree(ui.root / RUNS / name)


@pytest.mark.parametrize(("step", "is_shown"), [("export", True), ("train", False)])
def test_only_what_went_wrong_in_an_export_is_shown_with_the_exports(
    visit: Visits, ui: Any, step: str, is_shown: bool
) -> None:
    run = RunDir(Path(shutil.copytree(ui.root / RUNS / "first", ui.root / RUNS / "failed")))
    job_file(run).parent.mkdir(exist_ok=True)
    words = ["medlens", step, str(run.root), "--format", "onnx", "-o", "first.onnx"]
    job = {"step": step, "command": words, "pid": 1, "started": 1.0, "is_stopped": False}
    job_file(run).write_text(json.dumps(job), encoding="utf-8")
    errors_file(run).write_text("medlens: The disk is full.\n", encoding="utf-8")
    page = visit(ui.address).page
    go(page, "/run", path=f"{RUNS}/failed", step="hand-over")
    page.wait_for_selector("#formats-title")
    assert ("The disk is full." in page.inner_text("#step")) is is_shown
    shutil.rmtree(run.root)


def test_an_option_that_cannot_be_is_refused_in_words(visit: Visits, ui: Any) -> None:
    page = visit(ui.address).page
    go(page, "/data", path="tidy")
    page.fill("#run-name", "options")
    page.click("#use")
    page.wait_for_selector("#start-audit")
    page.click("#to-plan")
    page.click("#other-options summary")
    page.fill("#option-epochs", "minus one")
    page.keyboard.press("Tab")
    page.wait_for_selector("#problem", state="visible")
    assert "epochs" in page.inner_text("#problem")
    assert page.get_attribute("#option-epochs", "aria-invalid") == "true"
    page.fill("#option-epochs", "7")
    page.keyboard.press("Tab")
    page.wait_for_selector("#problem", state="hidden")
    page.reload()
    page.click("#other-options summary")
    assert page.input_value("#option-epochs") == "7"


def test_what_is_typed_outlives_a_redraw(visit: Visits, ui: Any) -> None:
    run = ui.client.post("/api/runs", json={"data": "tidy", "name": "typed"}).json()["path"]
    page = visit(ui.address).page
    go(page, "/run", path=run, step="plan")
    page.click("#other-options summary")
    page.fill("#option-epochs", "23")
    with page.expect_response(
        lambda one: "/api/run?" in one.url and '"image_size":64' in one.text()
    ):
        ui.client.patch("/api/run/options", params={"path": run}, json={"image_size": 64})
    page.wait_for_function(
        "() => document.querySelector('.command code').textContent.includes('64')"
    )
    assert page.input_value("#option-epochs") == "23"
    assert page.evaluate("() => document.activeElement.id") == "option-epochs"
    with page.expect_response(lambda one: one.request.method == "PATCH") as answer:
        page.keyboard.press("Tab")
    assert answer.value.json()["options"]["epochs"] == 23
    shutil.rmtree(ui.root / run)


@pytest.mark.parametrize(
    ("text", "dropped"),
    [
        ("Add images, or --drop-class mass_large.", ["mass_large"]),
        ("Add images, or --drop-class mass.", ["mass"]),
        ("or --drop-class mass --drop-class v1.2, or go on", ["mass", "v1.2"]),
        ('or --drop-class "mass in fat".', ["mass in fat"]),
        ("Nothing to drop.", []),
    ],
)
def test_classes_are_taken_by_their_whole_name(
    visit: Visits, ui: Any, text: str, dropped: list[str]
) -> None:
    page = visit(ui.address).page
    names = ["mass", "mass_large", "mass in fat", "v1", "v1.2"]
    assert page.evaluate(DROPPED, [text, names]) == dropped


def test_a_failed_audit_is_shown_where_it_failed(visit: Visits, ui: Any) -> None:
    folder = shutil.copytree(ui.root / "tidy", ui.root / "passing")
    run = ui.client.post("/api/runs", json={"data": "passing", "name": "failed"}).json()["path"]
    shutil.rmtree(folder)
    page = visit(ui.address).page
    go(page, "/run", path=run, step="audit")
    page.click("#start-audit")
    page.wait_for_selector(".alert >> text=It did not work")
    go(page, "/run", path=run)
    page.wait_for_selector("#start-audit")
    assert page.locator(".alert", has_text="It did not work").is_visible()
    go(page, "/run", path=run, step="train")
    page.wait_for_selector("#train")
    assert not page.locator("#resume").count()
    shutil.rmtree(ui.root / run)


def test_the_keyboard_keeps_its_place_when_something_is_left_out(visit: Visits, ui: Any) -> None:
    folder = shutil.copytree(ui.root / "messy", ui.root / "places")
    (folder / "rare").mkdir()
    shutil.move(next((folder / "microcalcification").iterdir()), folder / "rare")
    for number in range(20):
        (folder / "mass" / f"broken-{number:02}.png").write_bytes(b"no picture")
    page = visit(ui.address).page
    go(page, "/data", path="places")
    page.click("#use")
    page.click("#start-audit")
    page.wait_for_selector(".verdict.bad")
    names = page.evaluate(IDS)
    assert len(set(names)) == len(names)

    press(page, "Leave out rare")
    wait_to_hear(page, "rare is left out.")
    wait_for_focus(page, "Take rare back in")
    page.keyboard.press("Enter")
    wait_to_hear(page, "rare is taken back in.")
    wait_for_focus(page, "Leave out rare")
    press(page, "Leave out class rare")
    wait_for_focus(page, "Take class rare back in")

    press(page, "Leave all 21 out")
    wait_to_hear(page, "21 images are left out.")
    wait_for_focus(page, "Take all 21 back in")
    page.get_by_text("Show 5 more images").click()
    press(page, "Leave out mass/broken.png")
    wait_to_hear(page, "mass/broken.png is taken back in.")
    wait_for_focus(page, "Leave out mass/broken.png")

    twice = page.get_by_role("button", name="Leave out mass/the-same.png", exact=True)
    twice.nth(1).focus()
    finding = page.evaluate(FINDING)
    page.keyboard.press("Enter")
    wait_to_hear(page, "mass/the-same.png is left out.")
    page.wait_for_selector("text=Take back in")
    wait_for_focus(page, "Leave out mass/the-same.png")
    assert page.evaluate(FINDING) == finding

    press(page, "Take image mass/the-same.png back in")
    wait_for_focus(page, "What is wrong with the images?")


def test_the_keyboard_alone_is_enough(visit: Visits, ui: Any) -> None:
    visited = visit(ui.address)
    page = visited.page
    page.wait_for_selector("#runs tbody a")

    focused, reach = visited.focused, visited.reach
    reach("skip")
    page.keyboard.press("Enter")
    assert focused() == "main"
    reach("choose")
    page.keyboard.press("Enter")
    page.wait_for_selector(".entries")
    assert focused() == "main"
    go(page, "/run", path=f"{RUNS}/first", step="report")
    page.wait_for_selector(".measures")
    reach("to-train")
    page.keyboard.press("Enter")
    page.wait_for_selector(".charts svg")


def audited(page: Page, root: Path) -> None:
    """See to a run with findings."""
    if (root / RUNS / "messy" / "audit.json").is_file():
        return
    go(page, "/data", path="messy")
    page.fill("#run-name", "messy")
    page.click("#use")
    page.click("#start-audit")
    page.wait_for_selector(".verdict")


def test_every_page_fits_the_screen_and_is_accessible(
    visit: Visits, ui: Any, screen: dict[str, Any]
) -> None:
    shown = visit(ui.address, **screen)
    page = shown.page

    def look(sign: str) -> None:
        page.wait_for_selector(sign)
        assert shown.overhang() <= 0, sign
        page.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
        assert shown.has_in_sight(NOTICE), sign
        assert shown.violations() == [], sign

    look("#runs tbody a")
    audited(page, ui.root)
    go(page, "/data", path="")
    look(".entries")
    go(page, "/phantoms")
    look("#use")
    go(page, "/data", path="tidy")
    look("#use")
    go(page, "/run", path=f"{RUNS}/messy", step="audit")
    look(".finding .thumbnail img[src]")
    go(page, "/run", path=f"{RUNS}/messy", step="plan")
    page.click("#other-options summary")
    look("#option-epochs")
    for step, sign in {
        "data": ".lead-text",
        "audit": ".findings",
        "plan": ".decisions",
        "train": ".charts svg",
        "report": ".measures",
        "try": "#start-try",
        "hand-over": "#format",
    }.items():
        go(page, "/run", path=f"{RUNS}/first", step=step)
        look(sign)
    go(page, "/")
    row_of(page, "first").get_by_role("button", name="Delete").click()
    page.wait_for_selector("#question[open]")  # over everything else, so it has its own notice
    assert shown.has_in_sight(NOTICE, "#question")
    assert shown.overhang() <= 0
    assert page.locator("#question").evaluate(HIDDEN_BESIDE) == 0
    assert shown.violations() == []


def test_axe_finds_what_is_wrong(visit: Visits, ui: Any) -> None:
    """The test above can fail."""
    shown = visit(ui.address)
    go(shown.page, "/data", path="tidy")
    shown.page.wait_for_selector("#use")
    shown.page.evaluate("() => document.querySelector('label[for=run-name]').remove()")
    shown.page.evaluate("() => { document.querySelector('.choice .hint').style.color = '#bbb'; }")
    assert {"color-contrast", "label-title-only"} <= {
        line.split(":")[0] for line in shown.violations()
    }
