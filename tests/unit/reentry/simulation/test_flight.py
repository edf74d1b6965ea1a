"""Physics of simulated flights, compared with closed-form solutions and conservation laws."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pymap3d
import pymsis
import pytest

from reentry.simulation import atmosphere, earth, flight
from reentry.simulation.flight import Bodies, Flights, fly, impact_point
from reentry.simulation.shots import Shots

Float64 = npt.NDArray[np.float64]


def bodies(position: Float64, velocity: Float64, ballistic_coefficient: float = 5_000.0) -> Bodies:
    """Return K bodies without thrust, from positions and velocities, (3, K) each."""
    count = position.shape[1]
    zero = np.zeros(count)
    return Bodies(
        number=np.arange(count),
        shots=Shots(
            latitude=zero,
            longitude=zero,
            azimuth=zero,
            distance=zero,
            elevation=zero,
            thrust_ends=zero,
            first_thrust=zero,
            exhaust_speed=zero,
            propellant=zero,
            ballistic_coefficient=np.full(count, ballistic_coefficient),
            decoy=np.zeros(count, dtype=bool),
            brightness=zero,
        ),
        position=position,
        velocity=velocity,
        plane=np.zeros((3, count)),
        launched_at=np.zeros((3, count)),
        boosting=np.zeros(count, dtype=bool),
        burnt=zero,
        stage=np.zeros(count, dtype=np.int64),
    )


def thrown(speed: Float64, elevation: Float64, latitude: float = 0.0) -> tuple[Float64, Float64]:
    """Return positions and velocities, (3, K), of bodies thrown east, 1 m above the ground, at `elevation` rad."""
    up = np.array([np.cos(latitude), 0.0, np.sin(latitude)])
    ground = np.ones(1) * (6_400_000.0 * up)[:, None]
    distance = np.linalg.norm(ground, axis=0)
    position = np.tile(up[:, None] * (distance - earth.height(ground, distance) + 1.0), len(speed))
    east = np.array([0.0, 1.0, 0.0])
    return position, speed * (np.sin(elevation) * up[:, None] + np.cos(elevation) * east[:, None])


def last_rows(flights: Flights) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.diff(flights.shot, append=-1))


def touchdown(flights: Flights) -> tuple[Float64, Float64]:
    """Return the position (3, K) and time (K,) of impact, extrapolated linearly from the last row."""
    last = last_rows(flights)
    position, velocity = flights.position[:, last], flights.velocity[:, last]
    climb = np.einsum("kn,kn->n", position, velocity) / np.linalg.norm(position, axis=0)
    remaining = flights.height[last] / -climb
    return position + remaining * velocity, flights.time[last] + remaining


@pytest.fixture
def vacuum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight, "density", np.zeros_like)


@pytest.fixture
def still_sphere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("J2", "ROTATION", "FLATTENING"):
        monkeypatch.setattr(earth, name, 0.0)


SPEED = np.array([1_500.0, 3_000.0, 5_000.0, 6_500.0, 7_000.0])
ELEVATION = np.array([0.8, 1.2, 0.7, 0.5, 0.35])


def test_a_flight_in_vacuum_has_the_apogee_and_range_of_its_kepler_orbit(vacuum: None, still_sphere: None) -> None:
    flights = fly(bodies(*thrown(SPEED, ELEVATION)), 1.0)
    start = earth.EQUATOR + 1.0
    size = 1.0 / (2.0 / start - SPEED**2 / earth.MU)
    parameter = (start * SPEED * np.cos(ELEVATION)) ** 2 / earth.MU
    eccentricity = np.sqrt(1.0 - parameter / size)
    highest = size * (1.0 + eccentricity) - earth.EQUATOR
    reached = np.maximum.reduceat(flights.height, np.flatnonzero(np.diff(flights.shot, prepend=-1)))
    np.testing.assert_allclose(reached, highest, rtol=1e-3)

    # The ascent and the descent are symmetric about the apogee, which is at a true anomaly of 180 degrees.
    expected = 2.0 * (np.pi - np.arccos((parameter / start - 1.0) / eccentricity)) * earth.EQUATOR
    down, _ = touchdown(flights)
    flown = np.arctan2(down[1], down[0]) % (2.0 * np.pi) * earth.EQUATOR
    assert expected.min() < 300_000.0
    assert expected.max() > 7_000_000.0
    np.testing.assert_allclose(flown, expected, rtol=1e-3)


def test_the_impact_point_is_where_a_flight_in_vacuum_lands_on_the_rotating_earth(
    monkeypatch: pytest.MonkeyPatch, vacuum: None
) -> None:
    monkeypatch.setattr(earth, "J2", 0.0)
    monkeypatch.setattr(earth, "FLATTENING", 0.0)
    position, velocity = thrown(SPEED, ELEVATION, latitude=0.6)
    down, time = touchdown(fly(bodies(position, velocity), 1.0))
    ground = earth.to_ecef(down, time) / np.linalg.norm(down, axis=0)
    off = np.linalg.norm(impact_point(position, velocity, 0.0) - ground, axis=0) * earth.EQUATOR
    assert off.max() < 100.0


def test_an_orbit_that_does_not_return_has_no_impact_point() -> None:
    position, velocity = thrown(np.array([8_500.0, 11_500.0]), np.array([0.0, 1.0]))
    assert np.isnan(impact_point(position * 1.1, velocity, 0.0)).any(axis=0).all()


def test_energy_and_the_jacobi_constant_are_conserved_in_gravity_with_j2(vacuum: None) -> None:
    flights = fly(bodies(*thrown(SPEED, ELEVATION, latitude=0.7)), 1.0)
    distance = np.linalg.norm(flights.position, axis=0)
    oblate = earth.J2 * (earth.EQUATOR / distance) ** 2 * (3.0 * (flights.position[2] / distance) ** 2 - 1.0) / 2.0
    energy = 0.5 * np.linalg.norm(flights.velocity, axis=0) ** 2 - earth.MU / distance * (1.0 - oblate)
    spin = flights.position[0] * flights.velocity[1] - flights.position[1] * flights.velocity[0]
    for conserved in (energy, spin, energy - earth.ROTATION * spin):
        for shot in range(len(SPEED)):
            of_flight = conserved[flights.shot == shot]
            np.testing.assert_allclose(of_flight, of_flight[0], rtol=1e-9)


def test_gravity_equals_wgs_84_normal_gravity_at_the_pole_and_the_equator() -> None:
    polar, equatorial = earth.EQUATOR * (1.0 - earth.FLATTENING), earth.EQUATOR
    position = np.array([[equatorial, 0.0], [0.0, 0.0], [0.0, polar]])
    pull = np.linalg.norm(earth.gravity(position, np.linalg.norm(position, axis=0)), axis=0)
    # Normal gravity of WGS 84 contains the centrifugal acceleration at the equator, which is added back here.
    np.testing.assert_allclose(pull, [9.7803253 + earth.ROTATION**2 * equatorial, 9.8321849], rtol=2e-5)


def test_gravity_is_the_gradient_of_its_potential() -> None:
    place = np.array([4_000_000.0, 3_000_000.0, 4_500_000.0])

    def potential(at: Float64) -> float:
        distance = float(np.linalg.norm(at))
        oblate = earth.J2 * (earth.EQUATOR / distance) ** 2 * (3.0 * (at[2] / distance) ** 2 - 1.0) / 2.0
        return float(earth.MU / distance * (1.0 - oblate))

    slope = [(potential(place + side) - potential(place - side)) / 20.0 for side in 10.0 * np.eye(3)]
    pull = earth.gravity(place[:, None], np.array([np.linalg.norm(place)]))[:, 0]
    np.testing.assert_allclose(pull, slope, rtol=1e-6)


def error_after(step: float, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the position error, m, of steps of `step` s after 1,920 s, relative to steps of 1 s."""
    ends = []
    for substep in (step, 1.0):
        monkeypatch.setattr(flight, "SUBSTEP", substep)
        flights = fly(bodies(*thrown(np.array([7_000.0]), np.array([0.6]))), substep)
        ends.append(flights.position[:, np.flatnonzero(flights.time == 1920.0)[0]])
    return float(np.linalg.norm(ends[0] - ends[1]))


