"""CPU seconds of the sentence search against searches that encode picture and prefix anew for every node.

    python -m benchmarks.sentence_search                       # 576 image tokens, 6 sentences of 20 tokens, 4 prompts
    python -m benchmarks.sentence_search --json out.json

The contenders grow the same trees (the program checks it) from the same random model, in turn in one process:

- ``search``: picture and prompt once, each sentence once, all prompts together; ``alone``: prompt by prompt;
- ``nodes``: our engine without what the search keeps: for every node picture, prompt and all sentences so far are
  computed once, and its groups branch from there;
- ``rows``: as CSR's release does it, node by node with transformers: every group encodes the whole prefix (the vision
  tower once), then decodes with a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.shapes import SHAPES, build, records
from benchmarks.step import machine
from sightline.models.branches import prefill, step
from sightline.models.decoding import decoding
from sightline.models.load import hide_loading_bars, load_policy
from sightline.recipes.csr import CalibrationSpec, SearchSpec
from sightline.recipes.schema import ModelSpec
from sightline.relations.calibrated import kept
from sightline.relations.tree import SentenceTree
from sightline.rollouts.hf import HFEngine
from sightline.rollouts.sentence_search import SentenceSearch
from sightline.types import Group, Prompt

Grown = dict[tuple[int, ...], float]
"""Tokens of an answer so far to the sum of its sentences' mean log-probabilities."""
Grow = Callable[[Sequence[Group]], list[Grown]]


@dataclass(frozen=True, kw_only=True)
class NodeByNode:
    """The search by its definition; ``begin`` gives the logits [G,V] after a prefix, and what the next step needs."""

    engine: HFEngine
    spec: SearchSpec
    begin: Callable[[Group, Sequence[int]], tuple[Tensor, Any]]
    go_on: Callable[[Any, Tensor], Tensor]

    def grow(self, group: Group) -> Grown:
        found: Grown = {}
        alive: Grown = {(): 0.0}
        for _ in range(self.spec.max_sentences or 1):
            level = {
                (*prefix, *tokens): score + sum(values) / len(values)
                for prefix, score in alive.items()
                for tokens, values in self._sentences(group, prefix)
            }
            found |= level
            order = sorted(level, key=lambda answer: -level[answer])
            alive = {order[place]: level[order[place]] for place in kept(range(len(order)), self.spec.width)}
        return found

    def _sentences(self, group: Group, prefix: Sequence[int]) -> list[tuple[list[int], list[float]]]:
        rows: list[tuple[list[int], list[float]]] = [([], []) for _ in range(self.spec.candidates)]
        logits, state = self.begin(group, prefix)
        for place in range(self.spec.max_new_tokens):
            logprobs = logits.float().log_softmax(-1)
            taken: Counter[int] = Counter()
            for row, own in zip(rows, logprobs, strict=True):
                lowered = own.clone()
                lowered[self.engine.forbidden] = -torch.inf
                for token, times in taken.items():
                    lowered[token] -= self.spec.diversity * times
                token = int(lowered.argmax())
                taken[token] += 1
                row[0].append(token)
                row[1].append(float(own[token]))
            if place + 1 < self.spec.max_new_tokens:
                logits = self.go_on(state, torch.tensor([tokens[-1] for tokens, _ in rows]))
        return rows


def by_nodes(engine: HFEngine, spec: SearchSpec) -> Grow:
    """One prefill for a node, shared by its groups."""

    def begin(group: Group, prefix: Sequence[int]) -> tuple[Tensor, Any]:
        rendered = engine.renderer.render(group)
        prompt = rendered.prompts[0]
        longer = replace(prompt, tokens=(*prompt.tokens, *prefix))
        branches, logits, positions = prefill(engine.policy, [replace(rendered, prompts=(longer,))], spec.candidates)
        count = spec.candidates
        return logits.repeat_interleave(count, 0), [branches, positions.repeat_interleave(count, -1)]

    def go_on(state: Any, tokens: Tensor) -> Tensor:
        logits = step(engine.policy, state[0], tokens, state[1])
        state[1] = state[1] + 1
        return logits

    search = NodeByNode(engine=engine, spec=spec, begin=begin, go_on=go_on)

    def grow(groups: Sequence[Group]) -> list[Grown]:
        with decoding(engine.policy):
            return [search.grow(group) for group in groups]

    return grow


