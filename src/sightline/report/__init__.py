"""Pages. ``sightline.report(run)`` itself is a call: see ``sightline.api.training.report``."""

from sightline.callable_package import called_as

called_as(__name__, "sightline.api.training", "report")
