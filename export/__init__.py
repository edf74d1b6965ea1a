"""RoundRobin a checkpoint into a verified version of the Triton model repository."""
