"""`medlens demo`: the whole road on a synthetic phantom data set, without data or network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medlens.config import make_options
from medlens.data.phantom import write_phantoms
from medlens.errors import MedlensError
from medlens.model.backbone import BACKBONES
from medlens.model.weights import find_weights
from medlens.pipeline import run_training
from medlens.run import Run
from medlens.screen import Screen

DEMO_RUN = "demo-run"


def run_demo(given: Mapping[str, Any], screen: Screen) -> Run:
    """Draw the phantoms beside the run folder and train VGG16 on them.

    The demo, and only the demo, goes on with random filters where ImageNet weights cannot be had.

    Args:
        given: Options of `train` by name: out, cache, overwrite, quiet.
        screen: Where it speaks.
    """
    out = Path(given.get("out") or DEMO_RUN)
    data = out.with_name(f"{out.name}-data")
    screen.say(f"Drawing a synthetic phantom data set: {data}")
    labels = write_phantoms(data)
    weights = "imagenet"
    try:
        find_weights(BACKBONES["vgg16"], weights, seed=0)
    except MedlensError as error:
        weights = "random"
        screen.say(
            f"{error.what}\nThe demo goes on with random filters. Its numbers are no result."
        )
    # The phantoms are 64 px wide; twice that costs four times as much and shows no more.
    options = {**given, "data": str(labels), "out": str(out), "weights": weights, "image_size": 64}
    return run_training(make_options(options), screen)
