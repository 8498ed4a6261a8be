"""Fault bench of the programs."""
