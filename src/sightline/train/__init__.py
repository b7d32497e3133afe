"""Training runs. ``sightline.train(recipe)`` itself is a call: see ``sightline.api.training.train``."""

from sightline.callable_package import called_as

called_as(__name__, "sightline.api.training", "train")
