"""Imports only point left: data <- model <- report <- the story <- the commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import medlens

SOURCE = Path(medlens.__file__).parent
LAYERS = ["data", "model", "report", "serve", "scale"]
NETWORK_LIBRARIES = {"tensorflow", "keras", "torch", "jax", "ncnn", "sklearn"}


def imported(path: Path) -> set[str]:
    """The medlens modules that a file imports, as dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.split(".")[0] == "medlens"}


def test_imports_only_point_left() -> None:
    free = {"medlens.errors", "medlens.files", "medlens.log", "medlens.quiet"}
    wrong = []
    for rank, layer in enumerate(LAYERS):
        allowed = {f"medlens.{name}" for name in LAYERS[: rank + 1]}
        for path in (SOURCE / layer).rglob("*.py"):
            for name in imported(path) - free:
                if ".".join(name.split(".")[:2]) not in allowed:
                    wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    # Reports are drawn from the files of a run, whose names run_dir.py knows.
    assert [line for line in wrong if not line.endswith("medlens.run_dir")] == []


def test_nothing_imports_the_command_line() -> None:
    users = [path.name for path in SOURCE.rglob("*.py") if "medlens.cli" in imported(path)]
    assert users == ["__main__.py"]


def test_the_page_stands_beside_the_command_line_and_only_that_imports_it() -> None:
    users = {
        path.name
        for path in SOURCE.rglob("*.py")
        if path.parent.name != "ui" and any(n.startswith("medlens.ui") for n in imported(path))
    }
    assert users == {"cli.py"}


def loaded_by(*arguments: str) -> set[str]:
    """The packages that a process holds once it has run a command."""
    code = (
        "import sys\n"
        "from medlens.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print('loaded:', *{name.split('.')[0] for name in sys.modules})\n"
    )
    command = [sys.executable, "-c", code, *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(said.rpartition("loaded:")[2].split())


def test_help_loads_nothing_that_takes_time() -> None:
    loaded = loaded_by("--help")
    assert "medlens" in loaded
    assert not loaded & {*NETWORK_LIBRARIES, "numpy", "pandas", "scipy", "PIL", "pydicom"}


def test_an_audit_loads_no_network_library(phantoms: Path, tmp_path: Path) -> None:
    loaded = loaded_by("audit", str(phantoms), "--cache", str(tmp_path))
    assert {"medlens", "pandas"} <= loaded
    assert not loaded & NETWORK_LIBRARIES


def test_all_public_names_are_there_and_sorted() -> None:
    assert sorted(medlens.__all__) == medlens.__all__
    assert all(hasattr(medlens, name) for name in medlens.__all__)


def test_no_file_but_the_command_line_prints() -> None:
    printing = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            if is_call and node.func.id == "print":  # type: ignore[union-attr]
                printing.append(path.name)
    assert set(printing) <= {"cli.py"}
