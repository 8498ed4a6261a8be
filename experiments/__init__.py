"""The study behind results.ipynb: its sweeps, statistics, tables and figures.

``python -m experiments.results`` makes everything; each other program names its command.
"""
