"""Command lines: arguments, the life of a run, sweeps."""
