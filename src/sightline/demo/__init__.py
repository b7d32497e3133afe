"""The main job on one machine: ``sightline demo``."""

from sightline.demo.launch import run_demo

__all__ = ["run_demo"]
