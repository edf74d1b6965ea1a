"""The network: features -> normalisation -> causal LSTM -> one logit a step.

Shapes: B tracks, T steps, F features of the schema, H hidden units, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from reentry.schema import FEATURES
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

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        inputs = len(config.features)
        self.register_buffer("chosen", torch.tensor([FEATURES.index(name) for name in config.features]))
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.lstm = nn.LSTM(
            inputs,
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
        x = (features.index_select(-1, self.chosen) - self.mean) / self.std  # (B, T, inputs)
        hidden, state = self.lstm(x, state)  # (B, T, H)
        logits: Tensor = self.head(self.dropout(self.norm(hidden))).squeeze(-1)  # (B, T)
        return logits, state
