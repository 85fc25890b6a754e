"""The process that holds one classifier; run by batching.py with `python -m`, never in the server.

So the server stays responsive during a forward pass, and survives whatever ends this process.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medlens.data.dicom_worker import receive, send
from medlens.errors import MedlensError
from medlens.log import describe_failure
from medlens.model.classifier_files import CHECKSUMS_FILE

# Pictures in a batch for each core: on a processor more at a time are no faster, and fewer leave
# the rest of a queue time to be decoded meanwhile.
BATCH_PER_CORE = 4


def main() -> None:
    """Load the classifier of the folder in the command, and answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        at_work = _AtWork(Path(sys.argv[1]))
    except MedlensError as error:
        sentences = {"what": error.what, "got": error.got, "expected": error.expected}
        send(answers, {"error": {**sentences, "fix": error.fix, "names": list(error.names)}})
        return
    send(answers, at_work.facts())
    while True:
        try:
            head, body = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = at_work.answer(head, body)
        except Exception as error:  # ours; the next question may be answered
            answer = {"failure": describe_failure(error)}, b""
        send(answers, *answer)


class _AtWork:
    """A loaded classifier, and its answers.

    Args:
        folder: The classifier folder.

    Raises:
        MedlensError: If there is no whole classifier in it.
    """

    def __init__(self, folder: Path) -> None:
        from threadpoolctl import threadpool_limits

        from medlens.model.checksums import digest_of
        from medlens.model.classifier import load_classifier

        self._classifier = load_classifier(folder)
        self._digest = digest_of(folder / CHECKSUMS_FILE)
        # What is multiplied here in NumPy is small: its threads would wait for each other, and take
        # the cores from the network's (2 ms for a picture instead of 0.04).
        self._one_thread = threadpool_limits(1, user_api="blas")
        size = self._classifier.rule.size
        # Compiles the network, and has it compared with Keras, before the first image waits for it.
        self._predict(np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8))

    def facts(self) -> dict[str, Any]:
        """What the server has to know of it."""
        from medlens.model.classifier import SET_LEVEL
        from medlens.model.fast_cpu import usable_cores
        from medlens.model.gpu import gpus

        one = self._classifier
        most = one._forward.batch
        return {
            "digest": self._digest,
            "classes": list(one.classes),
            "positive_class": one.facts["positive_class"],
            "operating_point": one.facts["operating_point"],
            "backbone": one.facts["backbone"],
            "size": one.rule.size,
            "fit": one.rule.fit,
            "frame": one.frame,
            "limit": one.limit,
            "has_similar": len(one.cases.rows) > 0,
            "has_similar_images": one.cases.pictures is not None,
            "set_level": None if one.set_threshold is None else float(SET_LEVEL),
            "batch": most if gpus() else min(most, BATCH_PER_CORE * usable_cores()),
        }

    def answer(self, head: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Answer one question.

        Args:
            head: `do` is "predict" for any number of pictures, or "explain" for one; `class` then
                names the class, None the predicted one.
            body: RGB pixels of the pictures.

        Returns:
            For "predict" a row for each. For "explain" the row, the class, the similar training
            cases, and the lengths of the images that are the bytes: the picture and its heat as
            PNG, then a JPEG of each similar case, of length 0 where there is none. A row, and for
            "explain" the answer, may be the reason alone why there is nothing to say.
        """
        size = self._classifier.rule.size
        pictures = np.frombuffer(body, np.uint8).reshape(-1, size, size, 3)
        rows = self._predict(pictures)
        if head["do"] == "predict":
            return {"rows": rows}, b""
        if "unreadable" in rows[0]:
            return rows[0], b""
        return self._explain(pictures[0], rows[0], head["class"])

    def _predict(self, pictures: NDArray[np.uint8]) -> list[dict[str, Any]]:
        classes = self._classifier.classes
        return [
            {"unreadable": row["unreadable"]}
            if row["unreadable"]
            else {
                "predicted": row["predicted"],
                "probabilities": {name: float(row[f"prob_{name}"]) for name in classes},
                "decision": row["decision"] or None,
                "prediction_set": list(row["prediction_set"]) or None,
                "unfamiliar": bool(row["unfamiliar"]),
                "distance": float(row["distance"]) if np.isfinite(row["distance"]) else None,
            }
            for row in self._classifier.answer(pictures).to_dict("records")
        ]

    def _explain(
        self, picture: NDArray[np.uint8], row: dict[str, Any], class_name: str | None
    ) -> tuple[dict[str, Any], bytes]:
        from PIL import Image

        from medlens.serve.explain import explain_picture
        from medlens.serve.png import as_png

        explained = class_name or row["predicted"]
        number = self._classifier.classes.index(explained)
        found = explain_picture(self._classifier, picture, number)
        similar = [
            {"row": case.row, "label": case.label, "distance": case.distance}
            for case in found.similar
        ]
        images = [as_png(Image.fromarray(one)) for one in (picture, _colour(found.heat))]
        images += [case.picture or b"" for case in found.similar]
        lengths = [len(image) for image in images]
        facts = {"row": row, "class": explained, "similar": similar, "lengths": lengths}
        return facts, b"".join(images)


def _colour(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Heat as RGBA: the more heat, the less of what lies below shows through."""
    import matplotlib

    from medlens.report.saliency import COLOUR_MAP

    colours: NDArray[np.uint8]
    colours = np.rint(255 * matplotlib.colormaps[COLOUR_MAP](heat)).astype(np.uint8)
    colours[..., 3] = np.rint(255 * heat)
    return colours


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    main()
