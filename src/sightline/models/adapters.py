"""PEFT adapters, of any kind and from anywhere: which are scored exactly, and which of them is on.

A policy is scored and sampled part by part (embeddings, decoder, LM head), and not by one call of the PEFT model. So an
adapter that sits in the layers counts, and one that acts in the PEFT model's own forward is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any, TypeGuard

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from sightline.errors import RecipeError, UnsupportedError
from sightline.models.parts import tie_copies

POLICY, START = "default", "start"
"""Names of the adapter that is trained, and of the frozen copy of it as training found it."""

_IN_LAYERS = frozenset(
    (
        *("ADALORA", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA"),
        *("GRALORA", "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS"),
        *("OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING"),
        *("TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT"),
    )
)
"""Kinds that sit in the layers, each shown to be scored as PEFT's own forward does. Of the others, some put vectors
before the prompt, some act in the PEFT model's forward (XLORA, POLY), and LILY is not loaded as it was saved."""
_BY_CALL = ("alora_invocation_tokens", "arrow_config")
"""Options of LoRA that need what PEFT's own forward passes on."""
_PLACES = ("base_model_name_or_path", "revision", "peft_version", "inference_mode", "auto_mapping")
"""Entries of an adapter's config that change no number."""


def check_kind(adapter: str) -> None:
    """Whether an adapter is applied wherever a policy is scored and sampled.

    Raises:
        RecipeError: It would be passed over.
    """
    try:
        config = PeftConfig.from_pretrained(adapter)
    except (OSError, ValueError, KeyError, TypeError):
        return  # there is none, or none that PEFT can read: loading it will say so
    except ImportError as error:  # kinds that need another package
        raise RecipeError(f"adapter {adapter} is of a kind that is not scored here ({error}). Use LoRA") from error
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    options = [name for name in _BY_CALL if getattr(config, name, None)]
    if kind in _IN_LAYERS and not options:
        return
    raise RecipeError(
        f"adapter {adapter} is of the kind {' with '.join([kind, *options])}, which does not sit in the layers alone: "
        "Sightline would score and sample without some of it. Merge it into the model and name the result as "
        "model.path, or use an adapter that does (LoRA)"
    )


def plain_linear(head: nn.Module) -> nn.Linear | None:
    """The linear layer that an LM head is now, or None where an adapter, or a quantised weight, makes it more."""
    if isinstance(head, ModulesToSaveWrapper):
        names = [] if head.disable_adapters else [n for n in head.active_adapters if n in head.modules_to_save]
        head = head.modules_to_save[names[0]] if names else head.original_module
    return head if type(head) is nn.Linear and not torch.nn.utils.parametrize.is_parametrized(head) else None


@contextmanager
def switched(model: PeftModel, adapter: str | None) -> Iterator[None]:
    """Another adapter is on, or none, and the one before again on leaving.

    PEFT's own switches also set ``requires_grad``, of all parameters of an adapter, and so would thaw what is frozen.
    What was computed inside may be differentiated outside: activations that are recomputed then are recomputed under
    the adapter that was on (:func:`recomputed_as_now`).

    Raises:
        UnsupportedError: no adapter of this name: PEFT would compute the base in silence.
    """
    if adapter is not None and adapter not in model.peft_config:
        raise UnsupportedError(f"there is no adapter {adapter!r} (there are {sorted(model.peft_config)}). Add it first")
    now = None if adapter is None else [adapter]
    with _set(model, now):
        yield


@contextmanager
def _set(model: nn.Module, active: list[str] | None) -> Iterator[None]:
    """These adapters are on (None: none), and what was on before again on leaving."""
    layers = [module for module in model.modules() if _switches(module)]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = active is None
            if active is not None:
                layer._active_adapter = active
        yield
    finally:
        for layer, (adapters, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = adapters, disabled


def _switches(module: Any) -> TypeGuard[Any]:
    return isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)


def _active(model: nn.Module) -> list[str] | None:
    """Adapters that are on, read off the first layer that has any: they are switched all together."""
    layer = next(filter(_switches, model.modules()), None)
    return None if layer is None or layer.disable_adapters else list(layer.active_adapters)


