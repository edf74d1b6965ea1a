"""Builds a TensorRT engine on the node that serves it, in three steps. Only the second step needs a GPU.

    prepare    image `cpu`   copies the repository, computes the expected probabilities of test flights, writes build.sh
    build.sh   image `gpu`   trtexec builds the engine, or takes it from the cache, and runs the flights through it
    install    image `cpu`   compares the probabilities; if they agree, changes the copy so that it serves the engine

The engine is compiled from the ONNX version in production, which passed the gate of `reentry export`. It keeps that
version's number and is compared with that version's graph.

    <work>/models/          copy of the repository, to be served
    <work>/cases/<i>/       a batch of flights: one file for each input, expected.npy, and outputs.json of the engine
    <work>/engine/          model.plan, build.log, and made-on.txt with cache key, GPU and TensorRT version
    <repository>/<model>/<N>/engines/<key>/   engines kept for the next pod on a node with the same GPU

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
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from export.sessions import Array
from export.tensorrt.config import TensorRTConfig, whole_shapes
from export.tensorrt.trtexec import ENVIRONMENT_VARIABLE, USUAL_PLACE, build_options, read_outputs, run_options
from reentry import schema
from reentry.decision import NO_ONSET, onset_of, phase_of
from reentry.errors import ExportError, RepositoryError
from reentry.features.track import track_features
from reentry.runtime.files import whole_file
from registry.config_pbtxt import pinned, read
from registry.formats import FORMATS, Format
from registry.models import DEFAULT_MODEL, fill_orbit_features
from registry.open import open_store
from registry.store import CONFIG_FILE, manifest_of

_SPEC: Final = FORMATS[Format.TENSORRT]
_FLIGHT: Final = 960
"""Number of steps in a test flight, 0.5 s apart."""
_CASES: Final = ((1, 1), (1, _FLIGHT), (8, _FLIGHT), (64, 256))
"""Batch size and length of each test case. A case shorter than a flight is its end, where reentry is."""

_BUILD: Final = """\
#!/bin/sh
# Written by `reentry engine prepare`: builds the engine, or takes it from the cache, and runs the flights through it.
set -eu
cd "$(dirname "$0")"
fail() {{ echo "error: $1" >&2; exit 1; }}
trtexec="${{{variable}:-{usual}}}"
[ -x "$trtexec" ] || fail "no trtexec at $trtexec; fix: set {variable} to its path"
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
cached="{engines}/$key/{plan}"
if [ -f "$cached" ]; then
    cp "$cached" engine/{plan}
else
    # Only releases in which TF32 is the default have this option.
    case "$options" in *--noTF32*) set -- --noTF32 ;; *) set -- ;; esac
    run engine/build.log {build} {precision}
fi
{runs}
"""


def prepare(repository: Path, work: Path, config: TensorRTConfig, model: str = DEFAULT_MODEL) -> int:
    """Prepare a build in the empty folder `work`.

    Args:
        repository: model repository whose pinned version is compiled.
        work: folder that the three steps share.
        config: precision and time axis; the batch axis ends at the repository's max_batch_size.
        model: name of the model, which has the tensors of `schema.REENTRY_LSTM`.

    Returns:
        The version number.

    Raises:
        RepositoryError: the model has other tensors, no single version is pinned, or the pinned version did not pass
            the gate in format `onnx`.
        ExportError: the folder is inside the repository.
    """
    if Path(os.path.realpath(work)).is_relative_to(os.path.realpath(repository)):  # resolve() raises on a loop of links
        raise ExportError("work folder is inside the repository", where=str(work), fix="choose a --work outside of it")
    store = open_store(repository, model)
    if replace(store.model.tensors, name=schema.REENTRY_LSTM.name) != schema.REENTRY_LSTM:
        raise RepositoryError(
            "no engine can be built for this model",
            where=store.location,
            expected=f"a model with the input and output tensors of {schema.REENTRY_LSTM.name}",
            got=model,
            fix="correct --model",
        )
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
            "version cannot be compiled to an engine",
            where=store.place(version),
            expected=f"format {Format.ONNX} that passed its gate",
            got=f"{manifest.format}, {'passed' if manifest.passed else 'not passed'}",
            fix="promote a version of that format",
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
        np.save(work / case / "expected.npy", _expected_probability(work / graph, features))
        inputs = {schema.FEATURES_TENSOR.name: (case / "features.bin", features.shape)}
        options = run_options(plan, inputs, case / "outputs.json")
        runs.append(f"run {case}/run.log {shlex.join(options)}")
    largest = max(1, served.max_batch_size)
    shapes = whole_shapes(replace(config, batch=(1, min(config.batch[1], largest), largest)))
    build = build_options(graph, plan, shapes, config)
    script = _BUILD.format(
        variable=ENVIRONMENT_VARIABLE,
        usual=USUAL_PLACE,
        graph_key=hashlib.sha256((work / graph).read_bytes() + json.dumps(build).encode()).hexdigest(),
        engines=graph.parent / "engines",
        plan=_SPEC.whole_file,
        build=shlex.join([option for option in build if option != "--noTF32"]),
        precision='"$@"' if "--noTF32" in build else "",
        runs="\n".join(runs),
    )
    with whole_file(work / "build.sh") as part:
        part.write_text(script)
    return version


def install(work: Path, keep: Path | None = None, model: str = DEFAULT_MODEL) -> dict[str, Any]:
    """Compare the engine's probabilities with the expected ones, and make the copy in `work` serve the engine.

    Args:
        work: folder after `prepare` and build.sh.
        keep: model repository that caches the engine for the next pod on a node with the same GPU.
        model: name of the model.

    Returns:
        Measured differences, as written to engine.json.

    Raises:
        ExportError: the engine's answers differ from those of its graph.
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
    engine_json = (json.dumps(report, indent=2) + "\n").encode()
    places = [work / "models" / model / str(version)]
    if keep is not None:
        places.append(keep / model / str(version) / "engines" / key)
    for place in places:
        for name, content in ((_SPEC.whole_file, plan.read_bytes()), ("engine.json", engine_json)):
            with whole_file(place / name) as part:
                part.write_bytes(content)
    with whole_file(config) as part:
        part.write_text(pinned(text, version=version, spec=_SPEC))
    return report


