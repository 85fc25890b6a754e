"""Changes of known strength, on a classifier whose weak point is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from medlens.report.robustness import (
    CHANGES,
    change_pictures,
    draw_by_group,
    robustness_block,
)

SIZE = 48
OF_NAME = {change.name: change for change in CHANGES}


@pytest.fixture(scope="module")
def grey() -> NDArray[np.uint8]:
    """Grey pictures with structure, far from black and white."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    waves = [np.sin(6 * x + a) + np.cos(9 * y + b) for a, b in generator.random((3, 2)) * 6]
    pictures = np.stack([128 + 30 * wave for wave in waves]).astype(np.uint8)
    return np.repeat(pictures[..., np.newaxis], 3, axis=3)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_every_change_is_small_seeded_and_keeps_grey_grey(
    change: Any, grey: NDArray[np.uint8]
) -> None:
    changed = change_pictures(grey, change, 0)
    assert changed.shape == grey.shape
    assert changed.dtype == np.uint8
    assert (changed == changed[..., :1]).all()
    inner = (slice(None), slice(8, -8), slice(8, -8))
    distance = np.abs(changed[inner].astype(float) - grey[inner]).mean()
    assert 0.05 < distance < 20
    np.testing.assert_array_equal(changed, change_pictures(grey, change, 0))


def test_strengths_are_those_said(grey: NDArray[np.uint8]) -> None:
    before = grey.astype(float)

    def after(name: str) -> NDArray[np.float64]:
        return change_pictures(grey, OF_NAME[name], 3).astype(float)

    assert (after("noise") - before)[..., 0].std() == pytest.approx(5, rel=0.03)
    assert after("brighter").mean() == pytest.approx(1.1 * before.mean(), abs=0.5)
    assert after("darker").mean() == pytest.approx(0.9 * before.mean(), abs=0.5)
    for name, factor in (("more contrast", 1.1), ("less contrast", 0.9)):
        assert after(name)[0].mean() == pytest.approx(before[0].mean(), abs=0.5)
        assert after(name)[0].std() == pytest.approx(factor * before[0].std(), rel=0.01)
    for name in ("5 of 255", "quality 50", "5 degrees", "1 pixel", "1.1", "0.9"):
        assert any(name in change.text for change in CHANGES)


def test_blur_spreads_a_point_as_a_normal_curve() -> None:
    point = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    point[0, 24, 24] = 255
    blurred = change_pictures(point, OF_NAME["blur"], 0)[0, ..., 0].astype(float)
    assert blurred[24, 24] == pytest.approx(255 / (2 * np.pi), rel=0.06)
    assert blurred[24, 25] / blurred[24, 24] == pytest.approx(np.exp(-0.5), rel=0.05)


def test_rotation_turns_by_five_degrees_to_the_left() -> None:
    point = np.zeros((1, 101, 101, 3), np.uint8)
    point[0, 49:52, 89:92] = 255  # 40 to the right of the centre
    turned = change_pictures(point, OF_NAME["rotation"], 0)[0, ..., 0].astype(float)
    y, x = np.mgrid[:101, :101]
    row, column = ((turned * axis).sum() / turned.sum() - 50 for axis in (y, x))
    assert np.degrees(np.arctan2(-row, column)) == pytest.approx(5, abs=0.3)


def test_colour_stays_in_jpeg() -> None:
    red = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    red[..., 0] = 200
    changed = change_pictures(red, OF_NAME["JPEG"], 0)
    assert abs(int(changed[0, 5, 5, 0]) - 200) < 6
    assert changed[0, 5, 5, 1] < 6


def test_whole_groups_are_drawn() -> None:
    groups = np.repeat([f"P{number}" for number in range(100)], 3)
    rows = draw_by_group(groups, 200, seed=0)
    assert 198 <= len(rows) <= 200
    assert list(rows) == sorted(set(rows))
    counts = {name: int((groups[rows] == name).sum()) for name in groups[rows]}
    assert set(counts.values()) == {3}
    np.testing.assert_array_equal(rows, draw_by_group(groups, 200, seed=0))
    assert not np.array_equal(rows, draw_by_group(groups, 200, seed=1))


def test_all_images_where_they_are_few_and_one_huge_group() -> None:
    assert list(draw_by_group(["a", "b", "a"], 3, seed=0)) == [0, 1, 2]
    assert len(draw_by_group(["a"] * 30, 20, seed=0)) == 20
    draws = [draw_by_group(["a"] * 300 + ["b"] * 10, 200, seed=seed) for seed in range(20)]
    assert {tuple(rows) for rows in draws} == {tuple(range(200)), tuple(range(300, 310))}


