"""Labels flipped on purpose, among classes that a made-up classifier tells apart well or not."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from medlens.report.label_suspects import MOST_LISTED, out_of_fold_suspects, suspects_block

CLASSES = ["glioma", "meningioma", "none"]


def simulate(
    images: int, flipped: int, distance: float, seed: int = 0
) -> tuple[list[str], list[str], NDArray[np.float64], set[str]]:
    """Paths, labels, probabilities of the best possible classifier, and the paths flipped."""
    generator = np.random.default_rng(seed)
    count = len(CLASSES)
    truth = np.arange(images) % count
    places = generator.normal(0, 1, (images, count))
    places[np.arange(images), truth] += distance
    wrong = generator.choice(images, flipped, replace=False)
    given = truth.copy()
    given[wrong] = (truth[wrong] + generator.integers(1, count, flipped)) % count
    paths = [f"{number:05d}.png" for number in range(images)]
    labels = [CLASSES[number] for number in given]
    probabilities = softmax(distance * places, axis=1)
    return paths, labels, probabilities, {paths[number] for number in wrong}


def test_planted_flips_are_found_and_little_else() -> None:
    paths, labels, probabilities, wrong = simulate(600, 24, distance=4.0)
    found = out_of_fold_suspects(paths, labels, probabilities, CLASSES)
    hits = set(found["path"]) & wrong
    assert len(hits) >= 0.9 * len(wrong)
    assert len(hits) >= 0.9 * len(found)
    assert list(found.columns) == ["path", "label", "suggested", "probability"]
    assert (found["label"] != found["suggested"]).all()
    assert found["probability"].between(1 / 3, 1).all()


def test_the_most_suspicious_come_first() -> None:
    paths, labels, probabilities, _ = simulate(600, 60, distance=2.5)
    found = out_of_fold_suspects(paths, labels, probabilities, CLASSES)
    margins = [
        probabilities[paths.index(path), CLASSES.index(label)] - probability
        for path, label, probability in zip(
            found["path"], found["label"], found["probability"], strict=True
        )
    ]
    assert len(margins) > 40
    assert margins == sorted(margins)
    assert margins[0] < -0.9


def test_clean_labels_are_left_alone() -> None:
    paths, labels, probabilities, _ = simulate(600, 0, distance=5.0)
    block = suspects_block(paths, labels, probabilities, CLASSES)
    assert block["n"] == 0
    assert block["images"] == []
    assert "none" in block["text"]
    assert "600 training images" in block["text"]


@pytest.mark.parametrize("seed", range(5))
def test_random_probabilities_judge_no_label(seed: int) -> None:
    _, labels, _, _ = simulate(300, 0, distance=4.0)
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), 300)
    block = suspects_block([str(one) for one in range(300)], labels, probabilities, CLASSES)
    assert block["n"] is None
    assert "not shown to do better than guessing" in block["reason"]
    assert block["reason"] in block["text"]
    assert block["images"] == []


def test_one_answer_for_all_images_judges_no_label() -> None:
    paths, labels, _, _ = simulate(300, 0, distance=4.0)
    same = np.tile([0.6, 0.3, 0.1], (300, 1))
    assert suspects_block(paths, labels, same, CLASSES)["n"] is None


def test_classes_that_are_hard_to_tell_apart_are_said_to_be() -> None:
    paths, labels, probabilities, _ = simulate(900, 0, distance=1.2)
    block = suspects_block(paths, labels, probabilities, CLASSES)
    assert block["n"] > 90
    assert "how hard the classes are to tell apart" in block["text"]


def test_the_block_lists_the_worst_hundred_and_counts_all() -> None:
    paths, labels, probabilities, _ = simulate(1500, 150, distance=4.0)
    found = out_of_fold_suspects(paths, labels, probabilities, CLASSES)
    block = suspects_block(paths, labels, probabilities, CLASSES)
    assert block["n"] == len(found) > MOST_LISTED == len(block["images"])
    assert [one["path"] for one in block["images"]] == list(found["path"][:MOST_LISTED])
    assert {type(value) for one in block["images"] for value in one.values()} == {str, float}


def test_the_order_of_the_images_changes_nothing() -> None:
    paths, labels, probabilities, _ = simulate(300, 12, distance=3.0)
    order = np.random.default_rng(1).permutation(300)
    shuffled = suspects_block(
        [paths[row] for row in order], [labels[row] for row in order], probabilities[order], CLASSES
    )
    assert shuffled == suspects_block(paths, labels, probabilities, CLASSES)


def test_a_class_of_one_image_and_a_class_of_none() -> None:
    paths, labels, probabilities, wrong = simulate(300, 9, distance=4.0)
    probabilities = np.column_stack([probabilities * 0.98, np.full((300, 2), 0.01)])
    labels[0] = "rare"
    found = out_of_fold_suspects(paths, labels, probabilities, [*CLASSES, "rare", "absent"])
    assert len(set(found["path"]) & wrong) >= 8
    assert set(found["suggested"]) <= set(CLASSES)


def test_images_of_one_class_alone_are_not_judged() -> None:
    _, _, probabilities, _ = simulate(30, 0, distance=4.0)
    paths = [str(one) for one in range(30)]
    block = suspects_block(paths, ["none"] * 30, probabilities, CLASSES)
    assert block["n"] is None
    assert "one class alone" in block["text"]


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield


@pytest.mark.usefixtures("_no_network")
def test_nothing_is_asked_of_the_network() -> None:
    paths, labels, probabilities, _ = simulate(90, 3, distance=4.0)
    assert suspects_block(paths, labels, probabilities, CLASSES)["n"] >= 2
