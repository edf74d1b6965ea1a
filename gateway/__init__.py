"""Gateway in front of a Triton server: accounts, limits, jobs, an inference log and a live page."""
