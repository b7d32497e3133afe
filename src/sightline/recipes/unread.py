"""Options that are valid by themselves and that nothing in their recipe would read: errors, each with its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sightline.recipes.critic import critic_conflicts
from sightline.recipes.negatives import StagesSpec
from sightline.recipes.preferences import UNCOMPARED, SelectionSpec
from sightline.recipes.schema import DataSpec, OnlineSpec, PartsSpec, ReadsSpec, Recipe
from sightline.recipes.source import KeyPath
from sightline.recipes.terms import AnyTerm, IrisSpec, OverlongSpec

Conflict = tuple[KeyPath, str]
"""The place, and the message."""

_READS = ReadsSpec()
_SELECTION = SelectionSpec()


def unread_options(recipe: Recipe) -> list[Conflict]:
    """All of a recipe's."""
    found: list[Conflict] = []
    if recipe.data is not None and recipe.data.reads is not None:
        found += _of_reads(recipe.data.reads)
    segments = None if recipe.data is None else recipe.data.segments
    if segments is not None and segments.corrected == segments.shared == 0:
        text = "corrected and shared are both 0: no token would weigh anything. Raise one of them."
        found.append((("data", "segments"), text))
    if recipe.online is not None:
        found += _of_online(recipe.online)
        found += _of_own_account(recipe, recipe.online)
        found += _of_stages(recipe.online)
    if recipe.critic is not None:
        adapter = recipe.model.adapter is not None or "lora" in vars(recipe.model.parts or PartsSpec()).values()
        found += [(("critic", key), text) for key, text in critic_conflicts(recipe.critic, adapter=adapter)]
    return found


def _of_reads(reads: ReadsSpec) -> Iterator[Conflict]:
    unread = {
        "captions": (reads.images != "caption", "images: caption"),
        "lead_in": (reads.criteria is None, "criteria"),
        "missing_facts": (not reads.facts, "facts"),
    }
    for name, (is_unread, reader) in unread.items():
        if is_unread and vars(reads)[name] != vars(_READS)[name]:
            yield ("data", "reads", name), f"{name} is read with {reader} alone. Set that too, or remove {name}."


def _of_online(online: OnlineSpec) -> Iterator[Conflict]:
    if online.relation == "none" and online.min_gap:
        text = f"found {online.min_gap:g}, but relation: none makes no comparisons. Remove min_gap."
        yield ("online", "min_gap"), text
    yield from _of_relation(online)
    if online.relation != "none" and online.sampling.n == 1:
        text = f"found 1 answer per prompt, but relation: {online.relation} compares answers. Sample 2 or more."
        yield ("online", "sampling", "n"), text
    if online.dynamic_sampling and online.sampling.n == 1:
        text = (
            "found 1 answer per prompt, and dynamic_sampling leaves out prompts whose answers have one reward, "
            "all of them. Sample 2 or more, or set dynamic_sampling to 0."
        )
        yield ("online", "sampling", "n"), text
    if online.relation != "none" and online.sampling.temperature == 0:
        text = "found 0 (greedy): all answers to a prompt are the same, and none is better. Set it above 0."
        yield ("online", "sampling", "temperature"), text
    if not isinstance(online.reward, str):
        yield from _of_terms(online.reward, online.sampling.max_new_tokens)
        if online.overlong_buffer and "overlong" in online.reward:
            text = "overlong_buffer is kept under the name overlong, as this term is. Remove one of them."
            yield ("online", "reward", "overlong"), text
    if online.standardise is not None and online.greedy:
        text = "greedy measures rewards by those of greedy answers, as they are. Remove standardise."
        yield ("online", "standardise"), text
    for name in ("truncated", "dynamic_sampling", "greedy", "standardise"):
        if online.relation != "none" and vars(online)[name] not in ("train", 0, False, None):
            yield ("online", name), f"{name} needs relation: none, found {online.relation}. Set that, or remove {name}."
    if online.overlong_buffer >= online.sampling.max_new_tokens:
        text = (
            f"found {online.overlong_buffer}, and answers have at most {online.sampling.max_new_tokens} tokens. Set it "
            "below sampling.max_new_tokens."
        )
        yield ("online", "overlong_buffer"), text
    for name in ("relation", "train_on"):
        if vars(online.prompts)[name] != DataSpec.__dataclass_fields__[name].default:
            yield ("online", "prompts", name), f"answers of prompts are not read, so {name} says nothing. Remove it."


