"""A server with two classifiers, and its page in a real Chromium."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

import medlens


@dataclass(frozen=True)
class Opened:
    """The page in the browser; `visit` also knows all that it said and asked for."""

    visit: Any

    @property
    def page(self) -> Page:
        """The page itself."""
        return self.visit.page

    def give(self, *paths: Path) -> None:
        """Choose files, as the dialog of the button would, and wait for their answers."""
        self.page.set_input_files("#files", list(paths))
        self.wait()

    def wait(self) -> None:
        """Wait until all images are answered and the chosen one is shown."""
        self.page.wait_for_selector("body.has-images")
        self.page.wait_for_selector("#sending", state="hidden")
        self.page.wait_for_function(SHOWN)

    def saved_table(self, button: str = "#download") -> list[dict[str, str]]:
        """The rows of the CSV file that the page gives."""
        with self.page.expect_download() as download:
            self.page.click(button)
        assert re.fullmatch(r"predictions-\w+\.csv", download.value.suggested_filename)
        text = Path(download.value.path()).read_bytes().decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline="")))

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)


# What tells that a page has heard from its server: a classifier, a problem, a wish for the token.
READY = ":is(#about, #problem):not([hidden]), #token-dialog[open]"

# Whether the chosen image was refused, or its picture and its heat map are there.
SHOWN = """() => document.querySelector('#picture-part').hidden
  || ['picture', 'seen', 'overlay'].every(id => {
    const one = document.getElementById(id);
    return !one.hidden && one.complete && one.naturalWidth > 0;
  })"""


@pytest.fixture(scope="session")
def other_run(phantoms: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> medlens.Run:
    """A run without an operating point, for it has no positive class; with small pictures."""
    return medlens.train(
        phantoms,
        out=tmp_path_factory.mktemp("other") / "other",
        weights="random",
        image_size=32,
        epochs=5,
        plan="plain",
        with_images=True,
        cache=str(cache),
        quiet=True,
    )


@pytest.fixture(scope="session")
def served(
    start: Callable[..., Any], finished_run: medlens.Run, other_run: medlens.Run
) -> Iterator[str]:
    """The address of a server with both runs; the first, `run`, has an operating point."""
    with start(finished_run.path, other_run.path) as server:
        yield f"{server.url}/"


@pytest.fixture
def show(visit: Callable[..., Any], served: str) -> Callable[..., Opened]:
    """Opens the page."""

    def opened(address: str = served, **screen: Any) -> Opened:
        shown = Opened(visit(address, **screen))
        shown.page.wait_for_selector(READY)
        return shown

    return opened


@pytest.fixture(scope="session")
def samples(phantoms: Path) -> list[Path]:
    """Twelve phantoms, four of each class."""
    folders = sorted(path for path in phantoms.parent.iterdir() if path.is_dir())
    return [path for folder in folders for path in sorted(folder.glob("*.png"))[:4]]


@pytest.fixture(scope="session")
def odd_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A text that says it is a picture, a chessboard, a DICOM slice."""
    folder = tmp_path_factory.mktemp("odd")
    text = folder / "notes.png"
    text.write_text("This is no picture.", encoding="utf-8")
    board = folder / "chessboard.png"
    rows, columns = np.indices((64, 64))
    Image.fromarray(((rows // 8 + columns // 8) % 2 * 255).astype(np.uint8)).save(board)
    return {"text": text, "board": board, "dicom": write_slice(folder / "slice.dcm")}


def write_slice(path: Path) -> Path:
    """A CT slice of 64 px, a disc of 300 in air of -1000 HU, with a window of 40/400."""
    rows, columns = np.indices((64, 64))
    inside = (rows - 32) ** 2 + (columns - 32) ** 2 < 20**2
    values = np.where(inside, rows * 20 - 300, -1000).astype("<i2")
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientID = "P-4711"
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
    dataset.WindowCenter, dataset.WindowWidth = "40", "400"
    dataset.PixelData = values.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path
