"""What came of an export: of each format, and of the whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from export.gate import Verification
from registry.formats import Format
from registry.promotion import Promotion


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatResult:
    """One format: the version it became, or why it became none."""

    format: Format
    seconds: float
    version: int | None = None
    place: str | None = None
    size: int | None = None
    """Bytes of both graphs."""
    verification: Verification | None = None
    left_out: str | None = None
    """What this machine lacks for it."""
    error: str | None = None
    """Which check it failed, or what else went wrong."""

    def summary(self) -> str:
        """One line for a person."""
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
        """The same for a script."""
        content = asdict(replace(self, verification=None))
        content["verification"] = self.verification.as_dict() if self.verification else None
        content["metrics"] = self.verification.metrics if self.verification else None
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportResult:
    """What came of a checkpoint."""

    formats: tuple[FormatResult, ...]
    promotion: Promotion | None
    refusal: str | None
    """Why a version that was to be promoted was not, and that it is installed."""
    card: Path | None
    """The model card, where a version was installed."""
    candidate: int | None = None
    """The version that this export made the candidate; None if it is in production, or no version was labelled."""
    production: int | None = None
    """The version in production after the export."""

    @property
    def complete(self) -> bool:
        """Whether every format that was not left out became a version, and a promotion that was due happened."""
        return self.refusal is None and all(exported.error is None for exported in self.formats)