def test_the_integration_is_of_fourth_order(monkeypatch: pytest.MonkeyPatch, vacuum: None) -> None:
    coarse, fine = error_after(64.0, monkeypatch), error_after(32.0, monkeypatch)
    assert 13.0 < coarse / fine < 19.0


@pytest.mark.parametrize("ballistic_coefficient", [60.0, 1_500.0, 15_000.0])
def test_halving_the_integration_step_moves_the_steepest_descent_by_less_than_half_a_metre(
    monkeypatch: pytest.MonkeyPatch, ballistic_coefficient: float
) -> None:
    position, velocity = thrown(np.array([7_200.0]), np.array([-1.2]))
    position *= 1.0 + 150_000.0 / earth.EQUATOR
    ends = []
    for substep in (0.25, 0.125):
        monkeypatch.setattr(flight, "SUBSTEP", substep)
        ends.append(fly(bodies(position, velocity, ballistic_coefficient), 0.5))
    both = min(len(ends[0].time), len(ends[1].time))
    off = np.linalg.norm(ends[0].position[:, :both] - ends[1].position[:, :both], axis=0)
    assert both > 20
    assert off.max() < 0.5
    assert ends[0].drag.max() > 20.0 * earth.STANDARD_GRAVITY


def test_a_light_body_falls_at_its_terminal_velocity() -> None:
    position, _ = thrown(np.array([0.0]), np.array([0.0]), latitude=0.5)
    position *= 1.0 + 20_000.0 / earth.EQUATOR
    flights = fly(bodies(position, earth.rotation_velocity(position), ballistic_coefficient=100.0), 1.0)
    low = flights.height < 3_000.0
    through_air = np.linalg.norm(flights.velocity - earth.rotation_velocity(flights.position), axis=0)
    weight = earth.STANDARD_GRAVITY
    terminal = np.sqrt(2.0 * 100.0 * weight / atmosphere.density(flights.height))
    np.testing.assert_allclose(through_air[low], terminal[low], rtol=0.01)
    np.testing.assert_allclose(flights.drag[low], weight, rtol=0.03)


