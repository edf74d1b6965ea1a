"""A TensorRT engine made on the node that serves it, in three steps of which only the middle one needs a GPU.

    prepare    image `cpu`   copies the repository, computes the answers that flights must get, writes build.sh
    build.sh   image `gpu`   trtexec builds the engine, or finds it beside its version, and takes the flights through it
    install    image `cpu`   compares the answers, and only then changes the copy so that it serves the engine

The version is one that the gate of `reentry export` let through as ONNX and that somebody promoted; the engine is that
version compiled, keeps its number, and is held against the very graph it was made from.

    <work>/models/          the copy to serve
    <work>/cases/<i>/       a batch of flights: a file for each input, expected.npy, outputs.json of the engine
    <work>/engine/          model.plan, build.log, made-on.txt: key, GPU, TensorRT's version
    <repository>/<model>/<N>/engines/<key>/   engines kept for the next pod on such a node

Shapes: B tracks, T steps, M measurement columns, F features.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from export.tensorrt.config import TensorRTConfig, whole_shapes
from export.tensorrt.trtexec import ENVIRONMENT_VARIABLE, USUAL_PLACE, build_arguments, read_outputs, run_arguments
from reentry import schema
from reentry.decision import NO_ONSET, onset_of, phase_of
from reentry.errors import ExportError, RepositoryError
from reentry.features.track import track_features
from reentry.runtime.files import whole_file
from registry.config_pbtxt import pinned, read
from registry.formats import FORMATS, Format
from registry.models import DEFAULT_MODEL
from registry.open import open_store
from registry.store import CONFIG_FILE, manifest_of

Array = npt.NDArray[Any]

_SPEC: Final = FORMATS[Format.TENSORRT]
_FLIGHT: Final = 960
"""Steps of a flight, 0.5 s each."""
_CASES: Final = ((1, 1), (1, _FLIGHT), (8, _FLIGHT), (64, 256))
"""Batch and length: the ends of flights, since that is where reentry is."""

_BUILD: Final = """\
#!/bin/sh
# Written by `reentry engine prepare`: builds the engine, or finds it, and takes the flights through it.
set -eu
cd "$(dirname "$0")"
fail() {{ echo "error: $1" >&2; exit 1; }}
trtexec="${{{variable}:-{usual}}}"
[ -x "$trtexec" ] || fail "there is no $trtexec; fix: name it with {variable}"
options="$("$trtexec" --help 2>&1)" || fail "$trtexec does not start: $options"
version="$(printf '%s\\n' "$options" | sed -n 's/.*\\[TensorRT v\\([0-9]*\\)\\].*/\\1/p' | head -n 1)"
gpu="$(nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv,noheader | head -n 1)"
[ -n "$gpu" ] || fail "nvidia-smi shows no GPU"
key="$(printf '%s\\n' {graph_key} "$gpu" "$version" | sha256sum | cut -c 1-32)"
printf '%s\\n' "$key" "$gpu" "$version" >engine/made-on.txt
run() {{
    log="$1"
    shift
    "$trtexec" "$@" >"$log" 2>&1 || {{ cat "$log" >&2; fail "trtexec failed"; }}
}}
kept="{engines}/$key/{plan}"
if [ -f "$kept" ]; then
    cp "$kept" engine/{plan}
else
    # Releases differ in their options; this one is for those in which TF32 is the default.
    case "$options" in *--noTF32*) set -- --noTF32 ;; *) set -- ;; esac
    run engine/build.log {build} {precision}
