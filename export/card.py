"""model_card.md beside a checkpoint: what the network is, and the section on its exports."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from export.results import FormatResult
from reentry.runtime.files import whole_file
from training.checkpoint import Checkpoint
from training.runs.card import CARD_NAME, markdown

_BEGIN: Final = "<!-- export -->"
_END: Final = "<!-- end of export -->"


def write_card(path: Path, checkpoint: Checkpoint, exports: Sequence[FormatResult], data: str) -> Path:
    """Replace the section on exports of the card beside the checkpoint `path`; a card that is not there is written.

    Returns:
        The card.
    """
    card = path.with_name(CARD_NAME)
    text = card.read_text(encoding="utf-8") if card.is_file() else markdown(checkpoint)
    section = _section(exports, data)
    if _BEGIN in text and _END in text:
        text = re.sub(f"{_BEGIN}.*?{_END}", lambda _: section, text, count=1, flags=re.DOTALL)
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    with whole_file(card) as part:
        part.write_text(text, encoding="utf-8")
    return card


def _section(exports: Sequence[FormatResult], data: str) -> str:
    rows = []
    left = []
    for exported in exports:
        found = exported.verification
        if found is None:
            left.append(f"- {exported.format}: {exported.left_out or exported.error}")
            continue
        rmse = found.metrics["onset_rmse"]
        moved = "-" if found.stepped_onset_moved is None else str(found.stepped_onset_moved)
        rows.append(
            f"| {exported.format} | {exported.version} | {exported.size:,} | {found.max_difference:.1e} "
            f"| {found.step_difference:.1e} | {found.phase_share:.3%} | {found.onset_moved} | {moved} "
            f"| {'-' if rmse is None else f'{rmse:.3f}'} |"
        )
    lines = [
        _BEGIN,
        "## Export",
        "",
        f"Each format was held against PyTorch before it was installed, on {data}. Differences are of probabilities;",
        "onsets are counted in steps.",
        "",
        "| format | version | bytes | off PyTorch | steps off the whole | phases that differ | onset moved "
        "| step by step | onset RMSE, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    if left:
        lines += ["", "Not exported:", "", *left]
    return "\n".join([*lines, "", _END])
