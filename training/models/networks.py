"""Causal networks that normalise features, pass them through an LSTM, GRU or convolution, and give one logit per step.

A fraction feature (of the highest altitude, or of the flight) changes from 0 to 1 over hundreds of steps, and the onset
is a single step. The network can get two additional views of each fraction, which separate neighbouring steps:

- Magnified: clip((fraction - centre) / width, -1, 1), where the centre is the fraction at the onsets of the training
  split. This view is constant away from the onset, so it does not depend there on speed or sampling rate. The smallest
  width resolves the difference of 4e-5 in `elapsed_fraction` between an onset and the step before it.
- Harmonics: sines and cosines of the fraction at high frequencies, which change clearly from step to step wherever the
  onset is. (Fourier features: Tancik et al., 2020, "Fourier Features Let Networks Learn High Frequency Functions in
  Low Dimensional Domains".)

A network that uses the orbit filter answers with the filter's logit, given the learned prior, where the filter has a
result (`training.models.orbit_inputs`), and alone elsewhere. docs/study.md has the figures of networks that may change
the filter's logit: they raise more false alarms, or their probabilities are wrong.

Shapes: B tracks, T steps, F features of the schema, I inputs, H hidden units, L layers, P fractions, K harmonics,
N onsets or steps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reentry.schema import FEATURES, FRACTIONS, ORBIT_FEATURES
from training.config import CONVOLUTION, GRU, LSTM, ModelConfig
from training.data.samples import dividing_values
from training.models.orbit_inputs import ORBIT_INPUTS, OrbitInputs
from training.models.orbit_prior import learned_prior

State = tuple[Tensor, ...]
"""State after a track's earlier steps. For the LSTM these are the hidden and the cell state, (L, B, H) each."""


class ReentryNetwork(nn.Module, ABC):
    """Causal network that gives the logit of reentry at each step from the steps up to it.

    Normalisation is part of the network, so callers pass unnormalised features, also to its ONNX graph.
    """

    # Buffers; checkpoints store them under these names.
    mean: Tensor
    std: Tensor
    chosen: Tensor
    """(I,) int64, indices of the features that the network uses."""
    shares: Tensor
    """(P,) int64, indices of the fraction features among them."""
    turns: Tensor
    """(K,), frequencies of the harmonics in turns per unit."""
    centres: Tensor
    widths: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inputs = len(config.features)
        self.register_buffer("chosen", torch.tensor([FEATURES.index(name) for name in config.features]))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        fractions = [FEATURES.index(name) for name in config.features if name in FRACTIONS]
        self.register_buffer("shares", torch.tensor(fractions, dtype=torch.int64))
        self.register_buffer("turns", torch.tensor(config.harmonics, dtype=torch.float32))
        self.register_buffer("centres", torch.zeros(len(fractions)))
        self.register_buffer("widths", torch.tensor(config.magnified, dtype=torch.float32))
        self.orbit = OrbitInputs() if config.uses_orbit else None
        inputs += ORBIT_INPUTS - len(ORBIT_FEATURES) if config.uses_orbit else 0
        self.build(inputs + len(fractions) * (2 * len(config.harmonics) + len(config.magnified)))
        self.norm = nn.LayerNorm(config.hidden) if config.layer_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, 1)

    @abstractmethod
    def build(self, inputs: int) -> None:
        """Create the layers between the inputs and the head."""

    @abstractmethod
    def run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Run the layers between the inputs and the head: (B, T, I) and a state to (B, T, H) and the next state."""

    @torch.no_grad()
    def open_forget_gates(self, bias: float) -> None:
        """Add a value to the biases of the forget gates; networks without forget gates do nothing."""

    @torch.no_grad()
    def fit_normalisation(self, features: Tensor) -> None:
        """Compute mean and standard deviation from steps of the training split, (N, F)."""
        chosen = features[:, self.chosen].double()
        std = chosen.std(dim=0, correction=0)
        self.mean.copy_(chosen.mean(dim=0))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))  # a constant feature is only centred

    @torch.no_grad()
    def fit_centres(self, before: Tensor, at: Tensor) -> None:
        """Compute the centres of the magnified views from the steps before and at N onsets, (N, F) each."""
        if len(before):
            self.centres.copy_(dividing_values(before[:, self.shares], at[:, self.shares]))

    @torch.no_grad()
    def fit_prior(self, settled: Tensor) -> None:
        """Learn the prior of the orbit filter from the steps some seconds after N onsets, (N, F)."""
        if self.orbit is not None:
            self.orbit.prior.copy_(torch.from_numpy(learned_prior(settled.numpy())))

    def orbit_prior(self) -> npt.NDArray[np.float64] | None:
        """Return the learned probability of each ballistic coefficient at each speed at entry.

        Returns:
            (R, G), see `reentry.features.orbit_posterior`; None if the network does not use the orbit filter.
        """
        return None if self.orbit is None else self.orbit.prior.double().numpy()

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Compute the logits of reentry.

        Args:
            features: (B, T, F), columns as in `schema.FEATURES`.
            state: state after the earlier steps; None at the start of the tracks.

        Returns:
            (B, T), and the state after the last step.
        """
        chosen, shares = (features.index_select(-1, indices).unbind(-1) for indices in (self.chosen, self.shares))
        x = torch.stack(self.inputs(chosen, shares), dim=-1)
        # An export may have half-precision layers. Unnormalised features, up to 1e5 m, do not fit into half precision.
        hidden, state = self.run(x.to(self.head.weight.dtype), state)  # (B, T, H)
        logits: Tensor = self.head(self.dropout(self.norm(hidden))).squeeze(-1)  # (B, T)
        return self.total(logits.float(), x), state

    def total(self, logits: Tensor, x: Tensor) -> Tensor:
        """Return the logit of the orbit filter where it has a result, and that of the network elsewhere.

        Args:
            logits: logits of the network, (...).
            x: its inputs, (..., I), of which the last ones are those of `OrbitInputs`.
        """
        if self.orbit is None:
            return logits
        return torch.where(x[..., -ORBIT_INPUTS] == 0.0, logits, x[..., -1])

    def inputs(self, chosen: Sequence[Tensor], fractions: Sequence[Tensor]) -> list[Tensor]:
        """Compute the inputs of the layers from single features. ONNX Runtime is fastest with one column at a time.

        Args:
            chosen: features that the network uses, I tensors (B, T).
            fractions: fraction features among them, P tensors (B, T).

        Returns:
            Normalised features, harmonics and magnified views, and the inputs from the orbit filter, (B, T) each.
        """
        # Indices rather than iterators over buffers, which a trace would keep as nodes that split constants.
        names = self.config.features
        inputs = [
            (feature - self.mean[i]) / self.std[i] for i, feature in enumerate(chosen) if names[i] not in ORBIT_FEATURES
        ]
        turns, widths = range(len(self.turns)), range(len(self.widths))
        angles = [2 * math.pi * (fraction * self.turns[k]) for fraction in fractions for k in turns]
        inputs += [torch.sin(angle) for angle in angles] + [torch.cos(angle) for angle in angles]
        for p, fraction in enumerate(fractions):
            inputs += [torch.clamp((fraction - self.centres[p]) / self.widths[k], -1.0, 1.0) for k in widths]
        if self.orbit is not None:
            inputs += self.orbit({name: chosen[names.index(name)] for name in ORBIT_FEATURES})
        return inputs


