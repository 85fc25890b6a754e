"""The page at work in a real Chromium, against a real server with real classifiers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import medlens
from medlens.model.classifier import Classifier
from medlens.run_dir import RunDir
from medlens.serve.web_files import FOLDER

HOSTILE = ["<img src=x onerror=alert(1)>.png", "=1+1.png", "-2.png", "@me.png", 'a "b", c.png']
# Counts what is drawn from memory by the page, before the page runs.
COUNT_ADDRESSES = """
  window.addresses = 0;
  for (const [name, by] of [['createObjectURL', 1], ['revokeObjectURL', -1]]) {
    const own = URL[name];
    URL[name] = (one) => { window.addresses += by; return own.call(URL, one); };
  }
"""

Show = Callable[..., Any]


def in_decimals(probability: float) -> str:
    if 0 < probability < 0.0005:
        return "< 0.001"
    return "> 0.999" if 0.9995 <= probability < 1 else f"{probability:.3f}"


def bars_of(shown: Any) -> dict[str, str]:
    """The number beside each class."""
    rows = shown.page.locator("#bars li")
    return {
        one.locator(".class").inner_text(): one.locator(".number").inner_text()
        for one in rows.all()
    }


def drop(shown: Any, *paths: Path) -> None:
    """Drop files and folders onto the middle of the page, as the desktop would."""
    session = shown.page.context.new_cdp_session(shown.page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        place = {"type": kind, "x": 600, "y": 400, "data": data}
        session.send("Input.dispatchDragEvent", place)


def test_one_image_is_answered_as_predict_does(
    show: Show, samples: list[Path], classifier: Classifier
) -> None:
    expected = classifier.predict(samples[:1]).iloc[0]
    shown = show()
    shown.give(samples[0])
    assert shown.text("#chosen-name") == samples[0].name
    probable = {
        name.removeprefix("prob_"): in_decimals(expected[name])
        for name in expected.index
        if name.startswith("prob_")
    }
    assert bars_of(shown) == probable
    assert shown.text("#predicted strong") == expected["predicted"]
    words = shown.text("#words")
    assert expected["decision"] in words
    assert in_decimals(expected["prob_mass"]) in words
    assert shown.page.locator("#warnings > *").count() == 0
    assert shown.page.locator("#batch").is_hidden()
    (row,) = shown.saved_table("#download-one")
    assert float(row["prob_mass"]) == pytest.approx(expected["prob_mass"], abs=1e-6)


def test_the_operating_point_stands_where_it_is(
    show: Show, samples: list[Path], classifier: Classifier
) -> None:
    threshold = classifier.verdict.threshold
    shown = show()
    assert f"{threshold:.3g}" in shown.text("#about-text")
    shown.give(samples[0])
    bar = shown.page.locator("#bars li", has_text="mass").locator(".track")
    whole, tick = bar.bounding_box(), bar.locator(".tick").bounding_box()
    middle = tick["x"] + tick["width"] / 2
    assert (middle - whole["x"]) / whole["width"] == pytest.approx(threshold, abs=0.01)
    assert shown.page.locator(".tick").count() == 1
    assert f"operating point {threshold:.3f}" in shown.text("#bars")


def test_files_that_are_dropped_are_answered(
    show: Show, samples: list[Path], classifier: Classifier
) -> None:
    shown = show()
    drop(shown, *samples[:3])
    shown.wait()
    expected = classifier.predict(samples[:3])
    told = [row.locator("td").nth(0).inner_text() for row in shown.page.locator("#rows tr").all()]
    assert told == list(expected["predicted"])


def test_a_folder_is_walked_through(show: Show, samples: list[Path], tmp_path: Path) -> None:
    deep = tmp_path / "study" / "series"
    deep.mkdir(parents=True)
    shutil.copy(samples[0], deep / "1.png")
    shutil.copy(samples[1], deep.parent / "2.png")
    (deep / ".DS_Store").write_bytes(b"hidden")
    for way in ("drop", "choose"):
        shown = show()
        if way == "drop":
            drop(shown, deep.parent)
        else:
            shown.page.set_input_files("#folder", deep.parent)
        shown.wait()
        names = {one.inner_text() for one in shown.page.locator("#rows .file").all()}
        assert names == {"study/series/1.png", "study/2.png"}


def test_many_images_go_in_parts_and_come_back_in_order(
    show: Show, samples: list[Path], classifier: Classifier, tmp_path: Path
) -> None:
    # Copies by other names: 50 images, and as many answers as twelve have.
    copies = [
        Path(shutil.copy(samples[number % 12], tmp_path / f"{number:03}.png"))
        for number in range(50)
    ]
    shown = show()
    shown.give(*copies)
    table = shown.saved_table()
    assert [row["path"] for row in table] == [path.name for path in copies]
    expected = list(classifier.predict(samples)["predicted"])
    assert [row["predicted"] for row in table] == [expected[n % 12] for n in range(50)]
    assert len([url for url in shown.visit.asked if "/predict?" in url]) == 7
    assert [url for url in shown.visit.asked if url.endswith("/picture?model=run")]
    assert shown.text("#batch-title") == "50 images"


def test_the_csv_holds_every_answer(
    show: Show, samples: list[Path], odd_files: dict[str, Path], classifier: Classifier
) -> None:
    given = [*samples[:2], odd_files["text"], odd_files["board"]]
    expected = classifier.predict(given)
    shown = show()
    shown.give(*given)
    table = shown.saved_table()
    assert list(table[0]) == [*expected.columns, "model"]
    for row, path, (_, said) in zip(table, given, expected.iterrows(), strict=True):
        assert (row["path"], row["model"]) == (path.name, "run")
        assert row["prediction_set"] == " | ".join(said["prediction_set"])
        for column in ("predicted", "decision", "unreadable"):
            assert row[column] == said[column]
        for column in [name for name in expected if name.startswith("prob_")] + ["distance"]:
            if said["unreadable"]:
                assert row[column] == ""
            else:
                assert float(row[column]) == pytest.approx(said[column], rel=1e-4, abs=1e-5)
    assert [row["unfamiliar"] for row in table] == ["0", "0", "", "1"]


def test_names_are_text_on_the_page_and_in_the_csv(
    show: Show, samples: list[Path], tmp_path: Path
) -> None:
    files = [Path(shutil.copy(samples[0], tmp_path / name)) for name in HOSTILE]
    shown = show()
    shown.give(*files)
    assert [one.inner_text() for one in shown.page.locator("#rows .file").all()] == HOSTILE
    assert shown.page.locator("img[src='x']").count() == 0
    shown.page.click("#rows tr:first-child button")
    assert shown.text("#chosen-name") == HOSTILE[0]
    assert [row["path"] for row in shown.saved_table()] == HOSTILE


def test_a_bad_file_says_why_and_stops_nothing(
    show: Show, samples: list[Path], odd_files: dict[str, Path], classifier: Classifier
) -> None:
    reason = classifier.predict(odd_files["text"]).iloc[0]["unreadable"]
    shown = show()
    shown.give(odd_files["text"])  # alone: the server answers 422
    assert reason in shown.text("#warnings")
    assert shown.page.locator("#heat-part").is_hidden()
    shown.give(samples[0])
    row = shown.page.locator("#rows tr", has_text="notes.png")
    assert reason in row.inner_text()
    assert "Refused: 1." in shown.text("#batch-text")
    shown.page.click("#next")
    assert shown.text("#chosen-name") == samples[0].name
    assert shown.page.locator("#heat-part").is_visible()


def test_a_file_that_is_gone_is_named_and_stops_nothing(
    show: Show, samples: list[Path], tmp_path: Path
) -> None:
    gone = Path(shutil.copy(samples[0], tmp_path / "gone.png"))
    shown = show()
    shown.give(gone, *samples[1:3])
    gone.unlink()
    shown.page.select_option("#model", "other")  # all are sent again
    shown.wait()
    rows = shown.page.locator("#rows tr")
    assert "it was moved or changed" in rows.first.inner_text()
    assert rows.locator("td.number").count() == 2
    # The browser itself says that it could not read it.
    shown.visit.forgive("net::ERR_")


def test_an_unfamiliar_image_is_warned_of(
    show: Show, samples: list[Path], odd_files: dict[str, Path]
) -> None:
    shown = show()
    shown.give(odd_files["board"], samples[0])
    assert "Unfamiliar image." in shown.text("#warnings")
    assert "does not hold for unfamiliar images" in shown.text("#words")
    row = shown.page.locator("#rows tr", has_text="chessboard.png")
    assert "unfamiliar" in row.inner_text()
    shown.page.click("#next")
    assert shown.text("#warnings") == ""


def test_the_heat_map_fades_and_changes_its_class(show: Show, samples: list[Path]) -> None:
    shown = show()
    page = shown.page
    shown.give(samples[0])
    overlay = page.locator("#overlay")
    for percent in (0, 35, 100):
        page.locator("#opacity").fill(str(percent))
        assert float(overlay.evaluate("one => getComputedStyle(one).opacity")) == percent / 100
        assert shown.text("#opacity-value") == f"{percent} %"
    before, answer = overlay.get_attribute("src"), shown.text("#answer-part")
    predicted = shown.text("#predicted strong")
    other = next(name for name in ("mass", "healthy") if name != predicted)
    with page.expect_request(lambda request: f"class={other}" in request.url):
        page.select_option("#heat-class", other)
    page.wait_for_function(
        "before => (document.getElementById('overlay').src || before) !== before", arg=before
    )
    assert f"the heat map for {other}" in (page.locator("#seen").get_attribute("alt") or "")
    assert shown.text("#answer-part") == answer
    same_size = "() => overlay.naturalWidth === seen.naturalWidth && seen.naturalWidth === 32"
    page.wait_for_function(same_size)


def test_similar_training_cases_are_shown(
    show: Show, samples: list[Path], phantoms: Path, other_run: medlens.Run
) -> None:
    shown = show()
    page = shown.page
    shown.give(samples[0])
    page.wait_for_selector("#similar-part:not([hidden])")
    assert page.locator("#similar img").count() == 0  # this run carries no pictures
    page.select_option("#model", "other")
    shown.wait()
    page.wait_for_selector("#similar img")
    table = pd.read_csv(RunDir(other_run.path).dataset)
    train = set(other_run.predictions.query("split == 'train'")["path"])
    cases = page.locator("#similar li").all()
    assert len(cases) > 2
    for case in cases:
        row = int(re.search(r"row (\d+),", case.inner_text())[1])
        assert table["label"][row] == case.locator("b").inner_text()
        assert table["path"][row] in train
        assert case.locator("img").evaluate("one => one.decode().then(() => one.naturalWidth)") > 0


def test_a_dicom_image_is_seen_in_another_window(show: Show, odd_files: dict[str, Path]) -> None:
    shown = show()
    page = shown.page
    shown.give(odd_files["dicom"])
    page.wait_for_selector("#window:not([hidden])")
    assert (shown.text("#level-value"), shown.text("#width-value")) == ("40", "400")
    assert "Only this view changes" in shown.text("#window")
    brightness = """async () => {
      const one = document.getElementById('picture'); await one.decode();
      const brush = document.createElement('canvas').getContext('2d');
      brush.drawImage(one, 0, 0); return brush.getImageData(32, 32, 1, 1).data[0]; }"""
    before, answer = page.evaluate(brightness), shown.text("#answer-part")
    source = page.locator("#picture").get_attribute("src")
    page.locator("#level").fill("-100")
    changed = "before => (document.getElementById('picture').src || before) !== before"
    page.wait_for_function(changed, arg=source)
    # The pixel in the middle is 340 HU: white in a window around -100.
    assert (before, page.evaluate(brightness)) == (255, 255)
    source = page.locator("#picture").get_attribute("src")
    page.locator("#width").fill("1300")
    page.wait_for_function(changed, arg=source)
    expected = (340 + 100 - 0.5) / (1300 - 1) * 255 + 127.5
    assert page.evaluate(brightness) == pytest.approx(expected, abs=2)
    source = page.locator("#picture").get_attribute("src")
    page.click("#reset-window")
    page.wait_for_function(changed, arg=source)
    assert page.evaluate(brightness) == before
    assert shown.text("#width-value") == "400"
    assert shown.text("#answer-part") == answer


def test_another_classifier_answers_the_same_images(
    show: Show, samples: list[Path], other_run: medlens.Run
) -> None:
    shown = show()
    shown.give(*samples[:3])
    shown.page.select_option("#model", "other")
    shown.wait()
    table = shown.saved_table()
    expected = medlens.load(other_run.path).predict(samples[:3])
    assert [row["model"] for row in table] == ["other"] * 3
    assert [row["predicted"] for row in table] == list(expected["predicted"])
    assert shown.page.locator(".tick").count() == 0
    assert "Decision" not in shown.text("#columns") + shown.text("#words")
    for link, ending in (("#report", "report"), ("#model-card", "model-card")):
        assert shown.page.locator(link).get_attribute("href") == f"/models/other/{ending}"


def test_the_report_and_the_card_are_one_click_away(show: Show) -> None:
    shown = show()
    for link, text in (("#report", "Not a medical device."), ("#model-card", "mass")):
        with shown.page.context.expect_page() as opened:
            shown.page.click(link)
        opened.value.wait_for_load_state()
        assert text in opened.value.inner_text("body")
        opened.value.close()


def test_the_table_is_sorted_by_its_columns(show: Show, samples: list[Path]) -> None:
    shown = show()
    shown.give(*samples[:6])
    page = shown.page
    column = page.locator("#columns th", has_text="Probability")

    def numbers() -> list[float]:
        cells = page.locator("#rows td.number").all()
        return [float(one.inner_text().lstrip("<> ")) for one in cells]

    given = numbers()
    for direction, expected in (
        ("ascending", sorted(given)),
        ("descending", sorted(given, reverse=True)),
        (None, given),
    ):
        column.locator("button").click()
        assert column.get_attribute("aria-sort") == direction
        assert numbers() == expected


def test_pictures_do_not_pile_up_in_memory(show: Show, samples: list[Path]) -> None:
    shown = show(script=COUNT_ADDRESSES)
    shown.give(*samples[:6])
    for _ in range(5):
        shown.page.click("#next")
        shown.page.wait_for_function("() => !document.getElementById('picture').hidden")
    shown.wait()
    assert shown.page.evaluate("() => window.addresses") == 1
    shown.page.click("#clear")
    assert shown.page.evaluate("() => window.addresses") == 0
    assert shown.page.locator("#results").is_hidden()


def test_no_file_of_the_page_builds_markup_or_names_another_server() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|@import", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
        if path.suffix == ".html":
            assert not re.search(r"\sstyle=|\son\w+=|<style|<script>", text)
