"""Features of track steps, in one implementation for training, Triton and live streams."""
