"""Simulated shots as a whole: what they fly like, their labels, their files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
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

Float64 = npt.NDArray[np.float64]

SHOTS: ShotConfig = ShotConfig()


@pytest.fixture(scope="module")
def shots() -> Shots:
    return draw_shots(SHOTS, 300, np.random.default_rng(3))


@pytest.fixture(scope="module")
def flights(shots: Shots) -> Flights:
    return fly(launch(shots), 1.0)


def starts(flights: Flights) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.diff(flights.shot, prepend=-1))


def ground_range(flights: Flights) -> Float64:
    """m over ground from the first to the last row, (K,)."""
    first = starts(flights)
    place = earth.to_turning_axes(flights.position, flights.time)
    place /= np.linalg.norm(place, axis=0)
    last = np.append(first[1:], len(flights.shot)) - 1
    cosine = np.einsum("kn,kn->n", place[:, first], place[:, last])
    return np.arccos(cosine) * earth.MEAN_RADIUS


def onset_rows(flights: Flights) -> npt.NDArray[np.int64]:
    """The first labelled row of each flight, (K,)."""
    phase = reentry_phase(flights)
    return np.flatnonzero((np.diff(phase, prepend=0) == 1) | ((np.diff(flights.shot, prepend=-1) != 0) & (phase == 1)))


def test_shots_fly_as_far_as_they_are_aimed_and_failed_ones_fall_short(shots: Shots, flights: Flights) -> None:
    share = ground_range(flights) / shots.distance
    whole = shots.thrust_ends == 1.0
    assert 10 < (~whole).sum() < 50
    assert 0.9 < share[whole].min() < share[whole].max() < 1.05
    np.testing.assert_allclose(share[~whole], shots.thrust_ends[~whole], rtol=0.35)
    assert share[~whole].max() < 0.95


def test_every_flight_ends_on_the_ground_and_no_other_row_is_below_it(flights: Flights) -> None:
    last = np.append(starts(flights)[1:], len(flights.shot)) - 1
    climb = np.einsum("kn,kn->n", flights.position, flights.velocity)[last]
    assert (climb < 0).all()
    assert flights.height[last].max() < 5_000.0
    assert flights.height.min() > -1.0


def test_lofted_shots_fly_higher_and_depressed_ones_lower_than_those_of_least_energy() -> None:
    apogees = []
    for lofted, depressed in ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0)):
        config = ShotConfig(distance=(3e6, 3e6), lofted=lofted, depressed=depressed, failed=0.0)
        flown = fly(launch(draw_shots(config, 20, np.random.default_rng(1))), 2.0)
        apogees.append(np.maximum.reduceat(flown.height, starts(flown)))
    lofted_apogees, least_energy, depressed_apogees = apogees
    assert least_energy.mean() == pytest.approx(620_000, rel=0.1)
    assert lofted_apogees.min() > least_energy.max()
    assert depressed_apogees.max() < least_energy.min()


def test_decoys_slow_down_higher_and_come_down_later(shots: Shots, flights: Flights) -> None:
    height = flights.height[onset_rows(flights)]
    assert len(height) == len(shots.decoy)
    assert shots.distance[shots.decoy].min() >= 1_500_000.0
    assert height[shots.decoy].min() > 65_000.0
    heavy = ~shots.decoy & (shots.distance >= 1_500_000.0)
    assert height[heavy].mean() < height[shots.decoy].mean() - 20_000.0


def test_the_label_begins_at_the_first_row_on_descent_that_drag_slows_by_a_tenth_of_g(
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
        speed = np.linalg.norm(velocity - earth.turning(position), axis=0)
        drag = air * speed**2 / (2.0 * shots.ballistic_coefficient[number]) / 9.80665
        descends = (position * velocity).sum(axis=0) < 0.0
        onset = int(np.argmax(phase[rows]))
        assert (np.diff(phase[rows]) >= 0).all()
        assert phase[rows][-1] == 1
        assert descends[onset]
        assert drag[onset] > 0.099
        assert not (descends & ~flights.boosting[rows] & (drag > 0.101))[:onset].any()
        assert (drag[~descends] > 0.1).any() or shots.ballistic_coefficient[number] > 10_000.0


def test_the_plume_outshines_a_body_that_cools_and_is_heated_by_the_air(shots: Shots, flights: Flights) -> None:
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
        velocity = earth.turning(flights.position) * (1.0 - speed_factor) + speed_factor * flights.velocity
        chosen = Flights(
            shot=np.zeros(3, dtype=np.int64),
            time=flights.time[rows] + 1e9,  # long cold
            position=flights.position[:, rows],
            velocity=velocity[:, rows],
            drag=flights.drag[rows],
            boosting=flights.boosting[rows],
            height=flights.height[rows],
        )
        return brightness(chosen, one) / one.brightness - ballistic.AMBIENT

    np.testing.assert_allclose(heat(2.0), 8.0 * heat(1.0), rtol=1e-9)


@pytest.mark.parametrize("severity", range(len(SEVERITIES)))
def test_a_simulated_file_reads_back_without_a_track_set_aside(tmp_path: Path, severity: int) -> None:
    path = tmp_path / "hard.parquet"
    rows = simulate_file(path, profile="ballistic", tracks=60, seed=severity, severity=severity)
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


def test_the_same_seed_gives_the_same_tracks_and_another_one_others() -> None:
    config = BallisticConfig(tracks=5, seed=4, sensors=of_severity(2))
    first = simulate_ballistic(config)
    pd.testing.assert_frame_equal(first, simulate_ballistic(config))
    assert not first.equals(simulate_ballistic(replace(config, seed=5)))


def test_without_labels_the_measurements_are_the_same() -> None:
    config = BallisticConfig(tracks=3, sensors=of_severity(1))
    unlabelled = simulate_ballistic(replace(config, labels=False))
    pd.testing.assert_frame_equal(unlabelled, simulate_ballistic(config).drop(columns="reentry_phase"))


def test_several_processes_give_the_rows_of_one_in_whole_tracks() -> None:
    config = BallisticConfig(tracks=TRACKS_PER_CHUNK + 2, step=10.0, shots=ShotConfig(distance=(3e5, 3e5)))
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


def test_an_error_in_a_process_is_the_caller_s_and_a_killed_one_is_a_clear_line() -> None:
    with pytest.raises(ConfigError, match="refused; got 0"):
        list(in_order(refused, 4, 2))
    with pytest.raises(ReentryError, match=r"ended; got exit status -9; fix: .*--processes 1"):
        list(in_order(killed, 4, 2))


def gone(group: int) -> bool:
    """Whether a group of processes ends, as the system takes the last one away."""
    until = time.monotonic() + 30.0
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        os.sched_yield()
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_file_and_no_process(tmp_path: Path, number: signal.Signals) -> None:
    quick, out = tmp_path / "quick.toml", tmp_path / "out"
    quick.write_text("[ballistic]\nstep = 10\n[shots]\ndistance = [300_000, 300_000]\n")
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
        while not list(out.iterdir()):  # until the first chunk is there to write
            assert run.poll() is None
            os.sched_yield()
        os.killpg(run.pid, number)
        assert run.stderr is not None
        errors = run.stderr.read()  # ends when no process holds it
    assert run.returncode == 130
    assert "Traceback" not in errors
    assert list(out.iterdir()) == []
    assert gone(run.pid)


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        ("tracks", 0, "tracks out of range; expected at least 1; got 0"),
        ("seed", -1, "seed out of range"),
        ("step", 0.0, "step out of range; expected 0.05 to 10 s"),
        ("step", 10.1, "step out of range"),
        ("step", float("nan"), "step out of range"),
        ("first_launch", -1.0, "first_launch out of range"),
        ("launch_interval", 1e11, "launch_interval out of range"),
    ],
)
def test_a_setting_out_of_its_range_is_named(knob: str, value: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(BallisticConfig(), **{knob: value})


@pytest.mark.parametrize(
    ("knob", "value", "message"),
    [
        (
            "distance",
            (5e4, 1e6),
            "distance out of range; expected 100000 <= low .*; got 50000, 1e",
        ),
        ("distance", (2e6, 1e6), "distance out of range"),
        ("latitude", (-91.0, 0.0), "latitude out of range"),
        ("lofted", 0.8, "lofted and depressed out of range; expected 1 at most together; got 1.05"),
        ("failed", -0.1, "failed out of range; expected a share, 0 to 1; got -0.1"),
        ("decoys", float("nan"), "decoys out of range"),
        ("decoy_coefficient", (0.0, 100.0), "decoy_coefficient out of range"),
    ],
)
def test_a_range_of_shots_that_cannot_be_is_named(knob: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SHOTS, **{knob: value})
