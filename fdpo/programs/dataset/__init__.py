"""Programs that make preference data and scorers."""