@contextmanager
def files_in(work: Path) -> Iterator[None]:
    """Report a missing or unwritable file of a step as one error.

    Raises:
        ExportError: the operating system refused access to a file.
    """
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"cannot use the file: {error.strerror or error}",
            where=str(error.filename or work),
            fix="use one --work folder with free space for all steps, and run the steps in order",
        ) from error


def _compare(work: Path, version: int) -> dict[str, Any]:
    """Compare the engine's answers with the expected ones in all cases, within the tolerance of the TensorRT format."""
    tolerance = _SPEC.tolerance
    changed = steps = onset = 0
    largest = 0.0
    for case in sorted((work / "cases").iterdir()):
        where = f"engine of version {version}, case {case.name}"
        expected = np.load(case / "expected.npy")
        outputs = read_outputs(case / "outputs.json")
        got = outputs.get(schema.PROBABILITY.name)
        versions = outputs.get(schema.MODEL_VERSION.name)
        if got is None or got.shape != expected.shape:
            raise _failed("shapes", where, str(expected.shape), "nothing" if got is None else str(got.shape))
        if versions is None or versions.tolist() != [[version]] * len(expected):
            raise _failed("version", where, str(version), "nothing" if versions is None else str(versions.tolist()[:1]))
        if not np.isfinite(got).all():
            raise _failed("finite values", where, "finite numbers", "NaN or infinity")
        largest = max(largest, float(np.abs(got.astype(np.float64) - expected).max()))
        phase, phase_got = phase_of(expected), phase_of(got)
        changed += int((phase != phase_got).sum())
        steps += phase.size
        moved = _largest_move(onset_of(phase), onset_of(phase_got), expected.shape[1])
        if moved > tolerance.onset_steps:
            raise _failed("onsets", where, f"a shift of at most {tolerance.onset_steps}", f"{moved} steps")
        onset = max(onset, moved)
    if changed > tolerance.phase_share * steps:
        limit = f"at most {tolerance.phase_share:.1%} of steps in another phase"
        raise _failed("phases", f"engine of version {version}", limit, f"{changed} of {steps}")
    return {"max_difference": largest, "changed_phases": changed, "steps": steps, "largest_onset_move": onset}


def _largest_move(expected: Array, got: Array, steps: int) -> int:
    """Largest shift of an onset, in steps. A missing onset counts as one beyond the end of the track."""
    beyond = steps + _SPEC.tolerance.onset_steps
    expected, got = (np.where(onset == NO_ONSET, beyond, onset) for onset in (expected, got))
    return int(np.abs(expected - got).max())


def _failed(check: str, where: str, expected: str, got: str) -> ExportError:
    fix = "serve the ONNX version, which passed its gate"
    return ExportError(f"check failed: {check}", where=where, expected=expected, got=got, fix=fix)


def _flights(batch: int, steps: int, seed: int) -> Array:
    """Features (B, T, F) float32 of the last `steps` of noisy flights that climb, stay level and descend.

    The simulation package is not used, because the server's image lacks its dependencies.
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
    features = track_features(measurements)
    fill_orbit_features(features)
    return np.ascontiguousarray(features[:, -steps:], np.float32)


def _expected_probability(graph: Path, features: Array) -> Array:
    """Probabilities (B, T) float32 of the ONNX graph."""
    try:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (probability,) = session.run([schema.PROBABILITY.name], {schema.FEATURES_TENSOR.name: features})
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        reason = f"cannot run the graph: {error}"
        raise RepositoryError(reason, where=str(graph), fix="export the checkpoint again") from error
    return np.asarray(probability, np.float32)
