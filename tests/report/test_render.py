"""The report: what it says, what it hides, and that it is one quiet file."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser

import pandas as pd
import pytest

from medlens.files import write_json, write_text
from medlens.report.figure_style import FAINT, INK, PAPER
from medlens.report.figures import write_figures
from medlens.report.render import data_set_name, describe_finding, list_facts, render_report
from medlens.report.wording import per_cent, show_number, show_numbers
from medlens.run import Run
from medlens.run_dir import RunDir

MakeRun = Callable[..., RunDir]
SCRIPT = "<script>alert(1)</script>"
VOID = {"meta", "link", "br", "img"}


class Page(HTMLParser):
    """Ids, references, texts by where they stand, and tags that do not close."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
                self.references.append(str(value))
            self.references += re.findall(r"url\(([^)]*)\)", str(value))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((" ".join(self.open), data))

    def text(self, inside: str = "", outside: str = "style") -> str:
        parts = [
            text for place, text in self.texts if inside in place and outside not in place.split()
        ]
        return " ".join(" ".join(parts).replace("\N{NO-BREAK SPACE}", " ").split())


def render(run: RunDir, figures_of: RunDir | None = None) -> str:
    """The report of a run; where its figures do not matter, with those of another, for speed."""
    if figures_of is None:
        write_figures(run, Run(run.root).evaluation)
    else:
        shutil.copytree(figures_of.figures, run.figures, dirs_exist_ok=True)
    return render_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def binary(make_run: MakeRun) -> RunDir:
    run = make_run()
    render(run)
    return run


