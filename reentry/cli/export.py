"""`reentry export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Measure the formats side by side; installs nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Export a checkpoint, verify each format against PyTorch, and install each as a version of its own.

    A version appears in the repository only when every check held; else the line says which check failed, where, and by
    how much, the other formats go on, and the exit status is 1. The first format is the candidate; where nothing is in
    production yet, it is served from now on.

    Formats that this machine cannot make are errors where they are named, and left out with the reason from `all`.

    Example: `reentry export artifacts/train/model.ckpt --format onnx,onnx-int8`
    """
    import json

    from export.config import ExportConfig, read_formats
    from export.formats import Format
    from export.versions import Exported, export_checkpoint

    formats, skip_missing = read_formats(format or [Format.ONNX])
    if benchmark:
        _benchmark(checkpoint, formats if format else tuple(Format), as_json)
        return
    config = ExportConfig(
        checkpoint=checkpoint,
        repository=repository,
        formats=formats,
        skip_missing=skip_missing,
        data=data,
        promote=promote,
    )

    def tell(exported: Exported) -> None:
        if not as_json:
            typer.echo(exported.summary(), err=exported.error is not None)

    result = export_checkpoint(config, tell)
    change = result.promotion.change if result.promotion else None
    if as_json:
        content = {
            "formats": [exported.as_dict() for exported in result.formats],
            "production": change.version if change else None,
            "card": str(result.card) if result.card else None,
        }
        typer.echo(json.dumps(content))
    elif change is not None:
        typer.echo(f"version {change.version} is in production")
    elif result.card is not None:
        typer.echo("to serve the candidate: reentry repository promote candidate")
    if not result.complete:
        raise typer.Exit(code=1)


def _benchmark(checkpoint: Path, formats: tuple[str, ...], as_json: bool) -> None:
    raise NotImplementedError((checkpoint, formats, as_json))
