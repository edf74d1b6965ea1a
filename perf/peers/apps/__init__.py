"""The compared servers' programs, one file per framework. Each runs in the virtual environment of its framework."""
