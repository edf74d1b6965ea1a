"""Files, processes, signals, progress and configuration files."""