fi
{runs}
"""


def prepare(repository: Path, work: Path, config: TensorRTConfig, model: str = DEFAULT_MODEL) -> int:
    """Get a build ready in the empty folder `work`.

    Args:
        repository: the model repository whose pinned version is to be served.
        work: shared with the other two steps.
        config: precision and times; batches reach to the max_batch_size of the repository.
        model: name of the model, which has the tensors of `schema.REENTRY_LSTM`.

    Returns:
        The version.

    Raises:
        RepositoryError: no version is pinned, or it is none that a gate let through as ONNX in single precision.
        ExportError: the folder is inside the repository.
    """
    if Path(os.path.realpath(work)).is_relative_to(os.path.realpath(repository)):  # resolve() raises on a loop of links
        raise ExportError("would be copied into itself", where=str(work), fix="take a --work outside of the repository")
    store = open_store(repository, model)
    text = store.read(CONFIG_FILE).text or ""
    served = read(text, where=store.place(CONFIG_FILE))
    if len(served.version_policy.specific.versions) != 1:
        raise RepositoryError(
            "no single version is pinned", where=store.place(CONFIG_FILE), fix="reentry repository promote VERSION"
        )
    version = int(served.version_policy.specific.versions[0])
    manifest = manifest_of(store, version)
    if manifest.format is not Format.ONNX or not manifest.passed:
        raise RepositoryError(
            "no engine is made from this version",
            where=store.place(version),
            expected=f"format {Format.ONNX} that passed its gate",
            got=f"{manifest.format}, {'passed' if manifest.passed else 'not passed'}",
            fix="promote such a version",
        )
    shutil.copytree(repository, work / "models", dirs_exist_ok=True)
    (work / "engine").mkdir(exist_ok=True)
    graph = Path("models", model, str(version), FORMATS[Format.ONNX].whole_file)
    plan = Path("engine", _SPEC.whole_file)
    runs = []
    for index, (batch, steps) in enumerate(_CASES):
        case = Path("cases", str(index))
        features = _flights(min(batch, served.max_batch_size or 1), steps, seed=index)
        (work / case).mkdir(parents=True, exist_ok=True)
        (work / case / "features.bin").write_bytes(features.tobytes())
        np.save(work / case / "expected.npy", _answer(work / graph, features))
        inputs = {schema.FEATURES_TENSOR.name: (case / "features.bin", features.shape)}
        _, *arguments = run_arguments("trtexec", plan, inputs, case / "outputs.json")
        runs.append(f"run {case}/run.log {shlex.join(arguments)}")
    most = max(1, served.max_batch_size)
    shapes = whole_shapes(config.with_batch((1, min(config.batch[1], most), most)))
    _, *build = build_arguments("trtexec", graph, plan, shapes, config)
    settings = json.dumps(build).encode()
    script = _BUILD.format(
        variable=ENVIRONMENT_VARIABLE,
        usual=USUAL_PLACE,
        graph_key=hashlib.sha256((work / graph).read_bytes() + settings).hexdigest(),
        engines=graph.parent / "engines",
        plan=_SPEC.whole_file,
        build=shlex.join([argument for argument in build if argument != "--noTF32"]),
        precision='"$@"' if "--noTF32" in build else "",
        runs="\n".join(runs),
    )
    with whole_file(work / "build.sh") as part:
        part.write_text(script)
    return version


def install(work: Path, keep: Path | None = None, model: str = DEFAULT_MODEL) -> dict[str, Any]:
    """Compare what the engine answered, and let the copy in `work` serve it.

    Args:
        work: as prepared and built.
        keep: a model repository that gets the engine beside its version, for the next pod on such a node.
        model: name of the model.

    Returns:
        What was measured, as engine.json holds it.

    Raises:
        ExportError: the engine does not answer as its graph does; which check failed, where, by how much.
    """
    config = work / "models" / model / CONFIG_FILE
    text = config.read_text()
    (version,) = read(text, where=str(config)).version_policy.specific.versions
    measured = _compare(work, version)
    key, gpu, tensorrt = (work / "engine" / "made-on.txt").read_text().splitlines()
    report = {
        "version": version,
        "gpu": gpu,
        "tensorrt": tensorrt,
        "checked": datetime.now(UTC).isoformat(timespec="seconds"),
        **measured,
    }
    plan = work / "engine" / _SPEC.whole_file
    places = [work / "models" / model / str(version)]
    if keep is not None:
        places.append(keep / model / str(version) / "engines" / key)
    for place in places:
        for name, content in ((_SPEC.whole_file, plan.read_bytes()), ("engine.json", _json(report))):
            with whole_file(place / name) as part:
                part.write_bytes(content)
    with whole_file(config) as part:
        part.write_text(pinned(text, version=version, spec=_SPEC))
    return report


@contextmanager
def files_in(work: Path) -> Iterator[None]:
    """Turn what the disk refuses a step into one line.

    Raises:
        ExportError: a file is missing, or cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"cannot be used: {error.strerror or error}",
            where=str(error.filename or work),
            fix="let --work be a folder with room that all steps share, and do them in order",
        ) from error


