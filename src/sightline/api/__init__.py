"""Sightline in Python: what ``import sightline`` offers. Each call does what the command of its name does."""
