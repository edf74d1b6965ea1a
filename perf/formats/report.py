"""Report of the benchmark: benchmark.json, benchmark.md and benchmark.png."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from perf.formats.benchmark import Benchmark
from perf.formats.figures import BASELINE, FormatRow, Spread
from perf.formats.measure import REFERENCES
from perf.tables import table
from reentry.runtime.files import whole_file

_SPEED = (
    "",
    "size, kB",
    "load, ms",
    "one step, µs",
    "p99, µs",
    "track, ms",
    "p99, ms",
    "M steps/s",
    "tracks/s",
    "at batch",
)
_TRUTH = ("", "memory, MB", "at batch", "largest difference", "steps of another phase", "onset moves, steps")
_RATIOS = ("", "size", "one step", "track", "tracks/s")
_BETTER, _WORSE = "tab:blue", "tab:orange"


def write_report(benchmark: Benchmark, out: Path) -> list[Path]:
    """Write the three files into `out` and return their paths."""
    texts = {
        "benchmark.json": json.dumps(as_dict(benchmark), indent=2) + "\n",
        "benchmark.md": markdown(benchmark),
    }
    for name, text in texts.items():
        with whole_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    picture = out / "benchmark.png"
    with whole_file(picture) as part:
        figure_of(benchmark).savefig(part, format="png")
    return [*(out / name for name in texts), picture]


def as_dict(benchmark: Benchmark) -> dict[str, Any]:
    """Return the benchmark as JSON content, in s, bytes, and tracks or steps per second."""
    content: dict[str, Any] = json.loads(json.dumps(asdict(benchmark), default=str))  # paths as text
    return content


def markdown(benchmark: Benchmark) -> str:
    """Return the Markdown report with three tables: speed, memory and accuracy, ratios."""
    config, rows = benchmark.config, benchmark.rows
    lines = [
        "# Formats",
        "",
        f"Checkpoint `{config.checkpoint}`: {_network(benchmark)}. {benchmark.machine}; {_threads(config.threads)}.",
        f"A track has {config.steps} steps. Each format runs in a process of its own; {config.rounds} rounds "
        "measure each format once. Times are medians over the rounds, p99 is over all runs.",
        "",
        *table(_SPEED, [_speed(row) for row in rows]),
        "",
        "Size is that of both graphs, for whole tracks and for one step. "
        "The times of one step and of a track are for one track alone. "
        f"Tracks/s are at the best of the batch sizes {', '.join(map(str, config.batches))}.",
        "Loading includes the first run of one step and of one track.",
        "",
        *table(_TRUTH, [_truth(row) for row in rows]),
        "",
        "Memory is the peak beyond that of the process without the model, one track at a time and at the best batch.",
        f"Accuracy is measured against PyTorch on {benchmark.data}.",
        "",
        f"Ratios to {BASELINE}, within each round (median, quartiles):",
        "",
        *table(_RATIOS, [_ratio_cells(row) for row in rows]),
    ]
    if benchmark.left_out:
        lines += ["", "Not measured:", "", *(f"- {way}: {reason}" for way, reason in benchmark.left_out.items())]
    return "\n".join(lines) + "\n"


def figure_of(benchmark: Benchmark) -> Figure:
    """Return a figure of the ratios to the baseline, one panel per quantity, on a logarithmic scale."""
    rows = benchmark.rows
    figure = Figure(figsize=(12, 2.1 + 0.4 * len(rows)), dpi=100, layout="constrained")
    panels = figure.subplots(1, 4, sharey=True)
    one, whole, rate = ([getattr(row.ratios, name) for row in rows] for name in ("step", "whole", "throughput"))
    size = [None if row.ratios.size is None else Spread.of([row.ratios.size]) for row in rows]
    _panel(panels[0], "time of one step\nless is better", one, less=True)
    _panel(panels[1], f"time of {benchmark.config.steps} steps, one track\nless is better", whole, less=True)
    _panel(panels[2], "tracks a second, best batch\nmore is better", rate, less=False)
    _panel(panels[3], "size of both files\nless is better", size, less=True)
    panels[0].set_yticks(range(len(rows)), [row.way for row in rows])
    panels[0].invert_yaxis()
    key = [Patch(color=_BETTER, label=f"better than {BASELINE}"), Patch(color=_WORSE, label="worse")]
    figure.legend(handles=key, loc="outside lower center", ncols=2, fontsize=9)
    figure.suptitle(
        f"Ratio to {BASELINE} (fp32), medians and quartiles of {benchmark.config.rounds} rounds; "
        f"{_network(benchmark)}; {_threads(benchmark.config.threads)}",
        fontsize=11,
    )
    return figure


def _panel(panel: Axes, title: str, ratios: Sequence[Spread | None], *, less: bool) -> None:
    """Draw bars that start at 1, coloured by whether the ratio is better or worse than 1."""
    known = [ratio for ratio in ratios if ratio is not None]
    low, high = min(0.6, *(ratio.low for ratio in known)), max(1.7, *(ratio.high for ratio in known))
    span = high / low
    panel.set_xscale("log", base=2)
    panel.set_xlim(low / span**0.05, high * span**0.25)  # leaves room for the figures on the right
    for at, ratio in enumerate(ratios):
        if ratio is None:
            panel.text(span**0.03, at, "no file", va="center", fontsize=9, color="tab:grey")
            continue
        better = (ratio.median < 1.0) == less
        panel.barh(at, ratio.median - 1.0, left=1.0, height=0.6, color=_BETTER if better else _WORSE)
        panel.plot([ratio.low, ratio.high], [at, at], color="black", lw=1.2)
        panel.text(max(ratio.high, 1.0) * span**0.03, at, f"{ratio.median:.2f}", va="center", fontsize=9)
    panel.axvline(1.0, color="black", lw=0.8)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_title(title, fontsize=10)


def _speed(row: FormatRow) -> list[str]:
    return [
        row.way,
        f"{row.size / 1e3:.1f}" if row.size else "-",
        f"{row.load.median * 1e3:,.1f}",
        f"{row.step.median * 1e6:,.1f}",
        f"{row.step_p99 * 1e6:,.1f}",
        f"{row.whole.median * 1e3:.3f}",
        f"{row.whole_p99 * 1e3:.3f}",
        f"{row.steps_per_second.median / 1e6:.2f}",
        f"{row.tracks_per_second.median:,.0f}",
        f"{row.batch}",
    ]


def _truth(row: FormatRow) -> list[str]:
    memory = [row.way, f"{row.one_memory / 1e6:.1f}", f"{row.batch_memory / 1e6:.1f}"]
    if row.accuracy is None:
        return [*memory, "reference" if row.way in REFERENCES else "-", "", ""]
    return [
        *memory,
        f"{row.accuracy.probability:.1e}",
        f"{row.accuracy.phase_share:.3%}",
        f"{row.accuracy.onset_steps}",
    ]


def _ratio_cells(row: FormatRow) -> list[str]:
    spreads = (row.ratios.step, row.ratios.whole, row.ratios.throughput)
    return [
        row.way,
        "-" if row.ratios.size is None else f"{row.ratios.size:.2f}",
        *(f"{each.median:.2f} ({each.low:.2f} to {each.high:.2f})" for each in spreads),
    ]


def _threads(count: int) -> str:
    return "one thread" if count == 1 else f"{count} threads"


def _network(benchmark: Benchmark) -> str:
    return f"{benchmark.layers} x {benchmark.hidden} hidden units, {benchmark.parameters:,} parameters"