def _of_stages(online: OnlineSpec) -> Iterator[Conflict]:
    stages, here = online.stages, ("online", "stages")
    if stages is None:
        return
    if online.replay is not None:
        yield here, "found online.replay too, which gives whole rounds at once. Remove one of the two."
    if stages.overlap and online.engine.rewards == "workers":
        text = "the workers of online.engine compute the rewards, and sample meanwhile. Set engine.rewards: trainer."
        yield (*here, "overlap"), text
    terms = {} if isinstance(online.reward, str) else online.reward
    for name, term in terms.items() if stages.overlap else ():
        if isinstance(term, IrisSpec) and term.path is None:
            text = f"{name} asks the policy, which trains meanwhile. Set overlap: false, or path of that term."
            yield (*here, "overlap"), text
    for name in ("scorers", "painters", "queue"):
        if not stages.overlap and vars(stages)[name] != vars(StagesSpec())[name]:
            yield (*here, name), f"{name} is read with overlap: true alone. Remove it."
    if online.negatives is None and stages.painters != 1:
        yield (*here, "painters"), "no pictures are made (online.negatives). Remove painters."


def _of_own_account(recipe: Recipe, online: OnlineSpec) -> Iterator[Conflict]:
    """Terms that ask the policy in training."""
    terms = {} if isinstance(online.reward, str) else online.reward
    for name, term in terms.items():
        if not isinstance(term, IrisSpec) or term.path is not None:
            continue
        here: KeyPath = ("online", "reward", name)
        if recipe.train.distribution == "fsdp":
            yield here, "each process scores at its own pace, and fsdp spreads the policy. Set path, or choose ddp."
        alone = not any(other.weight for other in terms.values() if other is not term)
        if alone and recipe.model.adapter is None and term.reference == recipe.model.path:
            text = (
                f"found {term.reference}, which training starts from: policy and reference are the same in the first "
                "round, and every score is 0. Name what model.path was trained from."
            )
            yield (*here, "reference"), text


def _of_relation(online: OnlineSpec) -> Iterator[Conflict]:
    if online.relation == "ovip" and online.min_gap:
        text = f"found {online.min_gap:g}, but relation: ovip has gaps of its own, under selection. Remove min_gap."
        yield ("online", "min_gap"), text
    if online.selection is not None:
        yield from _of_selection(online, online.selection)
    if online.buffer is None:
        return
    here: KeyPath = ("online", "buffer")
    if online.relation == "none":
        text = "relation: none trains answers by their rewards, which old ones are no samples for. Remove buffer."
        yield here, text
    if online.replay is not None:
        text = "online.buffer samples as many prompts as it lacks, so replay has no meaning. Remove one of them."
        yield ("online", "replay"), text
    ahead, bound = online.max_staleness, online.buffer.max_staleness
    if ahead and online.buffer.fresh:
        text = f"found online.max_staleness: {ahead} too, with which no round samples what it trains. Remove fresh."
        yield (*here, "fresh"), text
    if bound is not None and bound < ahead:
        text = f"found {bound}, and online.max_staleness: {ahead} samples farther ahead: all would leave. Raise it."
        yield (*here, "max_staleness"), text
    if online.buffer.unit == "pair" and online.relation in UNCOMPARED:
        yield (*here, "unit"), f"found pair, but relation: {online.relation} makes none. Remove unit."
    if online.buffer.uses > 1 and online.buffer.fresh == 1:
        text = "found 1: everything is newly sampled, and nothing is used again. Lower it, or set uses: 1."
        yield (*here, "fresh"), text


def _of_selection(online: OnlineSpec, selection: SelectionSpec) -> Iterator[Conflict]:
    here: KeyPath = ("online", "selection")
    if online.relation != "ovip":
        yield here, f"selection is read by relation: ovip, found {online.relation}. Set that, or remove selection."
    readers = {"relaxed_gap": "relaxed", "reference": "reference"}
    for name, fallback in readers.items():
        if vars(selection)[name] != vars(_SELECTION)[name] and selection.fallback != fallback:
            text = f"{name} is read with fallback: {fallback}, found {selection.fallback}. Set that, or remove {name}."
            yield (*here, name), text


def _of_terms(terms: Mapping[str, AnyTerm], limit: int) -> Iterator[Conflict]:
    if not any(term.weight for term in terms.values()):
        yield ("online", "reward"), "all terms have weight 0: every reward would be 0. Give one a weight."
    for name, term in terms.items():
        if isinstance(term, OverlongSpec) and term.cache > (term.limit or limit):
            text = f"found {term.cache}, more than the limit of {term.limit or limit} tokens. Lower cache."
            yield ("online", "reward", name, "cache"), text
