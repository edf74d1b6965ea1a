"""`reentry export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[Path, typer.Argument(help="model.ckpt of `reentry train`.")],
    repository: Annotated[Path, typer.Option(help="The Triton model repository.")] = Path("model_repository"),
    tolerance: Annotated[float, typer.Option(help="Largest difference from PyTorch, in probability.")] = 1e-5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """Export a checkpoint to ONNX, verify it against PyTorch, and install it as the next version.

    The version appears in the repository only when every check held; else nothing changes and the error says which
    check failed, where, and by how much.

    Example: `reentry export artifacts/train/model.ckpt --repository model_repository`
    """
    from export.config import ExportConfig
    from export.repository import export_checkpoint

    folder, verification = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, repository=repository, tolerance=tolerance)
    )
    if as_json:
        import json

        result = {
            "version": int(folder.name),
            "path": str(folder),
            "max_difference": verification.max_difference,
            "prefix_difference": verification.prefix_difference,
        }
        typer.echo(json.dumps(result))
    else:
        typer.echo(
            f"installed version {folder.name} in {folder}: {verification.cases} cases within "
            f"{verification.max_difference:.1e} of PyTorch (allowed {tolerance:g}), "
            f"prefixes within {verification.prefix_difference:.1e} of the whole"
        )
