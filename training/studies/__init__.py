"""Comparisons of methods and settings; none of it is needed to train or serve."""
