"""From a run or an adapter to a folder for others: merged or as it was trained, verified, with a model card."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor

from sightline.algorithms.registry import build_algorithm
from sightline.data.load import Account, load_groups
from sightline.data.picture import read_picture
from sightline.data.template import ChatTemplate
from sightline.errors import CheckpointError, DataError, RecipeError
from sightline.files import check_free, cleared, read_settings, replace_folder
from sightline.models.export import Expected, Verified, gap, merge, quantised, read_policy, verify
from sightline.models.load import load_policy
from sightline.models.locate import is_adapter, is_run, located
from sightline.models.policy import Policy
from sightline.models.reload import ProbeRow, weights_of
from sightline.models.score_head import has_score_head
from sightline.models.value_head import is_of_critic
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import ModelSpec, Recipe
from sightline.train.build import keep_settings
from sightline.train.card import Card
from sightline.train.checkpoint import whole_checkpoints
from sightline.train.run_folder import RunDirectory
from sightline.types import Group, Prompt, Response

Dtype = Literal["float32", "bfloat16"]
_ROWS = 4
"""Rows that a folder is verified on."""
_LOOKED_AT = 64
"""Least rows of each source among which those with pictures are looked for."""
_QUESTION, _ANSWER = "What is in the picture?", "A red circle and a blue square."


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A policy as training left it."""

    source: Path
    """Run directory, or an adapter's folder."""
    policy: Policy
    spec: ModelSpec
    recipe: Recipe | None = None
    """None: an adapter from elsewhere."""
    run: Path | None = None
    step: int | None = None
    """Optimizer steps; None: not known."""


def open_trained(
    source: Path, *, step: int | None = None, dtype: Dtype | None = None, on_quantised: bool = True
) -> Trained:
    """The trained policy of a run, from its checkpoint, or of an adapter's folder.

    Args:
        source: run directory, or folder of an adapter.
        step: checkpoint of the run; None: the newest, or the model of a run that has none left.
        dtype: type the weights are loaded in; None: as in training, or ``float32``.
        on_quantised: False lays what was trained on quantised weights over those that they were made from.

    Raises:
        CheckpointError: no such checkpoint, or the model that it belongs to is another by now.
        RecipeError: neither a run nor an adapter.
    """
    if not is_run(source):
        if step is not None or not is_adapter(source):
            what = "an adapter" if is_adapter(source) else "neither a run directory nor an adapter"
            expected = "a run directory was expected (--step is of a run)" if step else "one of the two was expected"
            raise RecipeError(f"{source} is {what}, where {expected}. Name the output_dir of a training run")
        return _saved(source, ModelSpec(path=str(source), dtype=dtype or "float32", layout="rows"), None)
    recipe = load_recipe(RunDirectory(path=source).recipe)
    model = replace(recipe.model, dtype=dtype or recipe.model.dtype)
    model = model if on_quantised else replace(model, quantization="none", compute_dtype=None)
    found = whole_checkpoints(source)
    if step is None and not found:
        return _saved(source, replace(model, path=str(source), adapter=None, parts=None, lora=None), recipe)
    chosen = max(found) if step is None else step
    if chosen not in found:
        raise CheckpointError(
            f"{source} has no whole checkpoint of step {step} (there are: {', '.join(map(str, found)) or 'none'}). "
            "Name one of these"
        )
    policy = load_policy(model, heads=build_algorithm(recipe.algorithm).heads)
    same = model.quantization == recipe.model.quantization
    _check_start(policy, found[chosen], recipe.model.adapter if same else None)
    policy.load_trainable_state(_without_critic(load_file(found[chosen] / "weights.safetensors"), policy))
    keep_settings(policy, recipe)
    spec = located(model, trainable=True)
    return _noted(Trained(source=source, policy=policy, spec=spec, recipe=recipe, run=source, step=chosen))


def _check_start(policy: Policy, checkpoint: Path, adapter: str | None) -> None:
    """Whether a model, and an adapter that training started from, are what they were. ``adapter``: None: there was
    none, or it was read on quantised weights and is here on plain ones."""
    made, base = read_settings(checkpoint / "progress.json"), policy.base_model
    name = None
    if base is not None and not base.is_of(made):
        name = base.path
    elif adapter is not None and made.get("adapter", policy.start_adapter) != policy.start_adapter:
        name = adapter
    if name is not None:
        raise CheckpointError(
            f"{name} holds other weights or settings than when {checkpoint} was made, and all that was not trained is "
            "taken from it. Bring the old ones back"
        )


def _without_critic(state: dict[str, Tensor], policy: Policy) -> dict[str, Tensor]:
    """What a run with a critic trained of the policy: nobody else reads the value head and its adapter."""
    own = policy.trainable_state().keys()
    return {name: value for name, value in state.items() if name in own or not is_of_critic(name)}


def _noted(trained: Trained) -> Trained:
    """A reward model is loaded as it is written, not as it was trained."""
    if (head := trained.policy.score_head) is not None:
        head.settings = replace(head.settings, quantization=trained.spec.quantization)
    return trained


def _saved(source: Path, spec: ModelSpec, recipe: Recipe | None) -> Trained:
    spec = located(spec)
    scores = any(has_score_head(folder) for folder in (spec.adapter, spec.path) if folder is not None)
    policy = load_policy(spec, trainable=False, heads=frozenset({"reward"} if scores else {"logprobs"}))
    run = None if recipe is None else source
    return _noted(Trained(source=source, policy=policy, spec=spec, recipe=recipe, run=run))