def test_the_interpolated_density_equals_that_of_the_atmosphere_model() -> None:
    height = np.array([500.0, 30_250.0, 71_700.0, 120_500.0, 400_300.0])
    found = pymsis.calculate(
        np.datetime64("2020-03-20T12:00"), 0.0, 45.0, height / 1e3, f107s=150.0, f107as=150.0, aps=[[4.0] * 7]
    )
    np.testing.assert_allclose(atmosphere.density(height), found[..., pymsis.Variable.MASS_DENSITY].ravel(), rtol=2e-3)
    # The U.S. Standard Atmosphere of 1976 is another model of the mean atmosphere at mid-latitudes.
    standard = {0.0: 1.225, 10_000.0: 0.4135, 30_000.0: 0.01841, 60_000.0: 3.097e-4, 80_000.0: 1.846e-5}
    np.testing.assert_allclose(atmosphere.density(np.array(list(standard))), list(standard.values()), rtol=0.25)


def test_the_density_is_constant_below_sea_level_and_above_the_table() -> None:
    edge = atmosphere.density(np.array([-5_000.0, 0.0, atmosphere.HIGHEST, 2e7]))
    assert edge[0] == edge[1]
    assert edge[2] == pytest.approx(edge[3], rel=1e-5)


def test_the_height_equals_the_geodetic_height_within_fifty_metres() -> None:
    latitude, height = np.meshgrid(np.linspace(-90.0, 90.0, 37), np.array([0.0, 5e4, 1e5, 1e6]))
    position = np.stack(pymap3d.geodetic2ecef(latitude.ravel(), np.full(latitude.size, 20.0), height.ravel()))
    found = earth.height(position, np.linalg.norm(position, axis=0))
    assert np.abs(found - height.ravel()).max() < 50.0


def test_a_point_that_rotates_with_the_earth_is_at_rest_in_earth_fixed_axes() -> None:
    position, _ = thrown(np.array([0.0]), np.array([0.0]), latitude=0.5)
    moved = (
        position + earth.rotation_velocity(position) * 1.0 - position * [[1.0], [1.0], [0.0]] * earth.ROTATION**2 / 2.0
    )
    np.testing.assert_allclose(earth.to_ecef(moved, np.ones(1)), position, atol=1e-4)
