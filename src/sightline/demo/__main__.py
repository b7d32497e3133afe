"""One of the processes of a demo; ``launch.py`` starts them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sightline.demo.demo import run_stages
from sightline.demo.launch import end_with_the_launcher
from sightline.errors import SightlineError


def main() -> None:
    end_with_the_launcher()
    settings = json.loads(sys.argv[1])
    try:
        run_stages(seed=settings["seed"], out=Path(settings["out"]), quick=settings["quick"])
    except SightlineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
