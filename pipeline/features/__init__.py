"""The table `features`: its build from clean tracks, and trainings on a version of it."""
