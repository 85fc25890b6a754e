from __future__ import annotations

from pathlib import Path

import numpy as np

from medlens.report.contact_sheet import png_bytes
from medlens.report.sections import list_sections, number

M = {"value": 0.8, "ci95": [0.7, 0.9], "n": 10, "groups": 5, "method": "m"}
NONE = {"value": None, "reason": "no image of class ill"}


def test_a_number_or_its_reason() -> None:
    assert number(M) == "0.800 (0.700 to 0.900)"
    assert number(NONE) == "not available: no image of class ill"


def test_only_blocks_that_are_there_become_sections(tmp_path: Path) -> None:
    assert list_sections({"classes": []}, tmp_path) == []
    point = {"threshold": None, "reason": "no class of interest is named"}
    evaluation = {"operating_point": point, "robustness": None, "subgroups": []}
    (section,) = list_sections(evaluation, tmp_path)
    assert section.id == "operating-point"
    assert "no class of interest" in section.text[0]


def test_pictures_are_inside_of_the_page_and_missing_ones_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "01.png").write_bytes(png_bytes(np.zeros((4, 8, 3), np.uint8)))
    images = [
        {"file": f"0{n}.png", "label": "a", "predicted": "b", "probability": 0.9, "why": "worst"}
        for n in (1, 2)
    ]
    saliency = {"method": "How.", "text": "Caveat.", "images": images}
    (section,) = list_sections({"saliency": saliency}, tmp_path)
    assert len(section.pictures) == 1
    assert section.pictures[0][0].startswith("data:image/png;base64,")
    assert "labelled a, predicted b with 0.900" in section.pictures[0][1]
