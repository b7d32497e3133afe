"""From the method of a recipe to what makes its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sightline.loops.csr import Csr
from sightline.loops.ovip import Ovip
from sightline.loops.rlaif_v import RlaifV
from sightline.loops.self_rewarding import SelfRewarding
from sightline.loops.stages import Method
from sightline.recipes.csr import CsrSpec
from sightline.recipes.loop import AnyMethod
from sightline.recipes.ovip import OvipSpec
from sightline.recipes.rlaif_v import RlaifVSpec
from sightline.recipes.self_rewarding import SelfRewardingSpec

_BUILDERS: Final[Mapping[type[AnyMethod], Callable[[Any], Method]]] = {
    CsrSpec: lambda spec: Csr(spec=spec),
    OvipSpec: lambda spec: Ovip(spec=spec),
    RlaifVSpec: lambda spec: RlaifV(spec=spec),
    SelfRewardingSpec: lambda spec: SelfRewarding(spec=spec),
}


def build_method(spec: AnyMethod) -> Method:
    """The method that a recipe names."""
    return _BUILDERS[type(spec)](spec)