@pytest.fixture(scope="module")
def page(binary: RunDir) -> Page:
    return Page(binary.report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def absent(make_run: MakeRun) -> Page:
    notices = ["The backbone has random filters. <b>They</b> are not a result.", "Second."]
    return Page(
        render(
            make_run(
                ("a", "b", "gone"),
                absent_from_test=["gone"],
                with_patients=False,
                notices=notices,
            )
        )
    )


def test_the_page_is_whole_and_asks_for_nothing_outside(binary: RunDir, page: Page) -> None:
    assert page.open == []
    assert "script" not in page.tags
    assert {one for one in page.references if not one.startswith("#")} == {"data:,"}
    assert not re.search(r"https?://|@import", binary.report.read_text(encoding="utf-8"))


def test_ids_differ_and_every_reference_is_met(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    wanted = {one[1:] for one in page.references if one.startswith("#")}
    assert len(wanted) > 20
    assert wanted <= set(page.ids)


def test_what_must_be_read_first_comes_first(absent: Page) -> None:
    text = absent.text(inside="body")
    places = [
        text.index(words)
        for words in (
            "Not a medical device.",
            "Read this first",
            "The backbone has random filters. <b>They</b> are not a result.",
            "Second.",
            "Contents",
            "On 60 test images",
        )
    ]
    assert places == sorted(places)


def test_the_numbers_of_the_evaluation_are_shown(binary: RunDir, page: Page) -> None:
    test = json.loads(binary.evaluation.read_text(encoding="utf-8"))["test"]
    text = page.text()
    low, high = (100 * end for end in test["accuracy"]["ci95"])
    accuracy, baseline = (
        100 * test[name]["value"] for name in ("accuracy", "majority_class_accuracy")
    )
    assert (
        f"On 60 test images of 20 groups (all images of a patient, and all copies of an image, are "
        f"one group) the classifier was right in {accuracy:.1f} % (95 % interval {low:.1f} to "
        f"{high:.1f} %). Always answering “normal”, the commonest class in training, would be "
        f"right in {baseline:.1f} %." in text
    )
    for name in ("recall", "specificity", "precision", "recall_macro"):
        assert f"{100 * test[name]['value']:.1f} %" in text
    for name in ("roc_auc", "average_precision", "f1", "mcc", "log_loss"):
        assert f"{test[name]['value']:.3f}" in text
        assert test[name]["method"] in text
    for block in test["per_class"].values():
        assert f"{block['f1']['value']:.3f}" in text


def test_train_and_val_are_marked_as_what_they_are(binary: RunDir, page: Page) -> None:
    evaluation = json.loads(binary.evaluation.read_text(encoding="utf-8"))
    text = page.text()
    assert "train fitted on val chosen on test only measured on" in text
    train = 100 * evaluation["train"]["accuracy"]["value"]
    assert f"{train:.1f} %" in text


def test_a_run_without_train_and_val_numbers_is_rendered(make_run: MakeRun) -> None:
    run = make_run()
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    del evaluation["train"], evaluation["val"]
    evaluation["test"]["kappa"] = {"value": 0.123, "ci95": [0.1, 0.2]}
    write_json(run.evaluation, evaluation)
    text = Page(render(run)).text()
    assert "Kappa 0.123" in text
    assert "always normal" not in text


def test_the_flow_accounts_for_every_file(page: Page) -> None:
    text = page.text()
    for words in (
        "333 files found 15 passed over hidden file: 3 not an image: 12 318 images found",
        "3 left out conflicting labels: 2 unreadable: 1 the file is cut off: 1 315 images used",
        "105 groups, 105 patients known",
        "train 210 images 70 groups, 70 patients",
        "By ratio, stratified by class, in whole groups.",
        "in more than one split: 0 patients, 0 identical images, 0 groups.",
    ):
        assert words in text


def test_what_a_cluster_began_again_is_said(make_run: MakeRun, page: Page) -> None:
    run = make_run()
    for file in (run.audit, run.training):
        content = json.loads(file.read_text(encoding="utf-8"))
        write_json(file, {**content, "retried": [f"Retried: {file.stem}.", "All else went on."]})
    text = Page(render(run)).text()
    assert "While the images were read on a cluster: Retried: audit. All else went on." in text
    assert "While the network ran on a cluster: Retried: training. All else went on." in text
    assert "on a cluster" not in page.text()


def test_class_counts_of_each_split_add_up(binary: RunDir, page: Page) -> None:
    images = pd.read_csv(binary.dataset).merge(pd.read_csv(binary.splits), on="path")
    assert "Images 210 45 60 315" in page.text()
    for name in ("normal", "pneumonia"):
        counts = [
            int(((images["label"] == name) & (images["split"] == split)).sum())
            for split in ("train", "val", "test")
        ]
        numbers = [rf"{count} \([\d.]+ %\)" for count in (*counts, sum(counts))]
        pattern = " ".join([name, *numbers])
        assert re.search(pattern, page.text())


def test_a_patient_in_two_splits_is_counted_and_shouted(make_run: MakeRun, binary: RunDir) -> None:
    run = make_run()
    splits = pd.read_csv(run.splits)
    splits.loc[0, "split"] = "test"
    write_text(run.splits, splits.to_csv(index=False))
    page = Page(render(run, binary))
    assert "1 patients" in page.text(inside="strong")
    assert "1 groups" in page.text(inside="strong")
    assert "identical" not in page.text(inside="strong")


def test_unknown_patients_are_said_in_bold(absent: Page, page: Page) -> None:
    bold = absent.text(inside="strong")
    assert "Image-level split only." in bold
    assert "Image-level only: no patient is known." in bold
    assert "Image-level" not in page.text()
    assert "0 patients" not in absent.text()


def test_patients_known_for_some_images_are_said(make_run: MakeRun, binary: RunDir) -> None:
    run = make_run()
    images = pd.read_csv(run.dataset, dtype=str, keep_default_na=False)
    images.loc[:9, "patient"] = ""
    write_text(run.dataset, images.to_csv(index=False))
    bold = Page(render(run, binary)).text(inside="strong")
    assert "The patient is unknown for 10 of 315 images." in bold


def test_what_is_not_available_has_its_reason(absent: Page) -> None:
    text = absent.text()
    assert "Balanced accuracy is not available: no image of class gone." in text
    assert text.count("not available: no image of class gone") > 8
    assert "No test image of gone." in absent.text(inside="strong")
    assert "No curve for gone: no test image." in text


def test_a_small_test_set_is_said_plainly_and_a_large_one_is_not(
    make_run: MakeRun, binary: RunDir, page: Page
) -> None:
    assert "A small test set." in page.text(inside="strong")
    assert "Few test images" not in page.text()
    large = Page(render(make_run(sizes={"train": 300, "val": 60, "test": 3000}), binary))
    assert "A small test set." not in large.text()
    assert "3,000 images of 1,000 groups the accuracy is known to within about 1 " in large.text()


def test_a_classifier_that_does_not_beat_the_baseline_is_said_so(
    make_run: MakeRun, binary: RunDir
) -> None:
    run = make_run(sizes={"train": 60, "val": 9, "test": 9})
    evaluation = json.loads(run.evaluation.read_text(encoding="utf-8"))
    test = evaluation["test"]
    for value, words in ((0.45, "did no better than that"), (0.7, "does not show that it is")):
        test["accuracy"] |= {"value": value, "ci95": [0.4, 0.9]}
        test["majority_class_accuracy"]["value"] = 0.5
        write_json(run.evaluation, evaluation)
        assert words in Page(render(run, binary)).text()


def test_findings_name_twenty_files_at_most_and_only_when_unfolded(page: Page) -> None:
    text = page.text()
    assert "30 images of one flat colour: nothing is to be seen. Look at them." in text
    assert "The first 20 of 30 files; all in audit.json" in text
    unfolded = page.text(inside="details")
    assert "images/0019.png" in unfolded
    assert "images/0020.png" not in unfolded
    assert "images/0316.png = images/0317.png" in unfolded
    assert "images/0" not in page.text(outside="details")


def test_no_patient_is_named(binary: RunDir, page: Page) -> None:
    patients = set(pd.read_csv(binary.dataset)["patient"])
    assert "test3" in patients
    shown = set(re.findall(r"\w+", page.text()))
    assert patients & shown == {"left"}  # a word of the page, and a planted patient


def test_files_of_a_finding_stop_in_the_middle_of_a_set() -> None:
    sets = [[f"{number}-{place}" for place in range(8)] for number in range(4)]
    shown = describe_finding({"files": sets})
    assert [len(files) for files in shown["shown"]] == [8, 8, 4]
    assert (shown["shown_count"], shown["total"]) == (20, 32)


def test_hostile_names_are_escaped(make_run: MakeRun) -> None:
    run = make_run((SCRIPT, 'b" onload="x', "c & d"), notices=[SCRIPT])
    audit = json.loads(run.audit.read_text(encoding="utf-8"))
    audit["findings"][0]["files"] = [[f"{SCRIPT}.png"]]
    audit["passed_over"] = {SCRIPT: 1}
    write_json(run.audit, audit)
    write_text(run.config, f"data = '/data/{SCRIPT}.npz'\n")
    content = render(run)
    assert "<script" not in content.lower()
    assert html.escape(SCRIPT, quote=False) in content
    page = Page(content)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert f"{SCRIPT}.png" in page.text(inside="details")
    assert 'b" onload="x' in page.text(inside="td") + page.text(inside="th")


def test_the_same_run_gives_the_same_bytes_and_times_do_not_count(
    binary: RunDir, make_run: MakeRun
) -> None:
    again = make_run()
    history = pd.read_csv(again.history).assign(seconds=77.125)
    write_text(again.history, history.to_csv(index=False))
    render(again)
    assert again.report.read_bytes() == binary.report.read_bytes()


def test_figures_take_the_colours_of_the_page(binary: RunDir, page: Page) -> None:
    assert page.tags.count("svg") == 5
    drawings = re.findall(r"<svg.*?</svg>", binary.report.read_text(encoding="utf-8"), re.DOTALL)
    for drawing in drawings:
        assert re.match(r'<svg role="img" aria-label="[^"]+" style="max-width: \d+px', drawing)
        assert "viewBox" in drawing
        assert "var(--ink)" in drawing
        assert not any(colour in drawing for colour in (INK, FAINT, PAPER))
        assert "DejaVu" not in drawing


def test_facts_have_words_and_unknown_ones_their_names() -> None:
    facts = dict(
        list_facts(
            {
                "weights": "random",
                "some_later_fact": ["one", 2],
                "nested": {"a": True, "b": None},
                "split_text": "said elsewhere",
                "tiny": 8.8294467925909e-07,
                "gpus": [],
            }
        )
    )
    assert facts == {
        "Weights of the backbone": "random filters, not pretrained",
        "Some later fact": "one, 2",
        "Nested": "a: yes; b: none",
        "Tiny": "8.83e-07",
        "GPUs": "none",
    }


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ('data = "/home/anne/lungs"', "lungs"),
        ('data = "/home/anne/lungs/"', "lungs"),
        ('data = "lungs/labels.csv"', "lungs"),
        ('data = "labels.csv"', "labels"),
        ("data = 'C:\\scans\\lungs\\labels.CSV'", "lungs"),
        ('data = "sets/bloodmnist.npz"', "bloodmnist"),
        ('data = "."', "run"),
        ("seed = 0", "run"),
    ],
)
def test_the_data_set_is_named_without_its_path(
    tmp_path_factory: pytest.TempPathFactory, config: str, name: str
) -> None:
    run = RunDir(tmp_path_factory.mktemp("named", numbered=True) / "run")
    assert data_set_name(run) == "run"
    write_text(run.config, config + "\n")
    assert data_set_name(run) == name


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.9614, "96.1"),
        (1, "100.0"),
        (0, "0.0"),
        (0.9999, "99.99"),
        (0.0004, "0.04"),
        (0.5, "50.0"),
    ],
)
def test_no_share_is_all_or_nothing_by_rounding(share: float, text: str) -> None:
    assert per_cent(share) == f"{text}\N{NO-BREAK SPACE}%"


