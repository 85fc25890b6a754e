from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from medlens.data.images import read_image
from medlens.data.scan import PictureRule
from medlens.errors import MedlensError
from medlens.model.backbone import BACKBONES
from medlens.model.engine import FrozenPass
from medlens.model.familiarity import (
    MOST_COMPONENTS,
    MOST_ROWS,
    choose_limit,
    fit_familiarity,
    load_familiarity,
    save_familiarity,
)
from medlens.model.weights import find_weights

COLUMNS = 300
Features = NDArray[np.float32]


def draw(count: int, seed: int, kind: int = 0) -> Features:
    """Features as a network gives them: never negative, long tails, many hidden causes."""
    of_kind = np.random.default_rng(kind)
    causes, offsets = of_kind.normal(size=(30, COLUMNS)), 3 * of_kind.normal(size=COLUMNS)
    random = np.random.default_rng([seed, kind])
    values = random.standard_t(5, size=(count, 30)) @ causes / 3 + offsets
    values += random.normal(size=(count, COLUMNS)) / 2
    return np.log1p(np.exp(values)).astype(np.float32)


def rare_class(count: int, seed: int) -> Features:
    """The same causes, but a fifth of the columns lies elsewhere."""
    features = draw(count, seed)
    features[:, :60] += 40
    return features


def share_flagged(train: Features, held_out: Features, new: Features) -> float:
    familiarity = fit_familiarity(train)
    limit = choose_limit(familiarity.distances(held_out))
    return float((familiarity.distances(new) > limit).mean())


@pytest.mark.parametrize("count", [30, 400, 3000])
def test_other_images_are_flagged_and_the_same_kind_is_not(count: int) -> None:
    train, held_out = draw(count, 1), draw(400, 2)
    assert share_flagged(train, held_out, draw(1000, 3)) <= 0.03
    assert share_flagged(train, held_out, draw(200, 4, kind=1)) >= 0.95


def test_what_lies_outside_of_all_components_is_seen() -> None:
    train = draw(400, 1)
    train[:, -20:] = 1
    fine, odd = draw(300, 2), draw(300, 2)
    fine[:, -20:] = 1
    odd[:, -20:] = 50
    assert share_flagged(train, fine, odd) == 1.0


def test_a_class_of_few_images_is_familiar() -> None:
    train = np.concatenate([draw(400, 1), rare_class(8, 2)])
    held_out = np.concatenate([draw(392, 3), rare_class(8, 4)])
    assert share_flagged(train, held_out, rare_class(200, 5)) <= 0.1
    # The same images are unfamiliar where the class is not in training.
    assert share_flagged(train[:400], held_out[:392], rare_class(200, 5)) == 1.0


def test_a_class_of_few_images_among_very_many_is_kept_whole() -> None:
    train = np.concatenate([draw(12_000, 1), rare_class(8, 2)])
    labels = np.repeat([0, 1], [12_000, 8])
    familiar = []
    for given in (labels, None):
        familiarity = fit_familiarity(train, given, seed=0)
        assert familiarity.rows.shape == (MOST_ROWS, MOST_COMPONENTS)
        limit = choose_limit(familiarity.distances(draw(1000, 3)))
        familiar.append((familiarity.distances(rare_class(200, 5)) <= limit).mean())
    assert familiar[0] > 0.6
    assert familiar[1] < 0.2


def test_distances_agree_with_a_plain_search_where_nothing_is_left_out() -> None:
    train, new = draw(40, 1), draw(25, 2)
    familiarity = fit_familiarity(train)

    def stretched(features: Features) -> NDArray[np.float64]:
        values = (features.astype(np.float64) - familiarity.mean) / familiarity.spread
        return np.asarray(np.arcsinh(values))

    # 39 components hold all differences between 40 images.
    pairs = stretched(new)[:, np.newaxis] - stretched(train)
    expected = np.sqrt((pairs**2).sum(axis=2)).min(axis=1)
    np.testing.assert_allclose(familiarity.distances(new), expected, rtol=1e-4)
    assert familiarity.distances(train).max() < 0.05


def test_the_distance_does_not_depend_on_the_other_images(tmp_path: Path) -> None:
    train, new = draw(200, 1), draw(2500, 2)
    before = new.copy()
    mapped = np.memmap(tmp_path / "features", np.float32, "w+", shape=train.shape)
    mapped[:] = train
    familiarity, of_mapped = fit_familiarity(train), fit_familiarity(mapped)
    together = familiarity.distances(new)
    assert together.dtype == np.float64
    assert together.min() >= 0
    np.testing.assert_array_equal(of_mapped.distances(new), together)
    np.testing.assert_allclose(familiarity.distances(new[1500:1501]), together[1500:1501], 1e-4)
    np.testing.assert_array_equal(new, before)
    assert len(familiarity.distances(new[:0])) == 0


def test_a_filter_that_never_fired_in_training_raises_the_distance() -> None:
    train, new = draw(300, 1), draw(50, 2)
    train[:, 7] = 0
    new[:, 7] = 0
    firing = new.copy()
    firing[:, 7] = 20
    trembling = new.copy()
    trembling[:, 7] = 1e-4
    familiarity = fit_familiarity(train)
    plain = familiarity.distances(new)
    assert (familiarity.distances(firing) > plain + 0.1).all()
    np.testing.assert_allclose(familiarity.distances(trembling), plain, rtol=1e-5)


