from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "medical-image-classification.ipynb"


# Jupyter's own packages open sockets and event loops that they do not close.
@pytest.mark.filterwarnings("default")
def test_the_notebook_runs_on_phantoms(phantoms: Path, cache: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = next(cell for cell in notebook.cells if cell.source.startswith("dataset_dir ="))
    options = {"weights": "random", "image_size": 32, "epochs": 15, "cache": str(cache)}
    settings.source = (
        f"dataset_dir = {str(phantoms.parent)!r}\n"
        f"run_dir = {str(tmp_path / 'run')!r}\n"
        f"options = {options!r}\n"
    )
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [one for one in outputs if "image/png" in one.get("data", {})]
    assert len(pictures) == 6
    assert (tmp_path / "run" / "report.html").exists()


def test_the_notebook_is_kept_without_outputs_and_with_an_empty_dataset_dir() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    assert any('dataset_dir = ""' in cell.source for cell in notebook.cells)
