"""Answers judged claim by claim (RLAIF-V, arXiv 2405.17220): split, ask, label, score."""
