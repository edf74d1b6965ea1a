"""The networks: causal, with normalisation inside."""

from __future__ import annotations

import pytest
import torch

from reentry.errors import ConfigError
from reentry.schema import FEATURES, FRACTIONS, ORBIT_FEATURES
from training.config import KINDS, ModelConfig
from training.models.networks import ReentryConvolution, ReentryGRU, ReentryLSTM, ReentryNetwork
from training.models.networks import network as untrained

SHAPES = [
    {},
    {"layers": 2, "dropout": 0.2},
    {"layer_norm": True, "hidden": 5, "features": FEATURES},
    {"features": ("altitude", *ORBIT_FEATURES), "magnified": ()},
    {"kind": "gru", "layers": 2},
    {"kind": "convolution"},
    {"kind": "convolution", "layers": 4, "kernel": 4, "dropout": 0.2, "features": FEATURES},
]


def network(**shape: object) -> ReentryNetwork:
    torch.manual_seed(1)
    model = untrained(ModelConfig(**shape)).eval()  # type: ignore[arg-type]
    model.fit_normalisation(tracks(1, 500)[0])
    return model


def tracks(count: int, steps: int) -> torch.Tensor:
    scale = torch.logspace(-1, 5, len(FEATURES))
    return torch.randn(count, steps, len(FEATURES), generator=torch.Generator().manual_seed(steps)) * scale + scale


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_prefix_gives_the_same_logits_as_the_whole_track(shape: dict[str, object]) -> None:
    model, track = network(**shape), tracks(1, 60)
    whole, _ = model(track)
    for steps in (1, 2, 17, 59):
        prefix, _ = model(track[:, :steps])
        torch.testing.assert_close(prefix, whole[:, :steps], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_single_steps_with_the_state_give_the_same_logits_as_the_whole_track(shape: dict[str, object]) -> None:
    model, track = network(**shape), tracks(2, 40)
    whole, end = model(track)
    state, steps = None, []
    for t in range(track.shape[1]):
        logit, state = model(track[:, t : t + 1], state)
        steps.append(logit)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-6)
    assert state is not None
    for found, expected in zip(state, end, strict=True):
        # The terms of a sum in the state may be large, and their order depends on the processor.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * max(1.0, float(expected.abs().max())))


@torch.no_grad()
def test_padding_and_other_tracks_of_a_batch_do_not_change_the_logits() -> None:
    model, short, long = network(), tracks(1, 20), tracks(1, 50)
    alone, _ = model(short)
    padded = torch.cat([short, torch.full((1, 30, len(FEATURES)), 1e6)], dim=1)
    together, _ = model(torch.cat([long, padded]))
    torch.testing.assert_close(together[1:, :20], alone, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_forget_bias_changes_the_forget_gates_alone() -> None:
    model = network(hidden=3, layers=2)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    model.open_forget_gates(1.5)
    for name, weights in model.state_dict().items():
        added = torch.zeros_like(before[name])
        if name in ("lstm.bias_ih_l0", "lstm.bias_ih_l1"):
            added[3:6] = 1.5  # PyTorch's order: input, forget, cell, output
        torch.testing.assert_close(weights, before[name] + added)
    other = network(kind="gru")
    before = {name: weights.clone() for name, weights in other.state_dict().items()}
    other.open_forget_gates(1.5)
    assert all(torch.equal(weights, before[name]) for name, weights in other.state_dict().items())


@torch.no_grad()
def test_a_step_depends_on_the_steps_before_it() -> None:
    model, track = network(), tracks(1, 30)
    other = track.clone()
    other[:, 0] += 1000.0
    assert (model(track)[0][:, 5] - model(other)[0][:, 5]).abs().item() > 1e-6


@torch.no_grad()
def test_normalisation_removes_the_scale_of_a_feature() -> None:
    model, track = network(magnified=()), tracks(1, 300)  # magnified views depend on the fraction itself
    model.fit_normalisation(track[0])
    before, _ = model(track)
    model.fit_normalisation(track[0] * 1000.0 + 7.0)
    after, _ = model(track * 1000.0 + 7.0)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3)


@torch.no_grad()
def test_normalisation_uses_mean_and_standard_deviation_of_the_chosen_features() -> None:
    model = ReentryLSTM(ModelConfig(features=("climb_rate", "altitude")))
    steps = torch.zeros(4, len(FEATURES))
    steps[:, FEATURES.index("climb_rate")] = torch.tensor([1.0, 3.0, 1.0, 3.0])
    steps[:, FEATURES.index("altitude")] = 5.0
    model.fit_normalisation(steps)
    assert model.mean.tolist() == [2.0, 5.0]
    assert model.std.tolist() == [1.0, 1.0]  # a constant feature is not divided by its zero deviation


@torch.no_grad()
def test_features_that_are_not_chosen_do_not_change_the_logits() -> None:
    model, track = network(features=("altitude_fraction",)), tracks(1, 20)
    before, _ = model(track)
    for index, name in enumerate(FEATURES):
        changed = track.clone()
        changed[..., index] += 10.0
        same = bool(torch.equal(model(changed)[0], before))
        assert same == (name != "altitude_fraction")


