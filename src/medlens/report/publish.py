"""All that a run tells its readers: report.html, model_card.md, study.toml, and report.pdf."""

from __future__ import annotations

from medlens.report.model_card import write_model_card
from medlens.report.pdf import print_pdf
from medlens.report.render import render_report
from medlens.report.study import write_study_template
from medlens.run_dir import RunDir


def publish(run: RunDir, *, pdf: bool = False) -> None:
    """Write report.html and model_card.md from the files of a run, and ask the author's part.

    Args:
        run: A run folder that has everything else, the figures included. A study.toml that is
            there is read, and never written over.
        pdf: Whether to print the report as report.pdf, too.

    Raises:
        MedlensError: If the run is not finished, study.toml cannot be used, or no browser prints.
    """
    render_report(run)
    write_model_card(run)
    write_study_template(run)
    if pdf:
        print_pdf(run)