def test_every_group_is_as_likely() -> None:
    groups = np.repeat(np.arange(20), 2)
    drawn = [groups[draw_by_group(groups, 20, seed=seed)] for seed in range(400)]
    shares = np.bincount(np.concatenate(drawn), minlength=20) / 2 / 400
    assert np.abs(shares - 0.5).max() < 0.1


def pictures_of_two_kinds(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The second class is a little brighter; patients have two pictures."""
    generator = np.random.default_rng(1)
    truth = np.repeat(np.arange(count // 2) % 2, 2).astype(np.int64)
    levels = 100 + 12 * truth + generator.normal(0, 3, count)
    pictures = levels[:, None, None, None] + generator.normal(0, 5, (count, SIZE, SIZE, 1))
    return np.repeat(pictures, 3, axis=3).astype(np.uint8), truth


def by_brightness(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    positive = expit(pictures.mean(axis=(1, 2, 3)) - 106)
    return np.stack([1 - positive, positive], axis=1)


def test_a_classifier_of_brightness_fails_under_brightness_alone() -> None:
    pictures, truth = pictures_of_two_kinds(120)
    groups = np.repeat(np.arange(60), 2)
    block = robustness_block(
        by_brightness, pictures, truth, groups, ["dark", "bright"], seed=0, draws=400
    )
    rows = {row["change"]: row for row in block}
    assert list(rows) == ["unchanged", *OF_NAME]
    assert rows["unchanged"]["accuracy"]["value"] > 0.9
    assert rows["unchanged"]["accuracy_difference"]["value"] is None
    for name in ("brighter", "darker"):
        difference = rows[name]["accuracy_difference"]
        assert difference["ci95"][1] < -0.1
        assert difference["n"] == 120
        assert difference["groups"] == 60
        whole = rows[name]["accuracy"]["value"] - rows["unchanged"]["accuracy"]["value"]
        assert difference["value"] == pytest.approx(whole)
        # Order is kept, so the area hardly moves.
        assert abs(rows[name]["roc_auc_macro_difference"]["value"]) < 0.01
    for name in ("noise", "blur", "more contrast", "less contrast", "JPEG"):
        low, high = rows[name]["accuracy_difference"]["ci95"]
        assert low <= 0 <= high
        assert rows[name]["text"]


def test_no_change_at_all_still_has_an_interval() -> None:
    pictures, truth = pictures_of_two_kinds(40)

    def same(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        positive = np.where(truth == 1, 0.9, 0.1)
        return np.stack([1 - positive, positive], axis=1)

    block = robustness_block(same, pictures, truth, np.arange(40), ["a", "b"], 0, 100)
    for name in ("accuracy_difference", "roc_auc_macro_difference"):
        measure = block[1][name]
        assert measure["value"] == 0
        assert measure["ci95"][0] == -measure["ci95"][1] < 0
        assert "unlike" in measure["method"]
    assert block[1]["accuracy_difference"]["ci95"][1] == pytest.approx(1 - 0.025 ** (1 / 40))


def test_a_class_without_images_has_no_area() -> None:
    pictures, truth = pictures_of_two_kinds(40)

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        two = by_brightness(pictures)
        return np.concatenate([two * 0.9, np.full((len(two), 1), 0.1)], axis=1)

    block = robustness_block(run, pictures, truth, np.arange(40), ["a", "b", "c"], 0, 100)
    assert "no image of class c" in block[1]["roc_auc_macro_difference"]["reason"]
    assert "no image of class c" in block[1]["roc_auc_macro"]["reason"]
    assert block[1]["accuracy_difference"]["value"] is not None


def test_three_classes_and_the_same_bytes_again() -> None:
    pictures, _ = pictures_of_two_kinds(60)
    three = np.arange(60) % 3

    def run(pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
        scores = np.eye(3)[three] + 0.02 * pictures.mean(axis=(1, 2, 3))[:, None] * [0, 1, 0]
        return np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)

    arguments = (run, pictures, three, np.arange(60) // 3, ["a", "b", "c"], 0, 100)
    block = robustness_block(*arguments)
    assert block == robustness_block(*arguments)
    darker = next(row for row in block if row["change"] == "darker")
    whole = darker["roc_auc_macro"]["value"] - block[0]["roc_auc_macro"]["value"]
    assert darker["roc_auc_macro_difference"]["value"] == pytest.approx(whole)
