"""Imports only point left: data <- model <- report <- the story <- the commands."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import medlens

SOURCE = Path(medlens.__file__).parent
LAYERS = ["data", "model", "report", "serve", "scale"]


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
    free = {"medlens.errors", "medlens.files"}
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


def test_the_command_line_and_the_audit_start_without_a_network_library() -> None:
    code = (
        "import sys, medlens, medlens.cli, medlens.intake\n"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'torch', 'jax')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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
