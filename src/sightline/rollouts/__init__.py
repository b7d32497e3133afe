"""Sampling answers from the policy."""
