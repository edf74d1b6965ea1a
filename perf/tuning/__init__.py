"""Search for the settings of a model and of its clients that score the most tracks on this machine."""
