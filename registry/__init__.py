"""Versions of a model repository: stores, manifests, labels, promotion, and the server that runs them."""