def recomputed_as_now(model: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a forward pass and of its recomputation, for ``torch.utils.checkpoint``: the latter comes with the
    backward pass, when another adapter may be on, and its activations would be those of that one."""
    return nullcontext(), _back(model, _active(model))


def as_now(model: nn.Module, part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A part of a model, computed under the adapters that are on now whenever it is called."""
    then = _active(model)

    def call(inputs: Tensor) -> Tensor:
        with _back(model, then):
            return part(inputs)

    return call


@contextmanager
def _back(model: nn.Module, then: list[str] | None) -> Iterator[None]:
    if _active(model) == then:
        yield
        return
    with _set(model, then):
        yield


def keep_reference(model: PeftModel, *, loaded: bool, in_float32: bool) -> str | None:
    """Makes sure that the model as it is now can be switched to while its adapter is trained.

    Args:
        model: with the adapter that will be trained.
        loaded: whether the adapter is another's work, and not a new one, which changes nothing yet.
        in_float32: whether trained parts were taken to float32.

    Returns:
        The adapter to switch to; None: no adapter.

    Raises:
        RecipeError: Something else is trained, or PEFT holds no second adapter of this kind.
    """
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    moving = [name for name in trained if not model.peft_config.keys() & set(name.split("."))]
    if moving:
        raise RecipeError(
            f"reference: adapter is the same model under another adapter, but {len(moving)} trained parameters "
            f"belong to none and would move with the policy (first {moving[0]}). Set reference to copy or cache"
        )
    if loaded:
        _keep_start(model)
        return START
    if in_float32:  # what lies under them too, or the reference would differ by what autocast makes of bfloat16
        for module in model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                module.original_module.float()
    return None


def _keep_start(model: PeftModel) -> None:
    """Lays a frozen copy of the adapter, as it is now, beside it."""
    try:
        unmade = lay_copy(model, POLICY, START)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise _single(model, str(error).strip().splitlines()[0]) from error
    if unmade:
        raise _single(model, f"{unmade[0]} has no second one")


def lay_copy(model: PeftModel, source: str, name: str) -> list[str]:
    """Lays a frozen copy of an adapter beside it; the names of tensors that cannot be there twice."""
    config = deepcopy(model.peft_config[source])
    if getattr(config, "init_lora_weights", True) is not True:
        config.init_lora_weights = True  # others (PiSSA, LoftQ) change the weights below, and all is overwritten here
    with others_kept(model):
        model.add_adapter(name, config)
        unmade = _copy(model, source, name)
        tie_copies(model)
        return unmade


@contextmanager
def others_kept(model: nn.Module) -> Iterator[None]:
    """What is added inside is frozen, and what was there is trained or frozen, training or not, as before."""
    flags, training = {name: p.requires_grad for name, p in model.named_parameters()}, model.training
    yield
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, False))
    model.train(training)


def _single(model: PeftModel, why: str) -> RecipeError:
    kind = model.peft_config[POLICY].peft_type
    return RecipeError(
        f"reference: adapter keeps a frozen copy of the adapter that training starts from, and an adapter like this "
        f"({kind}) is there only once ({why}). Set reference to copy or cache"
    )


@torch.no_grad()
def _copy(model: PeftModel, source: str, name: str) -> list[str]:
    """Copies all tensors of an adapter to another, those that copies of modules share under each of their names; the
    names of those that have none."""
    own = model.named_parameters(remove_duplicate=False)
    tensors = {**dict(own), **dict(model.named_buffers(remove_duplicate=False))}
    unmade = []
    for path, value in tensors.items():
        steps = path.split(".")
        if source not in steps:
            continue
        twin = tensors.get(".".join(name if step == source else step for step in steps))
        if twin is None or twin.shape != value.shape:
            unmade.append(path)
            continue
        twin.data = value.detach().clone()
    return unmade


def fingerprint(model: PeftModel, weights: str) -> str:
    """SHA-256 of an adapter as it was loaded: what its config says, and its weights.

    Args:
        model: with the adapter.
        weights: fingerprint of all parameters, the adapter's among them.
    """
    settings = {name: value for name, value in model.peft_config[POLICY].to_dict().items() if name not in _PLACES}
    told = sorted(f"{name}={sorted(map(str, v)) if isinstance(v, set) else v}" for name, v in settings.items())
    return hashlib.sha256("|".join([weights, *told]).encode()).hexdigest()
