"""Tasks: the embedded examples, each with its data, models and report."""
