"""The features of a track's steps, in one implementation for training, Triton and streaming."""
