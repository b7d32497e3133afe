"""Judges, describers, image makers and reward models over HTTP."""
