"""medlens against the plain Keras recipe: same images, size, split and weights; whole processes.

    python benchmarks/plain_recipe.py --out plain_recipe.json

The plain recipe is what a tutorial says: image_dataset_from_directory, VGG16 without its top and
frozen, a Dense head on global average pooling, `fit` for 10 epochs, evaluate on the test set. Its
process and those of medlens (the same from nothing; again with another head; and from nothing with
a plan of its own) run one after the other on phantoms in train, val and test folders. Both sides
load the same VGG16 weights from one file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measure import Finished, run_child, write_result

SPLITS = ("train", "val", "test")
SIZE = 224


def main() -> None:
    """Draw the images, run both sides, print and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plain", type=Path, nargs=2, metavar=("DATA", "WEIGHTS"))
    arguments = parser.parse_args()
    if arguments.plain:
        data, weights = arguments.plain
        train_plainly(data, weights, arguments.epochs)
        return
    with tempfile.TemporaryDirectory() as scratch:
        result = compare(Path(scratch), arguments.images, arguments.epochs)
    print(json.dumps(result, indent=2))
    write_result(arguments.out, result)


def compare(scratch: Path, images: int, epochs: int) -> dict[str, Any]:
    """Run both sides in processes of their own."""
    data, weights = scratch / "data", scratch / "vgg16.weights.h5"
    prepare(data, weights, images)

    def medlens(name: str, cache: str, *options: str) -> Finished:
        command = [sys.executable, "-m", "medlens", "train", str(data)]
        command += ["--out", str(scratch / name), "--cache", str(scratch / cache)]
        command += ["--weights", str(weights), "--image-size", str(SIZE), *options]
        return run_child(command)

    runs = {
        "from nothing": medlens("first", "cache", "--plan", "plain"),
        "another head": medlens(
            "again", "cache", "--plan", "plain", "--head", "64", "--dropout", "0.3"
        ),
        "from nothing, with a plan": medlens("chosen", "other-cache"),
    }
    plain = run_child(
        [sys.executable, __file__, "--epochs", str(epochs), "--plain", str(data), str(weights)]
    )
    accuracies = [
        json.loads((scratch / name / "evaluation.json").read_text())["test"]["accuracy"]["value"]
        for name in ("first", "again", "chosen")
    ]
    plain_accuracy = float(plain.output.rsplit("test accuracy", 1)[1].split()[0])
    both = {"plain": plain, **runs}
    return {
        "images": images,
        "epochs_of_the_plain_recipe": epochs,
        "seconds": {name: round(one.seconds, 1) for name, one in both.items()},
        "processor_seconds": {name: round(one.processor_seconds, 1) for name, one in both.items()},
        "times_faster": {name: round(plain.seconds / one.seconds, 1) for name, one in runs.items()},
        "test_accuracy": dict(zip(both, [plain_accuracy, *accuracies], strict=True)),
        "peak_mib": {name: round(one.peak_mib) for name, one in both.items()},
    }


def prepare(data: Path, weights: Path, images: int) -> None:
    """Draw phantoms into train/val/test folders by patient, and a file of VGG16 weights."""
    import keras
    import pandas as pd

    from medlens.data.phantom import write_phantoms
    from medlens.data.scan import PictureRule
    from medlens.model.backbone import BACKBONES
    from medlens.model.engine import FrozenPass
    from medlens.model.weights import Weights

    listing = write_phantoms(data.with_name("phantoms"), images=images, size=SIZE, seed=0)
    table = pd.read_csv(listing, dtype=str)
    first = table.sample(frac=1, random_state=0).drop_duplicates("patient")
    place = (first.groupby("label").cumcount() + 0.5) / first.groupby("label")["path"].transform(
        "size"
    )
    splits = pd.cut(place, [0, 0.7, 0.85, 1], labels=SPLITS).astype(str)
    split_of = dict(zip(first["patient"], splits, strict=True))
    for row in table.itertuples():
        path = Path(data, split_of[row.patient], str(row.label), Path(str(row.path)).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((listing.parent / str(row.path)).read_bytes())
    random = Weights("random", None, 0, "random filters, seed 0")
    drawn = FrozenPass(BACKBONES["vgg16"], random, PictureRule(SIZE, "pad"), "keras").model
    network = keras.applications.VGG16(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    for layer in network.layers:
        if layer.weights:
            layer.set_weights(drawn.get_layer(layer.name).get_weights())
    network.save_weights(weights)


def train_plainly(data: Path, weights: Path, epochs: int) -> None:
    """Train and test as tutorials do."""
    import keras

    splits = {
        split: keras.utils.image_dataset_from_directory(
            data / split,
            label_mode="categorical",
            image_size=(SIZE, SIZE),
            batch_size=32,
            shuffle=split == "train",
            seed=0,
        )
        for split in SPLITS
    }
    classes = len(splits["train"].class_names)
    base = keras.applications.VGG16(include_top=False, weights=None, input_shape=(SIZE, SIZE, 3))
    base.load_weights(weights)
    base.trainable = False
    pixels = keras.Input((SIZE, SIZE, 3))
    values = base(keras.applications.vgg16.preprocess_input(pixels), training=False)
    values = keras.layers.GlobalAveragePooling2D()(values)
    values = keras.layers.Dense(256, "relu")(values)
    values = keras.layers.Dropout(0.5)(values)
    model = keras.Model(pixels, keras.layers.Dense(classes, "softmax")(values))
    model.compile(keras.optimizers.Adam(), "categorical_crossentropy", metrics=["accuracy"])
    model.fit(splits["train"], validation_data=splits["val"], epochs=epochs, verbose=2)
    _, accuracy = model.evaluate(splits["test"], verbose=0)
    print("test accuracy", accuracy)


if __name__ == "__main__":
    main()
