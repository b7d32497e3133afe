"""Sightline: align vision-language models so that they say what is in the picture."""

__version__ = "0.1.0"
