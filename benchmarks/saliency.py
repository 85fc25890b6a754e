"""Where heat maps lie, on phantoms whose lesion is known, and whether they follow what was learned.

    python benchmarks/saliency.py --weights WEIGHTS --out saliency.json

MobileNetV2 is trained on 300 phantoms. On other phantoms, for the class that is there, it measures
the share of heat inside the lesion's box, against the box's share of the picture (what heat without
aim would reach), and how often the hottest pixel lies in the box ("hits"). Compared are medlens's
map of all depths, published Grad-CAM of the deepest layer, and occlusion of the logits on the first
pictures. Then the head, and the last convolutions too, are drawn anew.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pandas as pd
from measure import write_result
from numpy.typing import NDArray

import medlens
from medlens.data.images import read_image
from medlens.data.phantom import write_phantoms
from medlens.model.backbone import BACKBONES
from medlens.model.classifier import Classifier
from medlens.model.forward import compile_forward
from medlens.report.saliency import grad_cam, heat_inside, occlusion, randomisation_check

BACKBONE = "mobilenet_v2"
BOX = ["lesion_left", "lesion_top", "lesion_right", "lesion_bottom"]
CHECKED = 12


def main() -> None:
    """Train, draw the maps, measure them; print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="imagenet", help="as for medlens train")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--head", default="256", help="as for medlens train")
    parser.add_argument("--images", type=int, default=300, help="phantoms, with healthy ones")
    parser.add_argument("--occluded", type=int, default=24, help="pictures for occlusion")
    parser.add_argument("--seed", type=int, default=7, help="of the phantoms that are measured")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classifier = train(folder, options)
        labels = write_phantoms(
            folder / "other", images=options.images, size=128, seed=options.seed
        )
        pictures, numbers, masks = read_lesions(labels, classifier)
    result = {
        "options": {
            key: value for key, value in vars(options).items() if key not in ("out", "weights")
        },
        **measure(classifier, pictures, numbers, masks, options.occluded),
    }
    print(json.dumps(result, indent=2))
    write_result(options.out, result)


def train(folder: Path, options: argparse.Namespace) -> Classifier:
    """A classifier of phantoms."""
    labels = write_phantoms(folder / "train", images=300, size=128, seed=0)
    medlens.train(
        labels,
        out=folder / "run",
        cache=str(folder / "cache"),
        backbone=BACKBONE,
        weights=options.weights,
        image_size=options.image_size,
        head=options.head,
        quiet=True,
    )
    return medlens.load(folder / "run")


def read_lesions(
    labels: Path, classifier: Classifier
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Pictures with a lesion, their class numbers, and where the lesion's box is."""
    table = pd.read_csv(labels)
    table = table[table[BOX[0]].notna()]
    images = [read_image(labels.parent / path).pixels for path in table["path"]]
    pictures = np.stack([classifier.rule.apply(pixels) for pixels in images])
    numbers = np.array([classifier.classes.index(label) for label in table["label"]])
    masks = np.zeros(pictures.shape[:3], bool)
    scale = classifier.rule.size / len(images[0])
    for mask, box in zip(masks, np.rint(scale * table[BOX].to_numpy()).astype(int), strict=True):
        left, top, right, bottom = box
        mask[top:bottom, left:right] = True
    return pictures, numbers, masks


def measure(
    classifier: Classifier,
    pictures: NDArray[np.uint8],
    numbers: NDArray[np.int64],
    masks: NDArray[np.bool_],
    occluded: int,
) -> dict[str, Any]:
    """All maps of the pictures, and the randomisation check."""
    model = classifier.model
    deepest = BACKBONES[BACKBONE].depths[-1]
    forward = compile_forward(keras.Model(model.input, model.get_layer("logits").output))
    size = classifier.rule.size
    starts = range(0, len(pictures), forward.batch)
    logits = np.concatenate([forward.run(pictures[s : s + forward.batch]) for s in starts])

    def occlude() -> NDArray[np.float32]:
        few = zip(pictures[:occluded], numbers[:occluded], strict=True)
        patch = {"patch": size // 4, "stride": size // 8}
        return np.stack([occlusion(forward.run, one, int(number), **patch) for one, number in few])

    maps = {
        "all depths": lambda: grad_cam(model, pictures, numbers),
        f"published Grad-CAM, {deepest}": lambda: grad_cam(model, pictures, numbers, deepest),
        "occlusion, a patch of a quarter of the side": occlude,
    }
    found: dict[str, Any] = {}
    for name, draw in maps.items():
        started = time.monotonic()
        heat = draw()
        seconds = (time.monotonic() - started) / len(heat)
        found[name] = {
            **place(heat, masks[: len(heat)], numbers, classifier),
            "s": round(seconds, 3),
        }
    return {
        "pictures": len(pictures),
        "accuracy on them": round(float((logits.argmax(axis=1) == numbers).mean()), 3),
        "maps": found,
        "randomisation": {
            name: randomisation_check(
                model, pictures[:CHECKED], numbers[:CHECKED], layer=None if number == 0 else deepest
            )
            for number, name in enumerate(list(maps)[:2])
        },
    }


def place(
    heat: NDArray[np.float32],
    masks: NDArray[np.bool_],
    numbers: NDArray[np.int64],
    classifier: Classifier,
) -> dict[str, Any]:
    """How the heat of many maps lies to their lesions, in all and by class."""
    inside = [heat_inside(one, mask) for one, mask in zip(heat, masks, strict=True)]
    hits = [bool(mask.flat[one.argmax()]) for one, mask in zip(heat, masks, strict=True)]
    shares = np.array([one.heat for one in inside])
    areas = np.array([one.area for one in inside])
    by_class = {
        classifier.classes[number]: {
            "heat_inside": round(float(shares[numbers[: len(heat)] == number].mean()), 3),
            "chance": round(float(areas[numbers[: len(heat)] == number].mean()), 3),
        }
        for number in np.unique(numbers[: len(heat)])
    }
    return {
        "pictures": len(heat),
        "heat_inside": round(float(shares.mean()), 3),
        "chance": round(float(areas.mean()), 3),
        "times_chance": round(float(np.mean([one.times_chance for one in inside])), 2),
        "hits": round(float(np.mean(hits)), 3),
        **by_class,
    }


if __name__ == "__main__":
    main()
