"""The main job on one machine: ``sightline demo``."""

from sightline.demo.demo import run_demo

__all__ = ["run_demo"]