def test_numbers_are_shown_on_their_own_scales() -> None:
    measure = {"value": -0.25, "ci95": [-0.5, 0.125], "n": 1234, "groups": 12, "method": "m"}
    shown, minus = show_number("mcc", measure), "\N{MINUS SIGN}"
    assert (shown.value, shown.interval, shown.bar) == (
        f"{minus}0.250",
        f"{minus}0.500 to 0.125",
        None,
    )
    assert (shown.images, shown.groups) == ("1,234", "12")
    assert show_number("recall", {**measure, "value": 0.5, "ci95": [0.25, 0.75]}).bar == (
        "25.0%",
        "50.0%",
        "75.0%",
    )
    assert show_number("average_precision", {**measure, "value": 0.5}).value == "0.500"
    assert show_number("precision_macro", {**measure, "value": 0.5}).value == "50.0 %".replace(
        " ", "\N{NO-BREAK SPACE}"
    )


def test_a_number_under_two_names_is_shown_once() -> None:
    one = {"value": 0.5}
    names = ("recall_macro", "balanced_accuracy", "roc_auc", "roc_auc_macro", "odd_new_number")
    labels = [number.label for number in show_numbers(dict.fromkeys(names, one))]
    assert labels == ["Balanced accuracy (macro recall)", "ROC AUC", "Odd new number"]


