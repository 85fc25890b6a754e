from __future__ import annotations

import dataclasses

import pytest

from medlens.data.fingerprint import Fingerprint
from medlens.model.backbone import BACKBONES
from medlens.model.head_plan import HeadPlan
from medlens.model.plan import Wishes, depth_sets, head_space, make_plan

FINGERPRINT = Fingerprint(
    images=300,
    classes={"ill": 100, "well": 200},
    groups={"ill": 3, "well": 80},
    patients_known=1.0,
    imbalance=2.0,
    median_side=28.0,
    sides=(28, 28),
    modes={"L": 300},
    formats={"PNG": 300},
    extra_copies=0,
    colour_share=0.0,
    modality="x_ray",
    modality_evidence="a test",
)
NOTHING = Wishes(None, None, None, None, None, None, None, None, None)
BASE = HeadPlan((), 0.0, 100, 64, 1e-3, 0.98, "val", 10, 0)


@pytest.mark.parametrize("name", BACKBONES)
def test_depth_sets_are_the_columns_they_are_named_after(name: str) -> None:
    backbone = BACKBONES[name]
    sets, columns = depth_sets(backbone), backbone.columns
    assert sets["all"] is None
    assert sets["last"] is not None
    assert sets["deep"] is not None
    last = columns[slice(*sets["last"])]
    deepest, width = backbone.depths[-1], backbone.channels[-1]
    assert last == tuple(f"{deepest}/mean/{channel}" for channel in range(width))
    depths = [one.split("/")[0] for one in columns[slice(*sets["deep"])]]
    half = backbone.depths[len(backbone.depths) // 2 :]
    assert tuple(dict.fromkeys(depths)) == half


def test_rules_follow_the_fingerprint() -> None:
    plan = make_plan(FINGERPRINT, NOTHING, 64, is_plain=False)
    assert plan["image_size"].value == 64
    assert plan["folds"].value == 3
    assert plan["class_weight"].kind == "measured"
    even = dataclasses.replace(FINGERPRINT, imbalance=1.2)
    assert make_plan(even, NOTHING, 64, is_plain=False)["class_weight"].value == ["none"]


def test_wishes_win_and_are_marked_as_given() -> None:
    wishes = Wishes("vgg19", 96, "crop", "last", (), None, "balanced", None, 1)
    plan = make_plan(FINGERPRINT, wishes, 64, is_plain=False)
    given = {name for name, one in plan.items() if one.kind == "given"}
    assert given == {
        "backbone",
        "image_size",
        "fit",
        "features",
        "heads",
        "class_weight",
        "fine_tune",
    }
    space = head_space(plan, BASE, BACKBONES["vgg19"])
    assert space.first.units == ()
    assert space.first.dropout == 0
    assert space.first.class_weight == "balanced"


def test_a_wish_for_dropout_alone_leaves_the_heads_to_be_measured() -> None:
    wishes = dataclasses.replace(NOTHING, dropout=0.3)
    plan = make_plan(FINGERPRINT, wishes, 64, is_plain=False)
    heads = plan["heads"]
    assert heads.kind == "measured"
    assert {head["dropout"] for head in heads.value} == {0.3}


def test_the_plain_plan_leaves_nothing_to_choose() -> None:
    plan = make_plan(FINGERPRINT, NOTHING, 64, is_plain=True)
    space = head_space(plan, BASE, BACKBONES["vgg16"])
    assert not space.is_open
    assert space.first.units == (256,)
    assert space.first.within is None  # the last layer is all that is gathered
    assert "measured" not in {one.kind for one in plan.values()}
