"""A saved classifier in plain Keras: the oldest and the newest version that medlens supports.

    python benchmarks/keras_range.py RUN IMAGES --out keras_range.json

For each end of the range a virtual environment is made with that Keras, the TensorFlow that fits
it, and nothing of medlens. There `keras.models.load_model` opens classifier.keras in safe mode and
answers pictures of real images; the probabilities are compared with medlens's own.
Needs the package index.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

import numpy as np
from measure import write_result

import medlens
from medlens.data.images import UnreadableImage, is_image_name
from medlens.run_dir import classifier_folder

LARGEST_DIFFERENCE = 1e-4
PICTURES = 32
# Knows nothing of medlens: what any person with Keras would write.
PLAIN = """
import json, sys
import keras, numpy, tensorflow
model = keras.models.load_model(sys.argv[1], safe_mode=True)
pictures = numpy.load(sys.argv[2])
found = model.predict(pictures.astype("float32"), verbose=0)
numpy.save(sys.argv[3], found)
print(json.dumps({"keras": keras.__version__, "tensorflow": tensorflow.__version__,
                  "medlens": "medlens" in sys.modules}))
"""


def main() -> None:
    """Compare both ends of the range; ends with 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    keras, tensorflow = (bounds(name) for name in ("keras", "tensorflow"))
    ends = {
        "oldest": [f"keras=={keras[0]}", f"tensorflow=={tensorflow[0]}"],
        "newest": [f"keras{keras[1]}", f"tensorflow{tensorflow[1]}"],
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        model = classifier_folder(arguments.run) / "classifier.keras"
        expected = prepare(arguments.run, arguments.images, scratch / "pictures.npy")
        result = {name: compare(name, ends[name], model, expected, scratch) for name in ends}
    print(json.dumps(result, indent=2))
    write_result(arguments.out, {"pictures": len(expected), **result})
    if any(one["largest_difference"] > LARGEST_DIFFERENCE for one in result.values()):
        raise SystemExit("a probability differs by more than 1e-4")


def bounds(package: str) -> tuple[str, str]:
    """The oldest version that pyproject.toml allows, and the whole range."""
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    lines = tomllib.loads(text)["project"]["dependencies"]
    (wanted,) = (line for line in lines if line.startswith(f"{package}>="))
    return wanted.removeprefix(f"{package}>=").split(",")[0], wanted.removeprefix(package)


def prepare(run: Path, images: Path, path: Path) -> np.ndarray:
    """Write the pictures of real images, and give medlens's probabilities."""
    classifier = medlens.load(run)
    files = [file for file in sorted(images.rglob("*")) if file.is_file() and is_image_name(file)]
    pictures = []
    for file in files[:: max(1, len(files) // PICTURES)][:PICTURES]:
        try:
            pictures.append(classifier.picture(file))
        except UnreadableImage:
            continue
    np.save(path, np.stack(pictures))
    said = classifier.answer(np.stack(pictures))
    return said[[f"prob_{name}" for name in classifier.classes]].to_numpy()


def compare(
    name: str, requirements: list[str], model: Path, expected: np.ndarray, scratch: Path
) -> dict[str, Any]:
    """Make an environment, load the classifier there, and compare."""
    home, found = scratch / name, scratch / f"{name}.npy"
    venv.create(home, with_pip=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements], check=True)
    command = [str(python), "-c", PLAIN, str(model), str(scratch / "pictures.npy"), str(found)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    versions = json.loads(said.splitlines()[-1])
    difference = float(np.abs(np.load(found) - expected).max())
    return {**versions, "largest_difference": difference}


if __name__ == "__main__":
    main()
