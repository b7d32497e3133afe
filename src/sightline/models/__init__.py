"""Model families, layouts and the policy: everything that knows what a VLM looks like inside."""

from sightline.models._bitsandbytes import import_bitsandbytes_late
from sightline.models._torchvision import ensure_torchvision

ensure_torchvision()
import_bitsandbytes_late()
