"""The command `reentry export`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.interruption import interruption
from cli.options import DEFAULT_REPOSITORY, Json, RepositoryLocation

if TYPE_CHECKING:
    from registry.formats import Format

_log = logging.getLogger(__name__)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint: the model.ckpt that `reentry train` wrote.")],
    repository: RepositoryLocation = DEFAULT_REPOSITORY,
    format: Annotated[  # noqa: A002  # name of the flag
        list[str] | None,
        typer.Option(
            help="Formats, separated by commas: onnx, onnx-fp16, onnx-int8, torchscript, tensorrt; or all.  "
            "[default: onnx]"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Labelled tracks to verify on, instead of the validation tracks of the training."),
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Promote the candidate to production.")] = False,
    reason: Annotated[
        str | None,
        typer.Option(help="Promote even if the candidate is worse than production; the reason is recorded."),
    ] = None,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Compare the speed of the formats; nothing is installed.")
    ] = False,
    engine_fp16: Annotated[
        bool, typer.Option("--engine-fp16", help="Build TensorRT engines in half precision.")
    ] = False,
    engine_int8: Annotated[bool, typer.Option("--engine-int8", help="Allow TensorRT to use int8 kernels.")] = False,
    as_json: Json = False,
) -> None:
    """Export a checkpoint, verify each format against PyTorch, and install each format as a version.

    A version is installed only if it passes every check. Otherwise the command prints which check failed, where, and by
    how much, continues with the other formats, and ends with exit status 1. The first format becomes the candidate. If
    no version is in production yet, the candidate is promoted to production.

    A format that this machine cannot build is an error if you name it; `all` skips it and prints the reason.
    `--benchmark` writes benchmark.md, .json and .png into the folder of the checkpoint.

    Example: `reentry export artifacts/train/model.ckpt --format onnx,onnx-int8`
    """
    import shlex

    from export.config import ExportConfig, read_formats
    from export.tensorrt.config import TensorRTConfig
    from reentry.errors import CheckpointError, TrackFileError
    from reentry.runtime.arguments import require_file
    from registry.formats import Format

    # Arguments are checked before the imports that take seconds.
    formats, skip_missing = read_formats(format or [Format.ONNX])
    require_file(checkpoint, error=CheckpointError, fix="give the model.ckpt that `reentry train` wrote")
    if data is not None:
        require_file(data, error=TrackFileError)

    from export.pipeline import export_checkpoint
    from export.results import FormatResult
    from pipeline.retraining.aliases import mirror_labels
    from registry.open import open_store

    if benchmark:
        _benchmark(checkpoint, data, formats if format else tuple(Format), as_json)
        return
    config = ExportConfig(
        checkpoint=checkpoint,
        repository=repository,
        formats=formats,
        skip_missing=skip_missing,
        data=data,
        promote=promote,
        reason=reason,
        tensorrt=TensorRTConfig(fp16=engine_fp16, int8=engine_int8),
    )

    def print_summary(exported: FormatResult) -> None:
        if not as_json:
            typer.echo(exported.summary(), err=exported.error is not None)
            for warning in exported.warnings:
                _log.warning(f"{exported.format}: {warning}")

    with interruption("no further version was installed"):
        result = export_checkpoint(config, print_summary)
    if result.card is not None:
        mirror_labels(open_store(repository))
    change = result.promotion.change if result.promotion else None
    if as_json:
        content = {
            "formats": [exported.as_dict() for exported in result.formats],
            "production": change.version if change else None,
            "refusal": result.refusal,
            "card": str(result.card) if result.card else None,
        }
        typer.echo(json.dumps(content))
    elif change is not None:
        typer.echo(f"version {change.version} is in production")
    elif result.refusal is not None:
        typer.secho(f"error: {result.refusal}", fg="red", err=True)
    elif result.candidate is not None:
        typer.echo(
            f"version {result.candidate} is the candidate; version {result.production} is in production, "
            f"and `reentry serve` serves it; to promote version {result.candidate}: "
            f"reentry repository promote candidate --repository {shlex.quote(repository)}"
        )
    if not result.complete:
        raise typer.Exit(code=1)


def _benchmark(checkpoint: Path, data: Path | None, formats: tuple[Format, ...], as_json: bool) -> None:
    from perf.formats.benchmark import BenchmarkConfig, benchmark_formats
    from perf.formats.report import as_dict, markdown, write_report
    from registry.formats import Format

    # ONNX is always measured, because the other formats are compared with it.
    formats = tuple(dict.fromkeys((Format.ONNX, *formats)))
    found = benchmark_formats(BenchmarkConfig(checkpoint=checkpoint, data=data, formats=formats))
    written = write_report(found, checkpoint.parent)
    if as_json:
        typer.echo(json.dumps(as_dict(found)))
    else:
        typer.echo(markdown(found))
        typer.echo("\n".join(map(str, written)))
