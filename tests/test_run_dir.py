"""What may lie in a run folder before the run, and what is never deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from medlens.config import make_options
from medlens.errors import MedlensError
from medlens.intake import only_worker
from medlens.run_dir import RunDir, folder_without_run, has_begun, open_run


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A folder in which things were looked at and chosen, and a process was killed."""
    run = RunDir(tmp_path / "run")
    run.page.mkdir(parents=True)
    (run.page / "choices.json").write_text("{}")
    for path in (run.audit, run.plan, run.excluded, run.study, run.progress):
        path.write_text("x")
    return run


def test_what_was_looked_at_and_chosen_is_in_nobodys_way(run: RunDir) -> None:
    opened = open_run(make_options({"data": "x", "out": str(run.root)}))
    assert opened.config.is_file()
    assert not has_begun(run)


def test_a_run_that_an_error_ended_early_may_be_looked_at_anew(run: RunDir) -> None:
    for path in (run.config, run.log):
        path.touch()
    assert folder_without_run(str(run.root), "audit.json") == run
    open_run(make_options({"data": "x", "out": str(run.root)}))
    run.dataset.touch()
    assert has_begun(run)
    with pytest.raises(MedlensError, match="holds a run"):
        folder_without_run(str(run.root), "audit.json")
    with pytest.raises(MedlensError, match="in use"):
        open_run(make_options({"data": "x", "out": str(run.root)}))


def test_overwrite_keeps_what_a_person_chose(run: RunDir) -> None:
    for path in (run.config, run.log, run.dataset):
        path.touch()
    open_run(make_options({"data": "x", "out": str(run.root), "overwrite": True}))
    left = {path for path in run.root.iterdir() if path != run.config}
    assert left == {*run.chosen(), run.progress}


def test_one_command_at_a_time_works_on_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with only_worker(str(out)):
        assert not has_begun(RunDir(out))
        with pytest.raises(MedlensError, match="worked on by another"), only_worker(str(out)):
            pass
    assert not out.exists()
    with only_worker(str(out)):
        (out / "audit.json").touch()
    assert [path.name for path in out.iterdir()] == ["audit.json"]
