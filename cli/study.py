"""The command `reentry study`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from cli.interruption import interruption

_log = logging.getLogger(__name__)


def study(
    out: Annotated[Path, typer.Option(help="Folder of study.json, study.md, plots, flights and networks.")] = (
        Path("artifacts/study")
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Use fewer flights and epochs: about an hour.")] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Number of random seeds, each with its own training flights.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Number of methods that run at once.  [default: one per core]")
    ] = None,
) -> None:
    """Train networks and baselines on simulated ballistic flights and compare them in one table.

    The full study takes a night on two cores. If it is interrupted, run the same command again to resume after the
    last finished method.

    Example: `reentry study --quick --out artifacts/study`
    """
    from dataclasses import replace

    from reentry.runtime.arguments import require_between
    from reentry.runtime.files import check_writable
    from reentry.runtime.pool import MOST_PROCESSES

    if processes is not None:
        require_between("processes", processes, 1, MOST_PROCESSES)
    check_writable(out)

    from training.studies.study import run_study
    from training.studies.study_config import QUICK, StudyConfig
    from training.studies.study_report import REPORT_NAME, write_report

    config = QUICK if quick else StudyConfig()
    if seeds is not None:
        config = replace(config, seeds=seeds)
    command = "reentry study" + " --quick" * quick + (f" --seeds {seeds}" if seeds is not None else "")
    with interruption("the same command resumes after the last finished method"):
        rows = run_study(config, out, _log.info, processes=processes)
    written = write_report(rows, config, out, command)
    typer.echo((out / REPORT_NAME).read_text(encoding="utf-8"))
    typer.echo("\n".join(str(path) for path in written))
