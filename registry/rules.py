"""The rules of promotion: which versions can be promoted at all, and which ones only with a reason.

The files must match the manifest, the format must be one that is served, and the schema version must be the current
one, always. The version must have passed the gate and its metric must be no worse than production's, unless the user
gives a reason, which labels.json records.
"""

from __future__ import annotations

import math

from reentry.errors import RepositoryError
from registry.inventory import Version, faults_of
from registry.models import VersionedModel
from registry.store import VersionStore


def require_servable(store: VersionStore, version: Version) -> None:
    """Check the rules that no reason overrides.

    Raises:
        RepositoryError: the version violates one of them.
    """
    where = store.place(version.number)
    if version.unfinished:
        raise RepositoryError(
            "its upload has not finished", where=where, fix="wait for it, or export the checkpoint again"
        )
    if version.spec is None or version.spec.backend is None:
        raise RepositoryError(
            f"format {version.spec.format} is only a reference and is not served"
            if version.spec
            else f"unknown format: {version.problem}",
            where=where,
            fix="promote a version of another format",
        )
    if version.manifest is None:
        return
    if version.manifest.schema_version != store.model.schema_version:
        raise RepositoryError(
            "exported for another schema version, so its inputs differ from those that the server sends",
            where=where,
            expected=str(store.model.schema_version),
            got=str(version.manifest.schema_version),
            fix="train and export again; no reason overrides this",
        )
    faults = faults_of(store, version)
    if version.spec.whole_file not in version.manifest.files:
        faults.append(f"the manifest has no entry for {version.spec.whole_file}")
    if faults:
        raise RepositoryError(
            f"the files do not match the manifest: {', '.join(faults)}",
            where=where,
            fix="export the checkpoint again; no reason overrides this",
        )


def violations(model: VersionedModel, version: Version, production: Version | None) -> list[str]:
    """List the rules that a version violates and a reason overrides, one line each."""
    found = []
    if version.manifest is None:
        found.append(f"its gate result is unknown ({version.problem})")
    elif not version.manifest.passed:
        found.append("it did not pass the gate")
    if production is not None:
        value, current = (each.metric(model.metric) for each in (version, production))
        if (math.inf if value is None else value) > (math.inf if current is None else current):
            found.append(
                f"its {model.metric} is {_with_unit(value, model)}, worse than {_with_unit(current, model)} of version "
                f"{production.number} in production"
            )
    return found


def comparison_warnings(version: Version, production: Version | None) -> list[str]:
    """Return a warning if different data make the metrics of two versions hard to compare."""
    if version.manifest is None or production is None or production.manifest is None:
        return []
    differences = []
    if version.manifest.data_fingerprint != production.manifest.data_fingerprint:
        differences.append("trained on other data")
    # Versions of older exports have no fingerprint of their validation tracks, and count as equal.
    if version.manifest.verification.get("fingerprint") != production.manifest.verification.get("fingerprint"):
        differences.append("measured on other tracks")
    if not differences:
        return []
    return [f"{' and '.join(differences)} than version {production.number}, so their metrics may not be comparable"]


def _with_unit(value: float | None, model: VersionedModel) -> str:
    return "unknown" if value is None else f"{value:g} {model.unit}".rstrip()
