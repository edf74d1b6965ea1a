"""Orbit features of whole tracks, prefixes, padded copies and live tracks, and machines that cannot compile them."""

from __future__ import annotations

import ast
import os
import stat
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reentry.errors import ConfigError, ExportError
from reentry.features import orbit, orbit_filter
from reentry.features.groups import ALL_GROUPS
from reentry.features.history import LiveState, LiveTracks, WholeTracks
from reentry.features.track import FeatureStream, named_features, next_features, track_features
from reentry.schema import COSTLY_GROUPS, FEATURES, MEASUREMENT_COLUMNS, ORBIT_FEATURES, SIMPLE_FEATURES
from tests.unit.export.test_track_graph import ballistic, trapezoids

ORBIT = frozenset({"orbit"})
COLUMNS = [FEATURES.index(name) for name in ORBIT_FEATURES]


@cache
def flights() -> list[np.ndarray]:
    """Simulated flights of each severity, and trapezoids, (T, M) each."""
    return [*(flight for severity in range(4) for flight in ballistic(severity)), *trapezoids()[:2]]


@cache
def whole(number: int) -> np.ndarray:
    """Orbit features of a flight, (T, 6)."""
    return orbit_of(flights()[number])


def orbit_of(measurements: np.ndarray) -> np.ndarray:
    return track_features(measurements, groups=ORBIT)[..., COLUMNS]


numbers = st.integers(0, 9)


def test_the_filter_answers_on_most_steps_of_a_flight_and_waits_for_free_flight() -> None:
    for number in range(8):
        known = whole(number)[:, 0]
        assert set(known.tolist()) == {0.0, 1.0}
        assert known.mean() > 0.5
        assert not known[:17].any()


@given(numbers, st.integers(1, 3_000))
@settings(deadline=None, max_examples=40)
def test_a_prefix_has_exactly_the_orbit_features_of_the_whole_track(number: int, cut: int) -> None:
    flight = flights()[number]
    np.testing.assert_array_equal(orbit_of(flight[:cut]), whole(number)[:cut])


@given(numbers, st.integers(1, 3_000), st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_padding_does_not_change_the_orbit_features(number: int, cut: int, padding: int) -> None:
    flight = flights()[number][:cut]
    padded = orbit_of(np.concatenate([flight, np.repeat(flight[-1:], padding, axis=0)]))
    np.testing.assert_array_equal(padded[: len(flight)], whole(number)[: len(flight)])
    np.testing.assert_array_equal(padded[len(flight) :], np.repeat(padded[len(flight) - 1 : len(flight)], padding, 0))


@pytest.mark.parametrize("number", range(10))
def test_a_stream_has_exactly_the_orbit_features_of_the_whole_track(number: int) -> None:
    stream = FeatureStream(groups=ORBIT)
    stepped = np.array([stream.step(row) for row in flights()[number]])
    np.testing.assert_array_equal(stepped[:, COLUMNS], whole(number))


def test_each_track_of_a_batch_has_the_orbit_features_of_the_single_track() -> None:
    steps = min(map(len, flights()))
    batch = orbit_of(np.stack([flight[:steps] for flight in flights()]))
    for number, features in enumerate(batch):
        np.testing.assert_array_equal(features, whole(number)[:steps])


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_live_tracks_that_start_at_different_times_have_exactly_the_features_of_whole_tracks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps, tracks = 400, len(flights())
    starts = rng.integers(0, 150, tracks)
    starts[0] = 0
    state: LiveState | None = None
    for step in range(steps):
        at = [np.clip(step - start, 0, len(flight) - 1) for flight, start in zip(flights(), starts, strict=True)]
        rows = np.array([flight[row] for flight, row in zip(flights(), at, strict=True)])
        first = step <= starts  # a track that has not started starts again at each step
        history = LiveTracks(state, None if state is None else first)
        features = next_features(list(np.ascontiguousarray(rows.T)), history, ORBIT_FEATURES)
        state = history.after
        for number in np.flatnonzero(step >= starts):
            got = np.array([features[name][number] for name in ORBIT_FEATURES], np.float32)
            if step - starts[number] < len(flights()[number]):
                np.testing.assert_array_equal(got, whole(number)[step - starts[number]])


def test_a_step_does_not_change_the_state_before_it() -> None:
    flight = flights()[2]
    history = LiveTracks(None, None)
    for row in flight[:300]:
        before = history.after if history.after.kept else None
        history = LiveTracks(before, None)
        next_features(list(row[:, None]), history, ORBIT_FEATURES)
    again = [
        next_features(list(flight[300][:, None]), LiveTracks(history.after, None), ORBIT_FEATURES) for _ in range(2)
    ]
    assert again[0] == again[1]


@pytest.mark.parametrize("groups", [(), ("robust",), ("orbit",)])
def test_features_of_a_group_are_zero_if_it_is_not_requested(groups: tuple[str, ...]) -> None:
    flight = flights()[2]
    some, every = track_features(flight, groups=frozenset(groups)), track_features(flight, groups=ALL_GROUPS)
    names = {*SIMPLE_FEATURES, *(name for group in groups for name in COSTLY_GROUPS[group])}
    np.testing.assert_array_equal(some, np.where([name in names for name in FEATURES], every, 0.0))
    assert every.any(axis=0).all()


def test_a_filter_that_diverges_knows_nothing() -> None:
    flight = flights()[0].copy()
    flight[len(flight) // 2 :, MEASUREMENT_COLUMNS.index("altitude")] = 1e300
    features = orbit.orbit_features(list(np.ascontiguousarray(flight.T)[:, None]), WholeTracks())
    assert features["orbit_known"].any()
    for values in features.values():
        assert np.isfinite(values).all()
        assert values[0, -1] == 0.0


def test_a_trace_of_the_orbit_filter_is_refused() -> None:
    columns = list(torch.zeros(len(MEASUREMENT_COLUMNS), 2, 3, dtype=torch.float64))
    with pytest.raises(ExportError, match="an ONNX graph cannot compute the orbit filter") as error:
        named_features(columns, ORBIT_FEATURES)
    assert (error.value.expected, error.value.got) == ("numpy arrays", "Tensor")
    assert "reentry_scan" in (error.value.fix or "")


def test_without_numba_only_orbit_features_fail() -> None:
    program = """
import sys
sys.modules["numba"] = None
import numpy as np
from reentry.errors import ConfigError
from reentry.features import orbit
from reentry.features.track import track_features
table = np.zeros((3, 6))
assert track_features(table).shape == (3, 24)
assert not orbit.is_available()
try:
    track_features(table, groups=frozenset({"orbit"}))
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "expected the package numba" in done.stdout
    assert "got it is not installed" in done.stdout
    assert "fix: pip install 'reentry[orbit]'" in done.stdout


def test_numba_is_imported_only_for_orbit_features() -> None:
    program = """
import sys
import numpy as np
import reentry.triton.feature_demand
from reentry.features.track import track_features
track_features(np.zeros((3, 6)))
print("numba" in sys.modules)
track_features(np.zeros((3, 6)), groups=frozenset({"orbit"}))
print("numba" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The temporary folder of a machine on which the folder of the source is not writable."""
    monkeypatch.setattr(orbit.os, "access", lambda *_: False)
    monkeypatch.setattr(orbit.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(orbit.CACHE_VARIABLE, "")
    return tmp_path


def test_compiled_code_is_kept_in_a_private_folder_if_that_of_the_source_is_read_only(read_only: Path) -> None:
    orbit._choose_cache()
    folder = Path(os.environ[orbit.CACHE_VARIABLE])
    assert folder.parent == read_only
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    os.environ[orbit.CACHE_VARIABLE] = ""
    orbit._choose_cache()  # as in another process
    assert os.environ[orbit.CACHE_VARIABLE] == str(folder)


def test_numba_keeps_compiled_code_in_the_chosen_folder(tmp_path: Path) -> None:
    program = """
from reentry.features import orbit
orbit.os.access = lambda *_: False  # as on a read-only file system
orbit.warm_up()
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path), orbit.CACHE_VARIABLE: ""}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
    assert list(tmp_path.glob(f"reentry-numba-*-{os.getuid()}/**/*continue_all*.nbc"))


def test_a_folder_that_others_can_write_to_is_not_used(read_only: Path) -> None:
    open_to_all = read_only / f"reentry-numba-{orbit._fingerprint()}-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    orbit._choose_cache()
    folder = Path(os.environ[orbit.CACHE_VARIABLE])
    assert folder != open_to_all
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["file", "dangling link", "link to a folder"])
def test_what_another_user_put_in_place_of_the_folder_is_not_used(read_only: Path, kind: str) -> None:
    taken = read_only / f"reentry-numba-{orbit._fingerprint()}-{os.getuid()}"
    if kind == "file":
        taken.touch()
    else:
        target = read_only / "elsewhere"
        taken.symlink_to(target)
        if kind == "link to a folder":
            target.mkdir(mode=0o700)
    orbit._choose_cache()
    folder = Path(os.environ[orbit.CACHE_VARIABLE])
    assert folder != taken
    assert folder.is_dir()
    assert stat.S_IMODE(folder.lstat().st_mode) == 0o700


