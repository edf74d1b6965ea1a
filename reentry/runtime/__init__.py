"""What a program stands on: files, processes, signals, progress, settings."""
