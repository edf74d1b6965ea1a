"""From the body of a request to scores: reading, Triton, cache and answers."""
