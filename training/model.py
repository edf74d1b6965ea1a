"""The network: features -> normalisation and harmonics -> causal LSTM -> one logit a step.

A descent takes a fraction from 1 to 0 in hundreds of steps, and the onset is one of them. To tell a step from the next
by the fraction itself, the network has to magnify it a thousandfold, and the rounding of float32 with it: two correct
runtimes then differ by 5e-5 in probability. Sines and cosines of many turns of the fraction change visibly within one
step, so the network magnifies little, and runtimes agree to 2e-6. (Fourier features: Tancik et al., 2020, "Fourier
Features Let Networks Learn High Frequency Functions in Low Dimensional Domains".)

Shapes: B tracks, T steps, F features of the schema, H hidden units, L layers, P fractions, K harmonics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reentry.schema import FEATURES, FRACTIONS
from training.config import ModelConfig

State = tuple[Tensor, Tensor]
"""Hidden and cell state, (L, B, H) each."""


class ReentryLSTM(nn.Module):
    """Marks reentry at each step from the steps up to it.

    Normalisation is part of the network, so whoever holds it, or its ONNX graph, feeds plain features.
    """

    mean: Tensor
    std: Tensor
    chosen: Tensor
    fractions: Tensor
    turns: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inputs = len(config.features)
        self.register_buffer("chosen", torch.tensor([FEATURES.index(name) for name in config.features]))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        fractions = [FEATURES.index(name) for name in config.features if name in FRACTIONS]
        self.register_buffer("fractions", torch.tensor(fractions, dtype=torch.int64))
        self.register_buffer("turns", 2 * math.pi * torch.tensor(config.harmonics, dtype=torch.float32))
        self.lstm = nn.LSTM(
            inputs + 2 * len(fractions) * len(config.harmonics),
            config.hidden,
            config.layers,
            batch_first=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )
        self.norm = nn.LayerNorm(config.hidden) if config.layer_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, 1)

    @torch.no_grad()
    def fit_normalisation(self, features: Tensor) -> None:
        """Take mean and standard deviation from the steps of the training split, (N, F)."""
        chosen = features[:, self.chosen].double()
        std = chosen.std(dim=0, correction=0)
        self.mean.copy_(chosen.mean(dim=0))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0))  # a feature that never changes is only centred

    def forward(self, features: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits of reentry.

        Args:
            features: (B, T, F), columns as `schema.FEATURES`.
            state: where the tracks' earlier steps ended; None at their start.

        Returns:
            (B, T), and the state after the last step.
        """
        x = (features.index_select(-1, self.chosen) - self.mean) / self.std
        if len(self.fractions) and len(self.turns):
            angles = features.index_select(-1, self.fractions).unsqueeze(-1) * self.turns  # (B, T, P, K)
            angles = angles.flatten(-2)
            x = torch.cat([x, torch.sin(angles), torch.cos(angles)], dim=-1)  # (B, T, inputs + 2 P K)
        # An export may hold the layers in half precision; what goes into them, up to 1e5 m, is not fit for it before.
        hidden, state = self.lstm(x.to(self.head.weight.dtype), state)  # (B, T, H)
        logits: Tensor = self.head(self.dropout(self.norm(hidden))).squeeze(-1)  # (B, T)
        return logits.float(), state
