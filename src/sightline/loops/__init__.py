"""Rounds in which a model learns from what it said itself: ``sightline loop``."""
