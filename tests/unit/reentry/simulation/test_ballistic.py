"""Flights of the ballistic profile: trajectories, labels, brightness and files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pymsis
import pytest

from reentry.errors import ConfigError, ReentryError
from reentry.runtime.pool import in_order
from reentry.simulation import (
    SEVERITIES,
    BallisticConfig,
    ShotConfig,
    ballistic,
    ballistic_chunks,
    earth,
    of_severity,
    simulate_ballistic,
    simulate_file,
)
from reentry.simulation.ballistic import TRACKS_PER_CHUNK, brightness, reentry_phase
from reentry.simulation.flight import Flights, fly, launch
from reentry.simulation.shots import Shots, draw_shots
from reentry.tracks import read_tracks
from tests.flights import fly_once

Float64 = npt.NDArray[np.float64]

SHOTS: ShotConfig = ShotConfig()

SHORT: ShotConfig = ShotConfig(distance=(1e5, 3e5))
"""Shots that land within minutes, for tests in which the flights do not matter."""


@pytest.fixture(scope="module")
def shots() -> Shots:
    return draw_shots(SHOTS, 300, np.random.default_rng(3))


@pytest.fixture(scope="module")
def flights(shots: Shots) -> Flights:
    return fly(launch(shots), 1.0)


def starts(flights: Flights) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.diff(flights.shot, prepend=-1))


def ground_range(flights: Flights) -> Float64:
    """Return the range over ground from the first to the last row of each flight, (K,), m."""
    first = starts(flights)
    direction = earth.to_ecef(flights.position, flights.time)
    direction /= np.linalg.norm(direction, axis=0)
    last = np.append(first[1:], len(flights.shot)) - 1
    cosine = np.einsum("kn,kn->n", direction[:, first], direction[:, last])
    return np.arccos(cosine) * earth.MEAN_RADIUS


def onset_rows(flights: Flights) -> npt.NDArray[np.int64]:
    """Return the first row of each flight that is labelled 1, (K,)."""
    phase = reentry_phase(flights)
    return np.flatnonzero((np.diff(phase, prepend=0) == 1) | ((np.diff(flights.shot, prepend=-1) != 0) & (phase == 1)))


def test_shots_reach_their_intended_range_and_failed_ones_fall_short(shots: Shots, flights: Flights) -> None:
    share = ground_range(flights) / shots.distance
    complete = shots.thrust_ends == 1.0
    assert 10 < (~complete).sum() < 50
    assert 0.9 < share[complete].min() < share[complete].max() < 1.05
    np.testing.assert_allclose(share[~complete], shots.thrust_ends[~complete], rtol=0.35)
    assert share[~complete].max() < 0.95


def test_every_flight_descends_to_the_ground_and_no_row_is_below_it(flights: Flights) -> None:
    last = np.append(starts(flights)[1:], len(flights.shot)) - 1
    climb = np.einsum("kn,kn->n", flights.position, flights.velocity)[last]
    assert (climb < 0).all()
    assert flights.height[last].max() < 5_000.0
    assert flights.height.min() > -1.0


def test_lofted_shots_fly_higher_and_depressed_ones_lower_than_minimum_energy_ones() -> None:
    drawn = [
        draw_shots(
            ShotConfig(distance=(3e6, 3e6), lofted=lofted, depressed=depressed, failed=0.0),
            20,
            np.random.default_rng(1),
        )
        for lofted, depressed in ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0))
    ]
    together = {field.name: np.concatenate([getattr(shots, field.name) for shots in drawn]) for field in fields(Shots)}
    flown = fly(launch(Shots(**together)), 2.0)
    apogees = np.maximum.reduceat(flown.height, starts(flown))
    lofted_apogees, least_energy, depressed_apogees = apogees.reshape(3, 20)
    assert least_energy.mean() == pytest.approx(620_000, rel=0.1)
    assert lofted_apogees.min() > least_energy.max()
    assert depressed_apogees.max() < least_energy.min()


def test_decoys_begin_reentry_at_higher_altitudes(shots: Shots, flights: Flights) -> None:
    height = flights.height[onset_rows(flights)]
    assert len(height) == len(shots.decoy)
    assert shots.distance[shots.decoy].min() >= 1_500_000.0
    assert height[shots.decoy].min() > 65_000.0
    heavy = ~shots.decoy & (shots.distance >= 1_500_000.0)
    assert height[heavy].mean() < height[shots.decoy].mean() - 20_000.0


def test_the_label_begins_at_the_first_descending_row_with_drag_above_a_tenth_of_g(
    shots: Shots, flights: Flights
) -> None:
    phase = reentry_phase(flights)
    for number, (begin, end) in enumerate(zip(starts(flights), [*starts(flights)[1:], len(phase)], strict=True)):
        if number % 10:
            continue
        rows = slice(begin, end)
        position, velocity = flights.position[:, rows], flights.velocity[:, rows]
        air = pymsis.calculate(
            np.datetime64("2020-03-20T12:00"), 0.0, 45.0, flights.height[rows] / 1e3, 150.0, 150.0, [[4.0] * 7]
        )[..., pymsis.Variable.MASS_DENSITY].ravel()
        speed = np.linalg.norm(velocity - earth.rotation_velocity(position), axis=0)
        drag = air * speed**2 / (2.0 * shots.ballistic_coefficient[number]) / 9.80665
        descends = (position * velocity).sum(axis=0) < 0.0
        onset = int(np.argmax(phase[rows]))
        assert (np.diff(phase[rows]) >= 0).all()
        assert phase[rows][-1] == 1
        assert descends[onset]
        assert drag[onset] > 0.099
        assert not (descends & ~flights.boosting[rows] & (drag > 0.101))[:onset].any()
        assert (drag[~descends] > 0.1).any() or shots.ballistic_coefficient[number] > 10_000.0


def test_the_plume_is_brighter_than_a_body_that_cools_and_is_then_heated_by_the_air(
    shots: Shots, flights: Flights
) -> None:
    shine = brightness(flights, shots)
    phase = reentry_phase(flights)
    boost, coast = flights.boosting, ~flights.boosting & (flights.height > 250_000.0)
    climbs = np.einsum("kn,kn->n", flights.position, flights.velocity) > 0.0
    assert shine[boost].min() >= ballistic.PLUME
    assert shine[coast].max() < ballistic.PLUME / 100.0
    for shot in np.flatnonzero(~shots.decoy & (shots.distance > 2e6) & (shots.thrust_ends == 1.0))[:20]:
        of_shot = flights.shot == shot
        assert (np.diff(shine[of_shot & coast & climbs]) < 0.0).all()
        assert shine[of_shot & (phase == 1)].max() > 10.0 * shine[of_shot & coast].max()


def test_the_heat_grows_with_the_root_of_the_density_and_the_cube_of_the_speed(shots: Shots, flights: Flights) -> None:
    one = shots.take(np.zeros(1, dtype=np.int64))
    rows = np.flatnonzero((flights.shot == 0) & ~flights.boosting)[-3:]

    def heat(speed_factor: float) -> Float64:
        velocity = earth.rotation_velocity(flights.position) * (1.0 - speed_factor) + speed_factor * flights.velocity
        chosen = Flights(
            shot=np.zeros(3, dtype=np.int64),
            time=flights.time[rows] + 1e9,  # cooled down completely
            position=flights.position[:, rows],
            velocity=velocity[:, rows],
            drag=flights.drag[rows],
            boosting=flights.boosting[rows],
            height=flights.height[rows],
        )
        return brightness(chosen, one) / one.brightness - ballistic.AMBIENT

    np.testing.assert_allclose(heat(2.0), 8.0 * heat(1.0), rtol=1e-9)


@pytest.mark.parametrize("severity", range(len(SEVERITIES)))
def test_a_simulated_file_is_read_back_with_no_track_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, severity: int
) -> None:
    monkeypatch.setattr(ballistic, "fly", fly_once)  # a severity changes the sensors, not the flights
    path = tmp_path / "hard.parquet"
    rows = simulate_file(path, profile="ballistic", tracks=60, seed=0, severity=severity)
    with read_tracks(path, labelled=True) as file:
        tracks = list(file)
        report = file.report
    assert report.rows == rows
    assert (report.faults, report.set_aside) == ([], [])
    assert [track.track_id for track in tracks] == list(range(60))
    assert bool(report.repairs) == (severity > 0)
    for track in tracks:
        assert track.reentry_phase is not None
        assert (track.reentry_phase[0], track.reentry_phase[-1]) == (0, 1)


def test_only_the_same_seed_gives_the_same_tracks() -> None:
    config = BallisticConfig(tracks=5, seed=4, shots=SHORT, sensors=of_severity(2))
    first = simulate_ballistic(config)
    pd.testing.assert_frame_equal(first, simulate_ballistic(config))
    assert not first.equals(simulate_ballistic(replace(config, seed=5)))


def test_omitting_labels_keeps_the_measurements() -> None:
    config = BallisticConfig(tracks=3, shots=SHORT, sensors=of_severity(1))
    unlabelled = simulate_ballistic(replace(config, labels=False))
    pd.testing.assert_frame_equal(unlabelled, simulate_ballistic(config).drop(columns="reentry_phase"))


def test_several_processes_give_the_same_rows_as_one_process() -> None:
    config = BallisticConfig(tracks=TRACKS_PER_CHUNK + 2, step=10.0, shots=ShotConfig(distance=(1e5, 1e5)))
    chunks = list(ballistic_chunks(config, processes=2))
    assert [chunk["track_id"].nunique() for chunk in chunks] == [TRACKS_PER_CHUNK, 2]
    pd.testing.assert_frame_equal(pd.concat(chunks, ignore_index=True), simulate_ballistic(config))
    first = simulate_ballistic(replace(config, tracks=TRACKS_PER_CHUNK))
    pd.testing.assert_frame_equal(chunks[0], first)


def refused(number: int) -> pd.DataFrame:
    raise ConfigError("refused", got=str(number))


def killed(number: int) -> pd.DataFrame:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(number)


def test_the_caller_receives_the_error_of_a_failed_or_killed_process() -> None:
    with pytest.raises(ConfigError, match="refused") as config_error:
        list(in_order(refused, 4, 2))
    assert config_error.value.got == "0"
    with pytest.raises(ReentryError, match="process") as error:
        list(in_order(killed, 4, 2))
    assert error.value.got == "exit status -9"
    assert "--processes 1" in (error.value.fix or "")


def has_ended(group: int) -> bool:
    """Wait until the last process of a group has ended; return False if one is left after 60 s."""
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_file_and_no_process(tmp_path: Path, number: signal.Signals) -> None:
    quick, out = tmp_path / "quick.toml", tmp_path / "out"
    quick.write_text("[ballistic]\nstep = 10\n[shots]\ndistance = [100_000, 100_000]\n")
    out.mkdir()
    program = [
        str(Path(sys.executable).with_name("reentry")),
        "simulate",
        str(out / "x.parquet"),
        "--config",
        str(quick),
    ]
    program += ["--profile", "ballistic", "--tracks", "1000000", "--processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(program, stderr=subprocess.PIPE, env=environment, text=True, start_new_session=True) as run:
        while not list(out.iterdir()):  # wait until the first chunk is being written
            assert run.poll() is None
            time.sleep(0.01)
        os.killpg(run.pid, number)
        assert run.stderr is not None
        errors = run.stderr.read()  # returns when every process has closed it
    assert run.returncode == 130
    assert "Traceback" not in errors
    assert list(out.iterdir()) == []
    assert has_ended(run.pid)


@pytest.mark.parametrize(
    ("name", "value", "expected", "got"),
    [
        ("tracks", 0, "at least 1", "0"),
        ("seed", -1, "at least 0", "-1"),
        ("step", 0.0, "0.05 to 10 s", "0.0"),
        ("step", 10.1, "0.05 to 10 s", "10.1"),
        ("step", float("nan"), "0.05 to 10 s", "nan"),
        ("first_launch", -1.0, "at least 0 s", "-1.0"),
        ("launch_interval", 1e11, "at least 0 s", "1"),
    ],
)
def test_a_setting_out_of_range_is_reported_by_name(name: str, value: float, expected: str, got: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} out of range") as error:
        replace(BallisticConfig(), **{name: value})
    assert re.match(expected, error.value.expected or "")
    assert re.match(got, error.value.got or "")


@pytest.mark.parametrize(
    ("setting", "value", "name", "expected", "got"),
    [
        ("distance", (5e4, 1e6), "distance", "100000 <= low ", "50000, 1e"),
        ("distance", (2e6, 1e6), "distance", "", ""),
        ("latitude", (-91.0, 0.0), "latitude", "", ""),
        ("lofted", 0.8, "lofted and depressed", "a sum of at most 1", "1.05"),
        ("failed", -0.1, "failed", "0 to 1", "-0.1"),
        ("decoys", float("nan"), "decoys", "0 to 1", "nan"),
        ("decoy_coefficient", (0.0, 100.0), "decoy_coefficient", "", ""),
    ],
)
def test_an_invalid_shot_setting_is_reported_by_name(
    setting: str, value: object, name: str, expected: str, got: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{name} out of range") as error:
        replace(SHOTS, **{setting: value})
    assert re.match(expected, error.value.expected or "")
    assert re.match(got, error.value.got or "")
