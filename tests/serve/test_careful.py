"""How much memory a decoder may take where images are gone through with care."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pydicom
import pydicom.data

from medlens.data.images import read_image
from medlens.serve.careful import find_deadly, find_memory
from medlens.serve.decoder_process import answer
from medlens.serve.limits import MIB


def test_the_memory_is_that_of_the_container_where_it_has_a_limit(tmp_path: Path) -> None:
    limit, none = tmp_path / "memory.max", tmp_path / "none"
    limit.write_text("1048576\n", encoding="ascii")
    assert find_memory([none, limit]) == 2**20
    limit.write_text("max\n", encoding="ascii")
    assert find_memory([none, limit]) == psutil.virtual_memory().total


def test_a_file_larger_than_the_memory_is_not_deadly_where_one_frame_is_read(
    tmp_path: Path,
) -> None:
    """As `read_image` reads it on the ordinary road: frame by frame, from the disk."""
    dicom = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm", download=False))
    dicom.Rows = dicom.Columns = 512
    dicom.NumberOfFrames = 400
    dicom.PixelData = bytes(2 * 512 * 512 * 400)
    dicom.save_as(tmp_path / "long.dcm")
    assert read_image(tmp_path / "long.dcm").pixels.shape == (512, 512, 3)
    (tmp_path / "none").mkdir()
    paths = ["long.dcm", "none", "missing.png"]
    assert find_deadly(tmp_path, paths, None, lambda: None, memory=100 * MIB) == {}


def test_a_process_that_was_not_started_for_it_opens_no_file() -> None:
    """Whatever a question says: those of a server's clients end here."""
    path = pydicom.data.get_testdata_file("CT_small.dcm", download=False)
    head = {"do": "fit", "frame": None, "pixels": 10**6, "size": 32, "fit": "pad", "is_path": True}
    refused, nothing = answer(head, os.fsencode(path))
    assert (list(refused), nothing) == (["unreadable"], b"")
    said, picture = answer(head, os.fsencode(path), opens_files=True)
    assert "unreadable" not in said
    assert len(picture) == 32 * 32 * 3
