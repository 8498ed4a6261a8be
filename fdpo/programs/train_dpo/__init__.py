"""Programs for language models."""
