"""The networks: features -> normalisation, magnified shares -> a causal LSTM, GRU or convolution -> one logit a step.

A share (of the highest altitude, or of the flight) takes hundreds of steps from 0 to 1, and the onset is one of them.
The network can be given two views of a share that tell neighbouring steps apart:

- Magnified: clip((share - centre) / width, -1, 1), where the centre is the share at the onsets of the training split.
  It is flat away from the onset, so neither the pace of a flight nor its sampling rate changes what the network sees
  there. The smallest width resolves the 4e-5 of `elapsed_fraction` between an onset and the step before it.
- Harmonics: sines and cosines of many turns of the share, which change visibly within one step wherever the onset lies.
  (Fourier features: Tancik et al., 2020, "Fourier Features Let Networks Learn High Frequency Functions in Low
  Dimensional Domains".)

Shapes: B tracks, T steps, F features of the schema, I inputs, H hidden units, L layers, P shares, K harmonics.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reentry.schema import FEATURES, FRACTIONS
from training.config import CONVOLUTION, GRU, LSTM, ModelConfig
from training.data.samples import dividing_values

State = tuple[Tensor, ...]
"""What a network keeps of a track's earlier steps; for the LSTM its hidden and its cell state, (L, B, H) each."""


class ReentryNetwork(nn.Module, ABC):
    """Marks reentry at each step from the steps up to it.

    Normalisation is part of the network, so whoever holds it, or its ONNX graph, feeds plain features.
    """

    mean: Tensor
    std: Tensor
    chosen: Tensor
    shares: Tensor
    turns: Tensor
    centres: Tensor
    widths: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inputs = len(config.features)
        self.register_buffer("chosen", torch.tensor([FEATURES.index(name) for name in config.features]))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        shares = [FEATURES.index(name) for name in config.features if name in FRACTIONS]
        self.register_buffer("shares", torch.tensor(shares, dtype=torch.int64))
        self.register_buffer("turns", torch.tensor(config.harmonics, dtype=torch.float32))
        self.register_buffer("centres", torch.zeros(len(shares)))
        self.register_buffer("widths", torch.tensor(config.magnified, dtype=torch.float32))
        self.build(inputs + len(shares) * (2 * len(config.harmonics) + len(config.magnified)))
        self.norm = nn.LayerNorm(config.hidden) if config.layer_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, 1)

    @abstractmethod
    def build(self, inputs: int) -> None:
        """Make the layers between the inputs and the head."""

    @abstractmethod
    def run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """(B, T, I) and where the earlier steps ended -> (B, T, H) and where these end."""

    @torch.no_grad()
    def open_forget_gates(self, bias: float) -> None:
        """Add to the biases of what forgets; where nothing does, nothing changes."""

    @torch.no_grad()
    def fit_normalisation(self, features: Tensor) -> None:
        """Take mean and standard deviation from the steps of the training split, (N, F)."""
        chosen = features[:, self.chosen].double()
        std = chosen.std(dim=0, correction=0)
        self.mean.copy_(chosen.mean(dim=0))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))  # a feature that never changes is only centred

    @torch.no_grad()
    def fit_centres(self, before: Tensor, at: Tensor) -> None:
        """Take the values around which the shares are magnified from the onsets of the training split.

        Args:
            before: (K, F), features of the step before each onset.
            at: (K, F), features of each onset.
        """
        if len(before):
            self.centres.copy_(dividing_values(before[:, self.shares], at[:, self.shares]))

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits of reentry.

        Args:
            features: (B, T, F), columns as `schema.FEATURES`.
            state: where the tracks' earlier steps ended; None at their start.

        Returns:
            (B, T), and the state after the last step.
        """
        x = (features.index_select(-1, self.chosen) - self.mean) / self.std
        shares = features.index_select(-1, self.shares).unsqueeze(-1)  # (B, T, P, 1)
        if len(self.shares) and len(self.turns):
            angles = 2 * math.pi * (shares * self.turns).flatten(-2)  # (B, T, P K)
            x = torch.cat([x, torch.sin(angles), torch.cos(angles)], dim=-1)
        if len(self.shares) and len(self.widths):
            near = torch.clamp((shares - self.centres.unsqueeze(-1)) / self.widths, -1.0, 1.0)
            x = torch.cat([x, near.flatten(-2)], dim=-1)
        # An export may hold the layers in half precision; what goes into them, up to 1e5 m, is not fit for it before.
        hidden, state = self.run(x.to(self.head.weight.dtype), state)  # (B, T, H)
        logits: Tensor = self.head(self.dropout(self.norm(hidden))).squeeze(-1)  # (B, T)
        return logits.float(), state


class ReentryLSTM(ReentryNetwork):
    """The network that is exported and served."""

    lstm: nn.LSTM

    def build(self, inputs: int) -> None:
        """Layers of LSTM."""
        self.lstm = nn.LSTM(**_recurrent(self.config, inputs))

    @torch.no_grad()
    def open_forget_gates(self, bias: float) -> None:
        """Add to the biases of the forget gates, the second quarter of each layer's."""
        for name, biases in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                biases.view(4, -1)[1] += bias

    def run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The state is hidden and cell state, (L, B, H) each."""
        hidden, state = self.lstm(x, state)
        return hidden, state


class ReentryGRU(ReentryNetwork):
    """The same with gated recurrent units (Cho et al., 2014): three quarters of an LSTM's weights, one state."""

    gru: nn.GRU

    def build(self, inputs: int) -> None:
        """Layers of GRU."""
        self.gru = nn.GRU(**_recurrent(self.config, inputs))

    def run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The state is the hidden one, (L, B, H)."""
        hidden, end = self.gru(x, state[0] if state else None)
        return hidden, (end,)


class ReentryConvolution(ReentryNetwork):
    """Causal convolutions, each of twice the reach of the one below and added to what goes past it.

    Bai et al., 2018, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling".
    """

    first: nn.Linear
    convolutions: nn.ModuleList

    def build(self, inputs: int) -> None:
        """A projection to the H channels, then L convolutions of dilation 1, 2, 4, ..."""
        config = self.config
        self.first = nn.Linear(inputs, config.hidden)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(config.hidden, config.hidden, config.kernel, dilation=2**layer) for layer in range(config.layers)
        )

    def run(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The state is, of each layer, its last inputs as far as it reaches, (B, H, (kernel - 1) * dilation)."""
        x = self.first(x).transpose(1, 2)  # (B, H, T)
        ends = []
        for layer, convolution in enumerate(self.convolutions):
            assert isinstance(convolution, nn.Conv1d)
            reach = (convolution.kernel_size[0] - 1) * convolution.dilation[0]
            # A track is taken to have stood still before its first step, as its features take it.
            before = state[layer] if state else x[..., :1].expand(-1, -1, reach)
            seen = torch.cat([before, x], dim=-1)
            ends.append(seen[..., seen.shape[-1] - reach :])
            x = x + self.dropout(F.relu(convolution(seen)))
        return x.transpose(1, 2), tuple(ends)


_NETWORKS: Final[dict[str, type[ReentryNetwork]]] = {
    LSTM: ReentryLSTM,
    GRU: ReentryGRU,
    CONVOLUTION: ReentryConvolution,
}


def network(config: ModelConfig) -> ReentryNetwork:
    """The untrained network of a configuration."""
    return _NETWORKS[config.kind](config)


def _recurrent(config: ModelConfig, inputs: int) -> dict[str, Any]:
    return {
        "input_size": inputs,
        "hidden_size": config.hidden,
        "num_layers": config.layers,
        "batch_first": True,
        "dropout": config.dropout if config.layers > 1 else 0.0,
    }
