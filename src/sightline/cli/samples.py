"""``sightline sample`` and ``score``: from prompts to answers to rewards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sightline.cli.console import say
from sightline.cli.json_result import Document
from sightline.cli.model_options import Picture, Quantization, QuantizationAsTrained, picture_options
from sightline.cli.stage import check_apart
from sightline.data.identity import made_from
from sightline.data.staged import StagedGroups
from sightline.errors import DataError, RecipeError
from sightline.recipes.load import check_spec, terms_of
from sightline.recipes.schema import DataSpec, SamplingSpec
from sightline.recipes.terms import IrisSpec
from sightline.types import Group

if TYPE_CHECKING:
    from sightline.data.load import Account

GroupFile = Annotated[Path, typer.Argument(metavar="GROUPS.jsonl", help="A Group file.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Group file to write.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew if the file is there.")]
Limit = Annotated[int | None, typer.Option(min=1, help="First rows only.", show_default=False)]
ModelName = Annotated[
    str, typer.Argument(help="Folder or hub name of the model; a run directory; an adapter.", show_default=False)
]
ImageDir = Annotated[str | None, typer.Option(help="Folder that relative image paths start from.", show_default=False)]


def sample(
    model: ModelName,
    data: Annotated[str, typer.Argument(help="Rows with the prompts; their answers are ignored.", show_default=False)],
    out: Out,
    adapter: Annotated[str | None, typer.Option(help="Folder of a PEFT adapter.", show_default=False)] = None,
    n: Annotated[int, typer.Option("--n", "-n", help="Answers per prompt.")] = 1,
    temperature: Annotated[float, typer.Option(help="0: greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Least share of probability that is sampled from.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Most likely tokens that are sampled from; 0: all.")] = 0,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 256,
    seed: Annotated[int, typer.Option(help="Same seed, same answers.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Prompts generated together. Changes no answer.")] = 8,
    image_dir: ImageDir = None,
    limit: Limit = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the weights.")] = "float32",
    quantization: Quantization = "none",
    picture: Picture = None,
    overwrite: Overwrite = False,
) -> Document:
    """Let a model answer prompts about pictures.

    Picture and prompt are computed once for all answers. Answers are appended as they come: a
    stopped command goes on where it was. Each answer holds its tokens, their log-probabilities and
    why it ended. Pictures that the rows hold in memory (parquet) are written to `images` beside the answers.

    Example: `sightline sample models/llava questions.jsonl -n 8 --temperature 0.7 -o samples.jsonl`
    """
    check_apart(out, data)
    sampling = check_spec(
        SamplingSpec,
        "sampling options",
        n=n,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        max_new_tokens=max_tokens,
        batch_size=batch_size,
    )
    from sightline.evaluation.named_model import named_model
    from sightline.models.load import hide_loading_bars
    from sightline.rollouts.hf import load_engine, not_applied

    hide_loading_bars()
    prompts = _prompts(DataSpec(path=data, image_dir=image_dir, limit=limit), out)
    asked = named_model(model, adapter, dtype=dtype, quantization=quantization, **picture_options(picture))
    engine = load_engine(asked.spec, processor_of=asked.processor)
    if told := not_applied(engine.policy):
        say(told)
    settings = asked.settings() | {"data": data, "seed": seed} | dataclasses.asdict(sampling)
    del settings["batch_size"]
    stage = StagedGroups(out=out, settings=settings, tell=say, made_from=partial(made_from, answers=False))
    made = stage.run(
        prompts,
        lambda some: engine.generate(some, sampling, seed=seed),
        chunk=4 * sampling.batch_size,
        title="sampling",
        overwrite=overwrite,
    )
    say(f"{made} prompts answered, {made * sampling.n} answers: {out}")
    return {"groups": out, "prompts": made, "answers": made * sampling.n}


def score(
    groups: GroupFile,
    out: Out,
    reward: Annotated[
        str | None,
        typer.Option(
            help="scenes, the run directory of a reward model, package.module:Name, terms as name=weight,name=weight, "
            "or a YAML file with terms as under online.reward. Required.",
            show_default=False,
        ),
    ] = None,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Reward model: most tokens of one forward pass. Changes no score.")
    ] = 8192,
    missing_facts: Annotated[
        Literal["error", "leave_out"] | None,
        typer.Option(
            help="Reward model that reads facts: what to do where they are missing.", show_default="as trained"
        ),
    ] = None,
    quantization: QuantizationAsTrained = None,
    failed: Annotated[
        Literal["stop", "drop"],
        typer.Option(help="Answers whose reward fails for good: stop with an error, or leave them without a reward."),
    ] = "stop",
    overwrite: Overwrite = False,
) -> Document:
    """Give every answer of a Group file its reward.

    The reward sees the prompt, the pictures and the facts of the group. It is one reward, or a
    weighted sum of terms, each of which is kept by its name. What fails is an error that names it,
    or with `--failed drop` no reward, never a reward of zero. A stopped command goes on where it was.

    Example: `sightline score samples.jsonl --reward scenes -o scored.jsonl`

    Example: `sightline score samples.jsonl --reward runs/reward_model -o scored.jsonl`

    Example: `sightline score samples.jsonl --reward scenes=1,repetition=0.5 -o scored.jsonl`

    Example: `sightline score samples.jsonl --reward terms.yaml -o scored.jsonl`
    """
    if reward is None:
        raise RecipeError(_NO_REWARD)
    check_apart(out, groups)
    from sightline.rewards.base import scored_or_stopped
    from sightline.rewards.build import check_prompts, named_reward

    asked = _answered(groups)
    loaded = {"missing_facts": missing_facts, "quantization": quantization}
    scorer = named_reward(reward, loaded, batch_tokens=batch_tokens)
    settings = {"groups": str(groups), "reward": reward, **_changing(reward, loaded)}
    stage = StagedGroups(out=out, settings=settings, tell=say, made_from=partial(made_from, answers=True))
    work = partial(scored_or_stopped, scorer, failed=failed, drop="pass --failed drop")
    try:
        check_prompts(scorer, asked)
        done = stage.run(asked, work, chunk=64, title="scoring", overwrite=overwrite)
    except DataError as error:  # a reward knows the group, not the file
        where = error.source if str(groups) in error.source else f"{groups}: {error.source}".removesuffix(": ")
        raise type(error)(error.found, source=where, remedy=error.remedy) from error
    return _scored(out, done)


def _scored(out: Path, done: int) -> Document:
    from sightline.data.schema import read_groups

    figures = _figures(list(read_groups(out)))
    say(f"{done} groups scored{_summary(figures)}: {out}")
    return {"groups": out, "scored": done, **figures}


def _answered(path: Path) -> list[Group]:
    """The groups of a file, which are some, and have answers."""
    from sightline.data.schema import read_groups

    groups = list(read_groups(path))
    if not groups:
        raise DataError("there are no groups", source=str(path), remedy="Name a Group file that has some")
    if not any(group.responses for group in groups):
        found = f"none of {len(groups)} groups has an answer"
        raise DataError(found, source=str(path), remedy="Run `sightline sample` first, and score what it writes")
    return groups


def _prompts(data: DataSpec, out: Path) -> list[Group]:
    from sightline.data.load import Account, load_prompts

    account = Account(cache_dir=out.parent / "images")
    prompts = load_prompts(data, account)
    tell(account)
    return prompts


_NO_REWARD = (
    "found no --reward, expected what scores the answers. Give the run directory of a reward model, "
    "package.module:Name of a reward of your own, terms as name=weight, or scenes where the pictures are those of the "
    "built-in world."
)


def _changing(reward: str, loaded: Mapping[str, str | None]) -> dict[str, Any]:
    """What else than its name changes the numbers of a reward."""
    from sightline.loops.contents import digests
    from sightline.rewards.base import is_reward_model
    from sightline.rewards.settings import inputs_of

    terms = terms_of(reward)
    if terms is None and is_reward_model(reward):
        from sightline.rewards.model import fingerprint

        changed = {name: value for name, value in loaded.items() if value is not None}
        return {"weights": fingerprint(reward), "missing_facts": None, **changed}
    files, told = inputs_of(reward if terms is None else terms)
    if terms is None:
        return {"files": digests(files)}
    settings: dict[str, Any] = {"terms": told, "files": digests(files)}
    if own := [(name, term) for name, term in terms.items() if isinstance(term, IrisSpec)]:
        from sightline.rewards.iris import fingerprints

        settings["policies"] = {name: fingerprints(term) for name, term in own}
    return settings


def _figures(groups: Sequence[Group]) -> dict[str, Any]:
    """Mean reward, answers without one, and how often the reward agrees with the edges of the file."""
    rewards = [response.reward for group in groups for response in group.responses]
    known = [reward for reward in rewards if reward is not None]
    why = [r.reward_error for group in groups for r in group.responses if r.reward_error]
    ends = [(g.responses[edge.winner].reward, g.responses[edge.loser].reward) for g in groups for edge in g.edges]
    right = [winner > loser for winner, loser in ends if winner is not None and loser is not None]
    return {
        "mean_reward": sum(known) / len(known) if known else None,
        "without_reward": len(rewards) - len(known),
        "first_error": why[0] if why else None,
        "pairs": len(right),
        "pairs_in_order": sum(right) / len(right) if right else None,
    }


def _summary(figures: Mapping[str, Any]) -> str:
    """The figures in words."""
    text = "" if figures["mean_reward"] is None else f", mean reward {figures['mean_reward']:.3f}"
    if figures["without_reward"]:
        first = f" (first: {figures['first_error']})" if figures["first_error"] else ""
        text += f", {figures['without_reward']} answers without a reward{first}"
    if figures["pairs"]:
        text += f", {figures['pairs_in_order']:.3f} of {figures['pairs']} pairs in the right order"
    return text


def tell(account: Account) -> None:
    """What a person should know about the rows though it is no error."""
    for text in account.report.notes:
        say(text)
