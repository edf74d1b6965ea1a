"""The KServe protocol, version 2: requests, answers, and what Triton says about its models."""