def test_compiled_code_is_kept_beside_a_writable_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orbit.os, "access", lambda *_: True)
    monkeypatch.setenv(orbit.CACHE_VARIABLE, "")
    orbit._choose_cache()
    assert Path(os.environ[orbit.CACHE_VARIABLE]).parent == Path(orbit.__file__).parent / "__pycache__"


def test_a_chosen_folder_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(orbit.CACHE_VARIABLE, "/chosen")
    orbit._choose_cache()
    assert os.environ[orbit.CACHE_VARIABLE] == "/chosen"


def test_the_folder_of_compiled_code_changes_with_each_of_its_sources_and_the_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def folder() -> str:
        monkeypatch.setenv(orbit.CACHE_VARIABLE, "")
        orbit._choose_cache()
        return Path(os.environ[orbit.CACHE_VARIABLE]).name

    for name in orbit.COMPILED_FROM:
        (tmp_path / name).write_bytes(Path(orbit.__file__).with_name(name).read_bytes())
    present = folder()
    monkeypatch.setattr(orbit, "__file__", str(tmp_path / "orbit.py"))
    assert folder() == present
    found = {present}
    for name in orbit.COMPILED_FROM:
        with (tmp_path / name).open("a") as source:
            source.write("# changed\n")
        found.add(folder())
    monkeypatch.setattr(orbit, "version", lambda _: "0.0.1")
    found.add(folder())
    assert len(found) == len(orbit.COMPILED_FROM) + 2


def test_every_constant_of_the_filter_comes_from_a_file_that_chooses_the_folder() -> None:
    tree = ast.parse(Path(orbit_filter.__file__).read_text())
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    own = {f"{module.removeprefix('reentry.features.')}.py" for module in modules if module.startswith("reentry")}
    assert own | {"orbit_filter.py"} == set(orbit.COMPILED_FROM)


def test_a_missing_compiler_is_an_error_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orbit, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="orbit features cannot be computed") as error:
        orbit.warm_up()
    assert "numba" in (error.value.expected or "")
    assert "reentry[orbit]" in (error.value.fix or "")