def export(
    trained: Trained, out: Path, *, merged: bool, into_quantised: bool = False, overwrite: bool = False
) -> Verified:
    """Writes the folder, reads it back in a fresh process and compares; keeps it only if it is the trained model.

    Args:
        trained: used up.
        out: new folder.
        merged: write one model, the adapter in its weights; otherwise what was trained: an adapter, or a model. What
            was trained on quantised weights is written for those that they were made from.
        into_quantised: merge into the quantised weights all the same; see :func:`sightline.models.export.merge`.
        overwrite: replace what is at ``out``.

    Raises:
        VerificationError: what was written is another model. Nothing is left at ``out``, or what was there before.
        CheckpointError: ``out`` is there already.
        UnsupportedError: nothing to merge, or quantised weights.
    """
    check_apart(trained, out)
    check_free(out, overwrite=overwrite)
    verified: list[Verified] = []
    with tempfile.TemporaryDirectory() as scratch, cleared(out):
        rows, whose = probe_rows(trained, Path(scratch))
        low = None
        if not into_quantised and trained.spec.quantization != "none":
            low = trained.spec.quantization, read_policy(trained.policy, rows)
            trained = open_trained(trained.source, step=trained.step, dtype=trained.spec.dtype, on_quantised=False)
        policy, spec = trained.policy, trained.spec
        adapter = policy.has_adapter and not merged
        base = spec.path if adapter else None
        expected = Expected.of(policy, rows, dtype=spec.dtype, base=base, merging=merged and policy.has_adapter)
        expected = expected if low is None else replace(expected, low=gap(*low, expected.trained))
        model = merge(policy, spec.dtype, into_quantised=into_quantised) if merged else policy.model

        def write(folder: Path) -> None:
            _save(policy, model, folder, merged=merged)
            verified.append(verify(folder, expected, weights_of(model), Path(scratch)))
            card = Card(recipe=trained.recipe, run=trained.run, step=trained.step, base=spec.path, adapter=adapter)
            (folder / "README.md").write_text(card.text(verified[0], whose, name=out.name), encoding="utf-8")

        replace_folder(out, write)
    return verified[0]


def check_apart(trained: Trained, out: Path) -> None:
    """
    Raises:
        CheckpointError: what is written would take the place of what it is made from.
    """
    for name in (str(trained.source), trained.spec.path, trained.spec.adapter):
        read = None if name is None else Path(name).resolve()
        if read is not None and read.exists() and out.resolve() in (read, *read.parents):
            raise CheckpointError(
                f"{out} is, or holds, {name}, from which the model is made: it would be removed. Choose another --out"
            )


def _save(policy: Policy, model: Any, folder: Path, *, merged: bool) -> None:
    if not merged:
        policy.save(folder)
        return
    # transformers cannot take back how it read quantised weights, and reads them by the names in memory as well
    model.save_pretrained(folder, save_original_format=quantised(model) is None)
    policy.processor.save_pretrained(folder)
    if policy.score_head is not None:
        policy.score_head.save(folder)


# --- rows to verify on ---


def probe_rows(trained: Trained, scratch: Path) -> tuple[list[ProbeRow], str]:
    """Rows with pictures, and in words whose they are: the run's, where its data are there and hold some, or drawn."""
    template = ChatTemplate(trained.policy.processor)
    own = [] if trained.recipe is None else own_groups(trained.recipe, scratch, _ROWS)
    if own:
        return [_probe(template, group) for group in own], "rows of the run"
    return [_probe(template, group) for group in drawn_groups(scratch)], "drawn pictures"


def own_groups(recipe: Recipe, scratch: Path, most: int) -> list[Group]:
    """Answered rows with pictures of the run's training data, evenly from the beginning of each source; fewer than
    ``most``, or none, where there are no more."""
    sources = list(recipe.data.train if recipe.data is not None else ())
    looked_at = max(_LOOKED_AT, 2 * most)
    found: list[Group] = []
    for number, source in enumerate(sources):
        plain = replace(source, visual=None, relation="none", limit=min(source.limit or looked_at, looked_at))
        account = Account(on_bad_row="skip", cache_dir=scratch / str(number))
        try:
            groups = load_groups(plain, account)
        except (DataError, RecipeError, OSError):  # moved, or gone: there are drawn ones
            continue
        found += [group for group in groups if group.prompts[0].images and group.responses]
    apart = max(1, len(found) // most)
    others = [group for place, group in enumerate(found) if place % apart]
    return list(islice(filter(_is_readable, [*found[::apart], *others]), most))


def _is_readable(group: Group) -> bool:
    """Whether its pictures can be decoded: some that cannot pass for whole when rows are read."""
    try:
        for path in (path for prompt in group.prompts for path in prompt.images):
            read_picture(path)
    except DataError:
        return False
    return True


def drawn_groups(scratch: Path) -> list[Group]:
    """Drawn pictures, each with a question and an answer."""
    groups = []
    for number, size in enumerate(((96, 64), (64, 96), (80, 80))):
        picture = Image.new("RGB", size, (250, 250, 240))
        draw = ImageDraw.Draw(picture)
        draw.ellipse((6, 6 + 8 * number, 36, 36 + 8 * number), fill=(220, 30, 40))
        draw.rectangle((40 - 6 * number, 34, 60, 58), fill=(30, 60, 210))
        path = scratch / f"drawn-{number}.png"
        picture.save(path)
        parts = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
        prompt = Prompt(id=str(number), messages=({"role": "user", "content": parts},), images=(str(path),))
        groups.append(Group(prompts=(prompt,), responses=(Response(text=_ANSWER),)))
    return groups


def _probe(template: ChatTemplate, group: Group) -> ProbeRow:
    response = group.responses[0]
    prompt = group.prompts[response.prompt]
    answer = {"role": "assistant", "content": [{"type": "text", "text": response.text}]}
    return ProbeRow(text=template.text([*prompt.messages, answer], generation=False), images=prompt.images)
