"""Several adapters on one base: policy, reference, value and reward of PPO share its memory, each with an adapter of
its own that is trained or frozen apart from the others, and switched to exactly (``adapters.switched``).

>>> add_adapter(policy.model, "reference", "default", trained=False)      # doctest: +SKIP
>>> add_adapter(policy.model, "value", "runs/reward/model", trained=True)  # doctest: +SKIP
>>> with switched(policy.model, "value"):                                  # doctest: +SKIP
...     values = policy(batch, frozenset({"reward"})).reward
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn

from sightline.errors import RecipeError
from sightline.files import replace_folder
from sightline.models.adapters import POLICY, check_kind, lay_copy, others_kept, recomputed_as_now
from sightline.models.base_model import BaseModel
from sightline.models.load import checkpoint_activations
from sightline.models.parts import tie_copies
from sightline.models.weights import check_adapter


def add_adapter(
    model: PeftModel, name: str, source: str | Path, *, trained: bool, base_model: BaseModel | None = None
) -> None:
    """Lays another adapter over the same base, beside those that are there. It is off till it is switched to, and what
    is there stays as it is.

    Args:
        model: with an adapter.
        name: of the new one.
        source: folder of a PEFT adapter, or the name of one that is there, which is copied as it is now.
        trained: whether it is trained; otherwise frozen.
        base_model: what a folder's adapter must have been trained on, where the folder says so.

    Raises:
        RecipeError: a name that is taken, or an adapter that does not fit or cannot be there twice.
    """
    _check_name(model, name)
    here = str(source) in model.peft_config
    if not here:
        check_kind(str(source))
        if base_model is not None:
            base_model.check(source)
    try:
        with others_kept(model):
            unmade = lay_copy(model, str(source), name) if here else _load(model, name, str(source))
    except (KeyError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise _unfit(model, name, source, " ".join(str(error).strip().splitlines()[:2])) from error
    if unmade:
        raise _unfit(model, name, source, f"{unmade[0]} cannot be there twice")
    if not here:
        check_adapter(model, str(source), name)
    train_adapter(model, name, trained)
    base = model.get_base_model()
    if base.is_gradient_checkpointing:
        checkpoint_activations(base, partial(recomputed_as_now, base))


def train_adapter(model: PeftModel, name: str, trained: bool) -> None:
    """Thaws or freezes all of one adapter, and nothing else.

    Raises:
        RecipeError: to train copies of modules that are bfloat16, which cannot hold small steps.
    """
    own = adapter_parameters(model, name)
    low = [path for path, parameter in own.items() if parameter.dtype in (torch.bfloat16, torch.float16)]
    if trained and low:
        raise RecipeError(
            f"adapter {name} holds {low[0]} whole, and in {own[low[0]].dtype} training would lose small steps. Load "
            "the model with dtype: float32, or freeze this adapter"
        )
    for parameter in own.values():
        parameter.requires_grad_(trained)


def adapter_parameters(model: PeftModel, name: str) -> dict[str, nn.Parameter]:
    """All parameters of one adapter, by their names in the model."""
    return {path: parameter for path, parameter in model.named_parameters() if name in path.split(".")}


def save_adapter(model: PeftModel, name: str, folder: Path, base_model: BaseModel | None = None) -> None:
    """Writes one adapter into a folder that PEFT, ``model.adapter`` and :func:`add_adapter` read.

    Args:
        model: with the adapter.
        name: of the adapter.
        folder: made if need be; what had the name goes.
        base_model: what it was trained on, noted beside it.
    """

    def write(new: Path) -> None:
        model.save_pretrained(new, selected_adapters=[name])
        if name != POLICY:  # PEFT gives it a folder inside
            for file in list((new / name).iterdir()):
                file.rename(new / file.name)
            (new / name).rmdir()
        if base_model is not None:
            base_model.save(new)

    replace_folder(folder, write)


def _load(model: PeftModel, name: str, folder: str) -> list[str]:
    device = str(next(model.parameters()).device)
    model.load_adapter(folder, adapter_name=name, is_trainable=False, torch_device=device)
    tie_copies(model)
    return []


def _check_name(model: PeftModel, name: str) -> None:
    """A step of a tensor's path tells whose it is, so that no other may have it."""
    steps = {step for path, _ in model.named_parameters() for step in path.split(".")}
    if name in steps or name in model.peft_config or not name.isidentifier():
        raise RecipeError(
            f"an adapter cannot be called {name!r}: the model has a module or an adapter of this name, or it is no "
            f"word (adapters: {', '.join(model.peft_config)}). Choose another, such as {name}_role"
        )


def _unfit(model: PeftModel, name: str, source: str | Path, why: str) -> RecipeError:
    return RecipeError(
        f"adapter {source} could not be laid beside {', '.join(one for one in model.peft_config if one != name)} as "
        f"{name} ({why}). Give the folder of a PEFT adapter of their kind that was made for this model"
    )