def by_rows(engine: HFEngine, spec: SearchSpec) -> Grow:
    """The model's own forward pass with a cache, every group from the picture on."""
    base = engine.policy.base

    def begin(group: Group, prefix: Sequence[int]) -> tuple[Tensor, Any]:
        rendered = engine.renderer.render(group)
        ids = torch.tensor([[*rendered.prompts[0].tokens, *prefix]]).expand(spec.candidates, -1)
        features = base.model.get_image_features(**rendered.images[0].tensors, return_dict=True)
        features.pooler_output = list(features.pooler_output) * spec.candidates  # the tower once, as generate does
        cache = DynamicCache(config=base.config)
        out = base(
            input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True,
            logits_to_keep=1, mm_encoder_outputs={"image": features},
        )  # fmt: skip
        return out.logits[:, -1], cache

    def go_on(cache: Any, tokens: Tensor) -> Tensor:
        logits: Tensor = base(input_ids=tokens[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
        return logits

    search = NodeByNode(engine=engine, spec=spec, begin=begin, go_on=go_on)

    def grow(groups: Sequence[Group]) -> list[Grown]:
        base.set_attn_implementation("sdpa")
        with torch.no_grad():
            return [search.grow(group) for group in groups]

    return grow


def by_search(engine: HFEngine, spec: SearchSpec) -> Grow:
    """What is measured against the others."""
    search = SentenceSearch(engine, spec, CalibrationSpec())
    return lambda groups: [_grown(tree) for tree in search.grow(groups)]


def by_search_alone(engine: HFEngine, spec: SearchSpec) -> Grow:
    """The same, prompt by prompt."""
    search = SentenceSearch(engine, spec, CalibrationSpec())
    return lambda groups: [_grown(search.grow([group])[0]) for group in groups]


def _grown(tree: SentenceTree) -> Grown:
    found: Grown = {}
    for node in tree.nodes[1:]:
        path = tree.path(node.id)
        tokens = tuple(token for one in path for token in one.tokens)
        found[tokens] = sum(sum(one.logprobs) / len(one.logprobs) for one in path)
    return found


def same(one: Sequence[Grown], other: Sequence[Grown]) -> bool:
    """Token for token, scores to rounding."""
    return all(
        a.keys() == b.keys() and all(abs(a[key] - b[key]) < 1e-3 for key in a) for a, b in zip(one, other, strict=True)
    )


CONTENDERS = {"search": by_search, "alone": by_search_alone, "nodes": by_nodes, "rows": by_rows}


def measured(folder: Path, spec: SearchSpec, prompts: int, rounds: int) -> dict[str, Any]:
    """Median CPU seconds of all trees by each contender."""
    engine = HFEngine(load_policy(ModelSpec(path=str(folder)), trainable=False))
    groups = []
    for number, row in enumerate(records(folder, SHAPES["small"], answers=1, count=prompts)):
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["question"]}]}
        groups.append(Group(prompts=(Prompt(id=str(number), messages=(message,), images=(str(row["image"]),)),)))
    engine.ends = []  # every sentence as long as the others
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    implementation = engine.policy.language.config._attn_implementation
    for turn in range(rounds + 1):
        trees: dict[str, list[Grown]] = {}
        for name, contender in CONTENDERS.items():
            engine.policy.language.set_attn_implementation(implementation)
            began = time.process_time()
            trees[name] = contender(engine, spec if turn else replace(spec, max_sentences=1))(groups)
            seconds[name] += [time.process_time() - began] if turn else []  # the first warms up
        if not all(same(trees["search"], others) for others in trees.values()):
            raise SystemExit(f"turn {turn}: the trees differ")
    return {
        "prompts": prompts,
        "prompt_tokens": [len(engine.read(group)) for group in groups],
        "nodes": sum(map(len, trees["search"])),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "every": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=6, help="of an answer")
    parser.add_argument("--length", type=int, default=20, help="tokens of a sentence")
    parser.add_argument("--prompts", type=int, default=4, help="searched together")
    parser.add_argument("--rounds", type=int, default=1, help="timed rounds (median is reported)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hide_loading_bars()
    spec = SearchSpec(
        max_sentences=arguments.sentences, max_new_tokens=arguments.length, junk="keep", max_characters=10**6
    )
    with tempfile.TemporaryDirectory() as name:
        found = measured(build(Path(name), SHAPES["small"]), spec, arguments.prompts, arguments.rounds)
    seconds = found["seconds"]
    found["ratio"] = {name: seconds[name] / seconds["search"] for name in seconds}
    print(f"{found['nodes']} nodes in {arguments.prompts} trees; CPU seconds")
    for name, value in seconds.items():
        print(f"{name:8}{value:8.2f}{value / seconds['search']:8.1f}x")
    if arguments.json:
        report = {"machine": machine(), "sentences": arguments.sentences, "length": arguments.length, **found}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
