"""Programs for image models."""
