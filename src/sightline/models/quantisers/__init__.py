"""Programs that quantise a model folder, run by path: by this interpreter, or by that of another environment.

They import nothing of Sightline, which is not installed where they run.
"""
