"""Training and evaluation of the causal LSTM, and its comparison with baselines."""