def test_images_that_are_all_the_same_leave_only_the_same_familiar() -> None:
    same = np.ones((5, 4), np.float32)
    familiarity = fit_familiarity(same)
    assert familiarity.distances(same).tolist() == [0.0] * 5
    assert (familiarity.distances(same + 1) > 0).all()


def test_features_that_are_not_numbers_are_far_from_everything() -> None:
    new = draw(3, 2)
    new[1, 5] = np.nan
    new[2, 5] = np.inf
    distances = fit_familiarity(draw(50, 1)).distances(new)
    assert np.isfinite(distances).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="not a finite number"):
        fit_familiarity(new)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="two training images"):
        fit_familiarity(draw(1, 1))
    with pytest.raises(ValueError, match="expected 300 columns"):
        fit_familiarity(draw(10, 1)).distances(draw(10, 1)[:, :-1])


def test_the_limit_is_the_99th_percentile_of_one_image_more() -> None:
    random = np.random.default_rng(0)
    assert choose_limit(random.permutation(np.arange(1.0, 1000.0))) == 990
    assert choose_limit(random.permutation(np.arange(1.0, 100.0))) == 99
    assert choose_limit(np.array([3.0, 1.0])) == 3
    flagged = [
        (random.gamma(2, size=100) > choose_limit(random.gamma(2, size=300))).mean()
        for _ in range(2000)
    ]
    assert np.mean(flagged) == pytest.approx(0.01, abs=0.001)


@pytest.mark.parametrize("wrong", [[], [1.0, np.nan], [1.0, np.inf]])
def test_a_limit_needs_distances(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        choose_limit(np.array(wrong))


def test_a_file_gives_the_same_distances_and_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "deep" / "one.npz", tmp_path / "two.npz"
    for path in (first, second):
        familiarity = fit_familiarity(draw(300, 1), seed=3)
        save_familiarity(path, familiarity, 12.5)
    assert first.read_bytes() == second.read_bytes()
    loaded, limit = load_familiarity(first)
    assert limit == 12.5
    new = draw(40, 2)
    np.testing.assert_array_equal(loaded.distances(new), familiarity.distances(new))


def test_damaged_missing_and_newer_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "familiarity.npz"
    with pytest.raises(MedlensError, match="cannot be read"):
        load_familiarity(path)
    save_familiarity(path, fit_familiarity(draw(30, 1)), 1.0)
    whole = path.read_bytes()
    damaged = [b"", whole[: len(whole) // 2], whole[:2000] + b"\xff" * 500 + whole[2500:], b"text"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(MedlensError, match="cannot be read"):
            load_familiarity(path)
    np.savez(path, format=np.int64(99))
    with pytest.raises(MedlensError, match="newer medlens"):
        load_familiarity(path)
    np.savez(path, format=np.int64(1))
    with pytest.raises(MedlensError, match="cannot be read"):
        load_familiarity(path)


@pytest.mark.shared_data
def test_chest_x_rays_are_unfamiliar_to_a_classifier_of_brain_images(
    shared: Path, tmp_path: Path
) -> None:
    weights_file = str(shared / "weights" / "mobilenet_v2_imagenet_notop.weights.h5")
    backbone = BACKBONES["mobilenet_v2"]
    rule = PictureRule(64, "pad")
    weights = find_weights(backbone, weights_file, seed=0)
    forward = FrozenPass(backbone, weights, rule, "keras").forward(tmp_path)

    def features(name: str, split: str, count: int) -> Features:
        table = pd.read_csv(shared / "data" / name / "labels.csv")
        files = table["file"][table["split"] == split].sample(count, random_state=0)
        paths = [shared / "data" / name / file for file in files]
        pictures = np.stack([rule.apply(read_image(path, frame=None).pixels) for path in paths])
        batches = range(0, count, forward.batch)
        return np.concatenate([forward.run(pictures[i : i + forward.batch]) for i in batches])

    familiarity = fit_familiarity(features("brain_mri_4class", "train", 120))
    distances = familiarity.distances(features("brain_mri_4class", "test", 160))
    limit = choose_limit(distances[:80])
    assert (distances[80:] > limit).mean() <= 0.05
    assert (familiarity.distances(features("pneumoniamnist", "test", 40)) > limit).mean() >= 0.95


def test_each_group_weighs_as_one_in_the_limit() -> None:
    distances = np.arange(1.0, 201.0)
    # One patient brings the 101 largest distances: it counts as one of 100, not as half of all.
    groups = np.minimum(np.arange(200), 99)
    assert choose_limit(distances, groups) > choose_limit(distances[:100])
    assert choose_limit(distances, np.arange(200)) == choose_limit(distances)
    many = np.concatenate([np.arange(1.0, 1000.0), np.full(500, 5000.0)])
    assert choose_limit(many) == 5000
    assert choose_limit(many, np.minimum(np.arange(1499), 999)) == 991
