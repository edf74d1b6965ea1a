"""Benchmark of int8 against fp32 by the size of the network: `python -m perf.formats.sizes`.

Networks of 16, 64 and 128 hidden units are trained on simulated flights and measured in both formats alternately.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from perf.formats.benchmark import Benchmark, BenchmarkConfig, benchmark_formats
from perf.tables import table
from reentry.errors import ExportError, ReentryError
from reentry.simulation import simulate_file
from registry.formats import Format
from training.config import ModelConfig, TrainConfig
from training.train import train_file

TRACKS: Final = 90
SEED: Final = 1

_TITLES: Final = (
    "hidden units",
    "parameters",
    "fp32, kB",
    "int8, kB",
    "times smaller",
    "one step",
    "track",
    "tracks/s",
    "largest difference",
    "steps of another phase",
    "onset moves, steps",
)


def checkpoints(folder: Path, hidden: Sequence[int]) -> Iterator[Path]:
    """Yield a checkpoint for each number of hidden units. A checkpoint that exists in `folder` is not trained again."""
    tracks = folder / "train.csv"
    if not tracks.exists():
        simulate_file(tracks, tracks=TRACKS, seed=SEED)
    for units in hidden:
        out = folder / f"hidden-{units}"
        if not (out / "model.ckpt").exists():
            print(f"training {units} hidden units", file=sys.stderr, flush=True)
            train_file(tracks, out, ModelConfig(hidden=units), TrainConfig(accelerator="cpu"))
        yield out / "model.ckpt"


def cells(benchmark: Benchmark) -> list[str]:
    """Return the cells of the table row for one network.

    Raises:
        ExportError: int8 could not be measured; the message has the reason.
    """
    if Format.ONNX_INT8 in benchmark.left_out:
        raise ExportError(benchmark.left_out[Format.ONNX_INT8])
    plain, small = ({row.way: row for row in benchmark.rows}[form] for form in (Format.ONNX, Format.ONNX_INT8))
    assert small.accuracy is not None, "every format has an accuracy"
    assert small.ratios.size is not None, "every format has files"
    return [
        f"{benchmark.layers} x {benchmark.hidden}",
        f"{benchmark.parameters:,}",
        f"{plain.size / 1e3:.1f}",
        f"{small.size / 1e3:.1f}",
        f"{1 / small.ratios.size:.2f}",
        *(f"{ratio.median:.2f}" for ratio in (small.ratios.step, small.ratios.whole, small.ratios.throughput)),
        f"{small.accuracy.probability:.1e}",
        f"{small.accuracy.phase_share:.3%}",
        f"{small.accuracy.onset_steps}",
    ]


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the checkpoints; missing ones are trained.")] = Path(
        "artifacts/sizes"
    ),
    hidden: Annotated[list[int], typer.Option(help="Number of hidden units; may be repeated.")] = [16, 64, 128],  # noqa: B006
    rounds: Annotated[int, typer.Option(help="Number of rounds; the median is reported.")] = 9,
) -> None:
    """Print the table of docs/export.md that compares int8 with fp32 by size.

    Example: `python -m perf.formats.sizes artifacts/sizes`
    """
    try:
        rows = [
            cells(
                benchmark_formats(
                    BenchmarkConfig(
                        checkpoint=checkpoint, formats=(Format.ONNX, Format.ONNX_INT8), references=(), rounds=rounds
                    )
                )
            )
            for checkpoint in checkpoints(folder, hidden)
        ]
    except ReentryError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    typer.echo("\n".join(table(_TITLES, rows)))


if __name__ == "__main__":
    typer.run(main)
