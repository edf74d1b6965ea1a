"""Reasons of a retraining."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a model is trained again."""

    SCHEDULE = "schedule"
    DATA = "data"
    DRIFT = "drift"
