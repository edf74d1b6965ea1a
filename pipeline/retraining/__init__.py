"""Retraining, and the gate that compares a new model with the one in production."""
