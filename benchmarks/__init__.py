"""Benchmarks: the speed and the memory of fdpo beside those of its peers.

Each module is a program, ``python -m benchmarks.training`` for example, and names its command.
"""