class ReentryLSTM(ReentryNetwork):
    """LSTM, the network that is exported and served."""

    lstm: nn.LSTM

    def build(self, inputs: int) -> None:
        """Create the LSTM layers."""
        self.lstm = nn.LSTM(**_recurrent(self.config, inputs))

    @torch.no_grad()
    def open_forget_gates(self, bias: float) -> None:
        """Add a value to the biases of the forget gates, the second quarter of each layer's biases."""
        for name, biases in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                biases.view(4, -1)[1] += bias

    def run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Run the LSTM; the state consists of its hidden and cell state, (L, B, H) each."""
        hidden, state = self.lstm(x, state)
        return hidden, state


class ReentryGRU(ReentryNetwork):
    """Gated recurrent units (Cho et al., 2014), which have three quarters of an LSTM's weights and a single state."""

    gru: nn.GRU

    def build(self, inputs: int) -> None:
        """Create the GRU layers."""
        self.gru = nn.GRU(**_recurrent(self.config, inputs))

    def run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Run the GRU; the state consists of its hidden state, (L, B, H)."""
        hidden, end = self.gru(x, state[0] if state else None)
        return hidden, (end,)


class ReentryConvolution(ReentryNetwork):
    """Causal convolutions with residual connections; each layer reaches twice as far back as the one below.

    Bai et al., 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling".
    """

    first: nn.Linear
    convolutions: nn.ModuleList

    def build(self, inputs: int) -> None:
        """Create a projection to H channels and L convolutions of dilation 1, 2, 4, ..."""
        config = self.config
        self.first = nn.Linear(inputs, config.hidden)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.hidden, config.hidden, config.kernel, dilation=2**layer) for layer in range(config.layers)
        )

    def run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Run the convolutions; the state has the last inputs of each layer, (B, H, (kernel - 1) * dilation)."""
        x = self.first(x).transpose(1, 2)  # (B, H, T)
        ends = []
        for layer, convolution in enumerate(self.convolutions):
            assert isinstance(convolution, nn.Conv1d)
            reach = (convolution.kernel_size[0] - 1) * convolution.dilation[0]
            # The first step is repeated before the start of a track, as in the computation of the features.
            before = state[layer] if state else x[..., :1].expand(-1, -1, reach)
            padded = torch.cat([before, x], dim=-1)
            ends.append(padded[..., padded.shape[-1] - reach :])
            x = x + self.dropout(F.relu(convolution(padded)))
        return x.transpose(1, 2), tuple(ends)


_NETWORKS: Final[dict[str, type[ReentryNetwork]]] = {
    LSTM: ReentryLSTM,
    GRU: ReentryGRU,
    CONVOLUTION: ReentryConvolution,
}


def network(config: ModelConfig) -> ReentryNetwork:
    """Create the untrained network of a configuration."""
    return _NETWORKS[config.kind](config)


def _recurrent(config: ModelConfig, inputs: int) -> dict[str, Any]:
    return {
        "input_size": inputs,
        "hidden_size": config.hidden,
        "num_layers": config.layers,
        "batch_first": True,
        "dropout": config.dropout if config.layers > 1 else 0.0,
    }
