"""Comparisons of methods and settings, which training and serving do not need."""