@pytest.mark.slow
def test_the_mean_of_several_heads_is_not_said_to_be_stopped_on_val(own_run: RunDir) -> None:
    history = pd.read_csv(own_run.history).drop(columns="fold", errors="ignore")
    both = [history.assign(fold=fold) for fold in (1, 2)]
    write_text(own_run.history, pd.concat(both).to_csv(index=False))
    training = json.loads(own_run.training.read_text(encoding="utf-8"))
    evaluation = json.loads(own_run.evaluation.read_text(encoding="utf-8"))
    for heads, said, unsaid in (
        (1, "training was stopped and chosen on val", "mean of all heads"),
        (2, "mean of all heads", "training was stopped and chosen on val"),
    ):
        write_json(own_run.training, {**training, "heads": heads})
        write_figures(own_run, evaluation)
        page = render_report(own_run).read_text(encoding="utf-8")
        assert said in page
        assert unsaid not in page
    svg = (own_run.figures / "accuracy.svg").read_text(encoding="utf-8")
    assert "folds held out (mean)" in svg
    assert "(train)" in svg and "(val)" not in svg


@pytest.mark.slow
def test_what_was_chosen_stands_in_the_report_once_and_readably(own_run: RunDir) -> None:
    training = json.loads(own_run.training.read_text(encoding="utf-8"))
    choice = {"class_weight": "Balanced accuracy out of fold: none 0.9."}
    write_json(own_run.training, {**training, "choice": choice, "weights": "random"})
    page = render_report(own_run).read_text(encoding="utf-8")
    assert page.count("Balanced accuracy out of fold: none 0.9.") == 1
    assert "<strong>Class weight.</strong>" in page
    assert "A pretrained network" not in page


def test_a_number_given_twice_has_one_interval(own_run: RunDir) -> None:
    evaluation = json.loads(own_run.evaluation.read_text(encoding="utf-8"))
    loss = evaluation["test"]["log_loss"]
    again = evaluation["calibration"]["after"]["log_loss"]
    assert again["value"] == pytest.approx(loss["value"], rel=1e-6)
    assert again["ci95"] == pytest.approx(loss["ci95"], rel=1e-6)
