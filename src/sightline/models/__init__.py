"""Model families, layouts and the policy: everything that knows what a VLM looks like inside."""

import logging

from sightline.models._torchvision import ensure_torchvision

ensure_torchvision()
# PEFT imports bitsandbytes wherever it is installed, and on a CPU that one then misses a kernel that it would download
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
