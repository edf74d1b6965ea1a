"""Trains the causal LSTM, compares it with the baselines and reports the figures."""
