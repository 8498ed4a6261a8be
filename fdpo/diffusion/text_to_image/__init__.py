"""Preference training of text-to-image pipelines: Stable Diffusion 1.x, 2.x and XL."""