def _compare(work: Path, version: int) -> dict[str, Any]:
    """The checks of the task, over all cases, by the format's own tolerance."""
    changed = steps = onset = 0
    largest = 0.0
    for case in sorted((work / "cases").iterdir()):
        expected = np.load(case / "expected.npy")
        outputs = read_outputs(case / "outputs.json")
        got = outputs.get(schema.PROBABILITY.name)
        versions = outputs.get(schema.MODEL_VERSION.name)
        where = f"engine of version {version}, case {case.name}"
        if got is None or got.shape != expected.shape:
            raise _unlike("shapes", where, str(expected.shape), "nothing" if got is None else str(got.shape))
        if versions is None or versions.tolist() != [[version]] * len(expected):
            raise _unlike("version", where, str(version), "nothing" if versions is None else str(versions.tolist()[:1]))
        if not np.isfinite(got).all():
            raise _unlike("finite values", where, "numbers", "NaN or infinity")
        largest = max(largest, float(np.abs(got.astype(np.float64) - expected).max()))
        phase, phase_got = phase_of(expected), phase_of(got)
        changed += int((phase != phase_got).sum())
        steps += phase.size
        moved = _moves(onset_of(phase), onset_of(phase_got), expected.shape[1])
        if moved > _SPEC.tolerance.onset_steps:
            raise _unlike("onsets", where, f"a move of at most {_SPEC.tolerance.onset_steps}", f"{moved} steps")
        onset = max(onset, moved)
    if changed > _SPEC.tolerance.phase_share * steps:
        raise _unlike(
            "phases",
            f"engine of version {version}",
            f"at most {_SPEC.tolerance.phase_share:.1%} of steps in another phase",
            f"{changed} of {steps}",
        )
    return {"max_difference": largest, "changed_phases": changed, "steps": steps, "largest_onset_move": onset}


def _moves(expected: Array, got: Array, steps: int) -> int:
    """The largest move of an onset; one that is gained or lost moves to behind the last step."""
    behind = [np.where(onset == NO_ONSET, steps + _SPEC.tolerance.onset_steps, onset) for onset in (expected, got)]
    return int(np.abs(behind[0] - behind[1]).max())


def _unlike(check: str, where: str, expected: str, got: str) -> ExportError:
    return ExportError(
        f"the engine fails the check of {check}",
        where=where,
        expected=expected,
        got=got,
        fix="serve the ONNX version, which passed its gate",
    )


def _flights(batch: int, steps: int, seed: int) -> npt.NDArray[np.float32]:
    """Features (B, T, F) of the last `steps` of flights that climb, stay up and come down, noisy.

    With numpy alone, which is all that the server's image has of what simulates.
    """
    generator = np.random.default_rng(seed)
    share = np.linspace(0.0, 1.0, _FLIGHT)
    apogee = generator.uniform(1.0e5, 1.2e5, (batch, 1))
    altitude = apogee * np.clip(np.minimum(share / 0.3, (1.0 - share) / 0.3), 0.0, 1.0)
    columns = {
        schema.TIMESTAMP.name: np.broadcast_to(1.7e9 + 0.5 * np.arange(_FLIGHT), altitude.shape),
        schema.LATITUDE.name: np.broadcast_to(64.0 - 24.0 * share, altitude.shape),
        schema.LONGITUDE.name: np.broadcast_to(-22.0 - 83.0 * share, altitude.shape),
        schema.ALTITUDE.name: altitude,
        schema.RADIOMETRIC_INTENSITY.name: altitude / 1.2e5,
        schema.SENSOR_ID.name: np.full(altitude.shape, 3.0),
    }
    measurements = np.stack([columns[name] for name in schema.MEASUREMENT_COLUMNS], axis=-1)  # (B, T, M)
    measurements[:, :, 1:5] += generator.normal(0.0, 0.01, (batch, _FLIGHT, 4))
    return np.ascontiguousarray(track_features(measurements)[:, -steps:], np.float32)


def _answer(graph: Path, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities (B, T) of the ONNX graph."""
    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (probability,) = session.run([schema.PROBABILITY.name], {schema.FEATURES_TENSOR.name: features})
    except Exception as error:  # ONNX Runtime's classes have no common base of their own
        reason = f"the graph cannot be run: {error}"
        raise RepositoryError(reason, where=str(graph), fix="export the checkpoint again") from error
    return np.asarray(probability, np.float32)


def _json(report: dict[str, Any]) -> bytes:
    return (json.dumps(report, indent=2) + "\n").encode()
