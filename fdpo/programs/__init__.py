"""Programs: a main each, and presets for published set-ups."""
