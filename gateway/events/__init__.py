"""Live events: phase changes and alerts, from feeds to the readers of the stream."""
