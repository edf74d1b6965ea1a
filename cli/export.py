"""`reentry export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.interruption import interruption

if TYPE_CHECKING:
    from registry.formats import Format


def export(
    checkpoint: Annotated[Path, typer.Argument(help="model.ckpt of `reentry train`.")],
    repository: Annotated[str, typer.Option(help="The Triton model repository: a folder, or s3://BUCKET/PREFIX.")] = (
        "model_repository"
    ),
    format: Annotated[  # noqa: A002  # the flag's name
        list[str] | None,
        typer.Option(help="onnx, onnx-fp16, onnx-int8, torchscript, tensorrt: several by commas; or all."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Labelled tracks to verify on, in place of those that the training held out.")
    ] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Bring the candidate into production.")] = False,
    reason: Annotated[
        str | None, typer.Option(help="Promote also what is worse than production; recorded with the figures.")
    ] = None,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Measure the formats side by side; installs nothing.")
    ] = False,
    engine_fp16: Annotated[bool, typer.Option("--engine-fp16", help="TensorRT engines in half precision.")] = False,
    engine_int8: Annotated[bool, typer.Option("--engine-int8", help="Let TensorRT choose int8 kernels.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Export a checkpoint, verify each format against PyTorch, and install each as a version of its own.

    A version appears in the repository only when every check held; else the line says which check failed, where, and by
    how much, the other formats go on, and the exit status is 1. The first format is the candidate; where nothing is in
    production yet, it is served from now on.

    Formats that this machine cannot make are errors where they are named, and left out with the reason from `all`.
    `--benchmark` writes benchmark.md, .json and .png beside the checkpoint.

    Example: `reentry export artifacts/train/model.ckpt --format onnx,onnx-int8`
    """
    import json
    import shlex

    from export.config import ExportConfig, read_formats
    from export.tensorrt.config import TensorRTConfig
    from reentry.errors import CheckpointError, TrackFileError
    from reentry.runtime.arguments import require_file
    from registry.formats import Format

    # What can be checked at once is, before the imports that take seconds.
    formats, skip_missing = read_formats(format or [Format.ONNX])
    require_file(checkpoint, error=CheckpointError, fix="give the model.ckpt that `reentry train` wrote")
    if data is not None:
        require_file(data, error=TrackFileError)

    from export.pipeline import export_checkpoint
    from export.results import FormatResult

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

    def tell(exported: FormatResult) -> None:
        if not as_json:
            typer.echo(exported.summary(), err=exported.error is not None)

    with interruption("no further version was installed"):
        result = export_checkpoint(config, tell)
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
            f"and `reentry serve` serves it; to serve version {result.candidate}: "
            f"reentry repository promote candidate --repository {shlex.quote(repository)}"
        )
    if not result.complete:
        raise typer.Exit(code=1)


def _benchmark(checkpoint: Path, data: Path | None, formats: tuple[Format, ...], as_json: bool) -> None:
    import json

    from perf.formats.benchmark import BenchmarkConfig, benchmark_formats
    from perf.formats.report import as_dict, markdown, write_report
    from registry.formats import Format

    # The others are compared with it.
    formats = tuple(dict.fromkeys((Format.ONNX, *formats)))
    found = benchmark_formats(BenchmarkConfig(checkpoint=checkpoint, data=data, formats=formats))
    written = write_report(found, checkpoint.parent)
    if as_json:
        typer.echo(json.dumps(as_dict(found)))
    else:
        typer.echo(markdown(found))
        typer.echo("\n".join(map(str, written)))
