"""The networks, and the baselines that they are compared with."""
