"""Results of an export: one line for the terminal, a dictionary for `--json`, and a section of the model card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from export.gate import Verification
from reentry.runtime.files import whole_file
from registry.formats import Format
from registry.promotion import Promotion
from training.checkpoint import Checkpoint
from training.runs.card import CARD_NAME, markdown

_BEGIN: Final = "<!-- export -->"
_END: Final = "<!-- end of export -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatResult:
    """Result of exporting one format: the installed version, or the reason why none was installed."""

    format: Format
    seconds: float = 0.0
    version: int | None = None
    place: str | None = None
    """Path or URL of the installed version."""
    size: int | None = None
    """Size of both graphs in bytes."""
    verification: Verification | None = None
    warnings: tuple[str, ...] = ()
    """Graphs that the version lacks, one line each."""
    left_out: str | None = None
    """What this machine lacks to build the format."""
    error: str | None = None
    """Error message if the format failed."""

    def summary(self) -> str:
        """One line for the terminal."""
        if self.left_out is not None:
            return f"{self.format}: left out: {self.left_out}"
        found = self.verification
        if found is None:
            return f"{self.format}: not installed: {self.error}"
        stepped = "" if found.stepped_onset_moved is None else f", {found.stepped_onset_moved} step by step"
        return (
            f"{self.format}: installed version {self.version} in {self.place}: {self.size:,} bytes; {found.cases} "
            f"cases within {found.max_difference:.1e} of PyTorch, steps within {found.step_difference:.1e} of whole "
            f"tracks; on {found.tracks} tracks {found.phase_share:.3%} of the phases differ, onsets by "
            f"{found.onset_moved} steps at most{stepped}; {self.seconds:.1f} s"
        )

    def as_dict(self) -> dict[str, Any]:
        """Content for `--json`."""
        content = asdict(replace(self, verification=None))
        content["verification"] = self.verification.as_dict() if self.verification else None
        content["metrics"] = self.verification.metrics if self.verification else None
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """Result of exporting a checkpoint in all requested formats."""

    formats: tuple[FormatResult, ...]
    promotion: Promotion | None = None
    refusal: str | None = None
    """Reason why a requested promotion did not happen. The version is installed nevertheless."""
    card: Path | None = None
    """Path of the model card; None if no version was installed."""
    candidate: int | None = None
    """Version that this export made the candidate; None if it is in production, or no version was labelled."""
    production: int | None = None
    """Version in production after the export."""

    @property
    def complete(self) -> bool:
        """Whether no format failed, and a requested promotion happened."""
        return self.refusal is None and all(result.error is None for result in self.formats)


def write_card(path: Path, checkpoint: Checkpoint, results: Sequence[FormatResult], data: str) -> Path:
    """Write the export section of model_card.md, which is created if it does not exist.

    Args:
        path: path of the checkpoint; the card lies beside it.
        checkpoint: content of a new card.
        results: formats of the section, which replaces an earlier one.
        data: description of the validation tracks.

    Returns:
        Path of the card.
    """
    card = path.with_name(CARD_NAME)
    text = card.read_text(encoding="utf-8") if card.is_file() else markdown(checkpoint)
    section = _section(results, data)
    if _BEGIN in text and _END in text:
        text = re.sub(f"{_BEGIN}.*?{_END}", lambda _: section, text, count=1, flags=re.DOTALL)
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    with whole_file(card) as part:
        part.write_text(text, encoding="utf-8")
    return card


def _section(results: Sequence[FormatResult], data: str) -> str:
    rows, failed = [], []
    for result in results:
        found = result.verification
        if found is None:
            failed.append(f"- {result.format}: {result.left_out or result.error}")
            continue
        rmse = found.metrics["onset_rmse"]
        moved = "-" if found.stepped_onset_moved is None else str(found.stepped_onset_moved)
        rows.append(
            f"| {result.format} | {result.version} | {result.size:,} | {found.max_difference:.1e} "
            f"| {found.step_difference:.1e} | {found.phase_share:.3%} | {found.onset_moved} | {moved} "
            f"| {'-' if rmse is None else f'{rmse:.3f}'} |"
        )
    lines = [
        _BEGIN,
        "## Export",
        "",
        f"Each format was compared with PyTorch on {data} before it was installed. Differences are between",
        "probabilities; onset shifts are in steps.",
        "",
        "| format | version | bytes | difference from PyTorch | steps from whole track | phases that differ "
        "| onset shift | step by step | onset RMSE, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *rows,
    ]
    if failed:
        lines += ["", "Not exported:", "", *failed]
    return "\n".join([*lines, "", _END])