@torch.no_grad()
def test_harmonics_separate_the_fractions_of_neighbouring_steps() -> None:
    """One step of a 360-step descent changes a harmonic of 16 turns by 0.28 rad and the fraction itself by 0.003."""
    model = network(features=("altitude_fraction",), harmonics=(16,), magnified=())
    assert isinstance(model, ReentryLSTM)
    seen = []
    model.lstm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    pair = torch.zeros(1, 2, len(FEATURES))
    pair[0, :, FEATURES.index("altitude_fraction")] = torch.tensor([0.5, 0.5 + 1 / 360])
    model(pair)
    assert seen[0].shape == (1, 2, 3)  # the fraction, its sine, its cosine
    turn = 2 * torch.pi * 16 / 360
    torch.testing.assert_close(seen[0][0, :, 1], torch.sin(torch.tensor([0.0, turn])), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[0][0, :, 2], torch.cos(torch.tensor([0.0, turn])), rtol=0, atol=1e-4)


def test_only_fraction_features_get_harmonics_and_magnified_views() -> None:
    for features, inputs in ((("climb_rate",), 1), (FRACTIONS, len(FRACTIONS) * (1 + 2 * 2 + 3))):
        model = network(features=features, harmonics=(8, 16), magnified=(0.1, 0.01, 0.001))
        assert isinstance(model, ReentryLSTM)
        assert model.lstm.input_size == inputs


@torch.no_grad()
def test_a_fraction_is_magnified_around_the_middle_between_onsets_and_the_steps_before_them() -> None:
    model = network(features=("altitude_fraction", "elapsed_fraction"), magnified=(0.01,))
    assert isinstance(model, ReentryLSTM)
    seen = []
    model.lstm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    falling, rising = (FEATURES.index(name) for name in ("altitude_fraction", "elapsed_fraction"))
    before, at = torch.zeros(2, len(FEATURES)), torch.zeros(2, len(FEATURES))
    before[:, falling], at[:, falling] = torch.tensor([0.54, 0.51]), torch.tensor([0.50, 0.49])
    before[:, rising], at[:, rising] = torch.tensor([0.83, 0.86]), torch.tensor([0.84, 0.87])
    model.fit_centres(before, at)
    # Values between 0.50 and 0.51 separate the first fraction. No value separates 0.86 before from 0.84 at an onset.
    torch.testing.assert_close(model.centres, torch.tensor([0.505, 0.85]))
    steps = torch.zeros(1, 4, len(FEATURES))
    steps[0, :, falling] = torch.tensor([1.0, 0.510, 0.503, 0.3])
    steps[0, :, rising] = torch.tensor([0.0, 0.849, 0.855, 0.9])
    model(steps)
    torch.testing.assert_close(seen[0][0, :, 2], torch.tensor([1.0, 0.5, -0.2, -1.0]), rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[0][0, :, 3], torch.tensor([-1.0, -0.1, 0.5, 1.0]), rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_centres_do_not_change_without_an_onset() -> None:
    model = network(features=("altitude_fraction",))
    model.fit_centres(torch.empty(0, len(FEATURES)), torch.empty(0, len(FEATURES)))
    assert model.centres.tolist() == [0.0]


def test_each_kind_creates_its_own_network() -> None:
    networks = [type(network(kind=kind)) for kind in KINDS]
    assert networks == [ReentryLSTM, ReentryGRU, ReentryConvolution]


@torch.no_grad()
def test_the_reach_of_a_convolution_follows_from_its_layers() -> None:
    """Three layers with a kernel of four reach 1 + 3 * (1 + 2 + 4) = 22 steps, which includes the current one."""
    model = network(kind="convolution", layers=3, kernel=4, harmonics=())
    track = tracks(1, 60)
    before, _ = model(track)
    changed = track.clone()
    changed[:, 30] += 1e4
    moved = torch.nonzero((model(changed)[0] - before).abs()[0] > 1e-7)[:, 0]
    assert moved.min() == 30
    assert moved.max() == 30 + 22 - 1


@torch.no_grad()
def test_a_track_shorter_than_the_reach_of_a_convolution_gets_finite_logits() -> None:
    logits, _ = network(kind="convolution", layers=6)(tracks(2, 3))
    assert logits.shape == (2, 3)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden": 0},
        {"layers": 0},
        {"dropout": 1.0},
        {"features": ("colour",)},
        {"features": ()},
        {"harmonics": (0,)},
        {"harmonics": (4, 4)},
        {"magnified": (0.0,)},
        {"magnified": (0.1, 0.1)},
        {"kind": "transformer"},
        {"kernel": 1},
        {"kind": "convolution", "layers": 17},
    ],
)
def test_a_model_setting_out_of_range_is_rejected(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig(**wrong)  # type: ignore[arg-type]
    assert error.value.expected
