"""The sentence search against a plain one that encodes every prefix anew with the model's own forward pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch
from test_hf import lift, prompt_group, sharp_policy
from tiny_families import save_family

from sightline.errors import DataError
from sightline.models.load import load_policy
from sightline.recipes.csr import CalibrationSpec, SearchSpec
from sightline.recipes.schema import ModelSpec
from sightline.relations.calibrated import kept, sentence_scores
from sightline.relations.sentence_end import ends, may_end
from sightline.rollouts.hf import HFEngine
from sightline.rollouts.sentence_search import SentenceSearch

SPEC = SearchSpec(max_new_tokens=6, candidates=4, max_sentences=3, junk="keep", width=4, diversity=1.5)


@dataclass
class Plain:
    """Search by the model's own forward pass, without a cache: every step of every group encodes picture, prompt and
    all that was said."""

    engine: HFEngine
    spec: SearchSpec

    def logits(self, group, tokens):
        policy = self.engine.policy
        rendered = self.engine.renderer.render(group)
        (prompt,) = rendered.prompts
        ids = torch.tensor([[*prompt.tokens, *tokens]])
        marks = torch.zeros_like(ids, dtype=torch.bool)
        marks[0, list(prompt.placeholders)] = True
        vision = policy.family.join([rendered.images[index].tensors for index in prompt.images])
        blocks = torch.zeros_like(marks)
        if policy.family.prefix_rule == "image_block":
            blocks = marks
        elif policy.family.prefix_rule == "full":
            blocks[0, : len(prompt.tokens)] = True
        extra = policy.family.row_inputs(marks, blocks, vision)
        with torch.no_grad():
            return policy.base.eval()(input_ids=ids, **vision, **extra).logits[0, -1].double()

    def text(self, tokens):
        return self.engine.tokenizer.decode(tokens, skip_special_tokens=True)

    def level(self, group, prefix):
        """[(tokens, log-probabilities, ended its turn)] of the groups, step by step."""
        rows = [([], [], None) for _ in range(self.spec.candidates)]
        for step in range(self.spec.max_new_tokens):
            taken = Counter()
            for index, (tokens, values, end) in enumerate(rows):
                if end is not None:
                    continue
                logits = self.logits(group, [*prefix, *tokens])
                logprobs = logits.log_softmax(-1)
                lowered = logits.clone()
                lowered[self.engine.forbidden] = -torch.inf
                for token, times in taken.items():
                    lowered[token] -= self.spec.diversity * times
                token = int(lowered.argmax())
                last = token in self.engine.ends
                said = self.text(tokens)
                if step and not last and ends(said, self.text([*tokens, token]).removeprefix(said)):
                    rows[index] = (tokens, values, "sentence")
                    continue
                taken[token] += 1
                rows[index] = ([*tokens, token], [*values, float(logprobs[token])], "stop" if last else None)
        return [(tuple(tokens), values, end == "stop") for tokens, values, end in rows]

    def grow(self, group):
        """{path of sentences: log-probabilities of the last}."""
        found, alive = {}, [()]
        for depth in range(self.spec.max_sentences):
            scores = {}
            for path in alive:
                for place, (tokens, values, ended) in enumerate(self.level(group, [t for s in path for _, t in s])):
                    here = (*path, tuple((place, token) for token in tokens))
                    found[here] = values
                    if not ended and depth + 1 < self.spec.max_sentences:
                        total = sum(sum(found[here[: k + 1]]) / len(here[k]) for k in range(len(here)))
                        scores[here] = total
            order = sorted(scores, key=lambda path: -scores[path])
            going = set(kept(list(range(len(order))), self.spec.width))
            alive = [path for path in scores if order.index(path) in going]
        return found


def by_path(tree):
    """As ``Plain.grow``: each sentence with the place among its siblings."""
    places = {}
    for node in tree.nodes[1:]:
        places[node.id] = sum(other.parent == node.parent for other in tree.nodes[: node.id])
    return {
        tuple(tuple((places[one.id], token) for token in one.tokens) for one in tree.path(node.id)): node.logprobs
        for node in tree.nodes[1:]
    }


def talkative(policy, by=8.0):
    """A random policy that says words, and ends sentences and its turn now and then."""
    tokenizer = policy.processor.tokenizer
    head = policy.base.get_output_embeddings()
    more = torch.zeros(head.weight.shape[0])
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    more[[index for index, piece in enumerate(pieces) if piece[0] == "Ġ"]] = by
    more[[index for index, piece in enumerate(pieces) if piece in (".", "?")]] = by + 3
    more[tokenizer.eos_token_id] = by + 0.3
    head.register_forward_hook(lambda module, inputs, output: output + more)
    return policy


def searched(policy, groups, spec=SPEC):
    """Trees of the search, equal to the plain one's token for token."""
    engine = HFEngine(policy)
    trees = SentenceSearch(engine, spec).grow(groups)
    for group, tree in zip(groups, trees, strict=True):
        expected, found = Plain(engine, spec).grow(group), by_path(tree)
        assert found.keys() == expected.keys()
        for path, values in expected.items():
            assert found[path] == pytest.approx(values, abs=1e-5)
    return trees


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_equals_a_search_that_encodes_every_prefix_anew(tiny, pictures, family):
    groups = [
        prompt_group("describe", "describe the image", pictures[:1]),
        prompt_group("two", "what is this", [pictures[2], pictures[0]]),
    ]
    trees = searched(talkative(sharp_policy(tiny[family])), groups)
    nodes = [node for tree in trees for node in tree.nodes[1:]]
    lengths = {len(node.tokens) for node in nodes if node.final is None}
    assert len(lengths) >= 3  # sentences end by themselves, at different steps
    assert {None, "length"} <= {node.final for node in nodes} and all(len(tree.nodes) > 20 for tree in trees)


OTHERS = ("llava_next", "qwen3_vl", "gemma3", "gemma4", "paligemma", "internvl", "mllama", "qwen3_5")
"""Tiles, deep features, sliding windows, keys that layers share, prefixes that see themselves whole, cross-attention,
and layers that carry a state."""


@pytest.mark.parametrize("family", OTHERS)
def test_equals_the_plain_search_on_other_families(tmp_path, pictures, family):
    policy = load_policy(ModelSpec(path=str(save_family(family, tmp_path)), layout="rows"), trainable=False)
    spec = replace(SPEC, candidates=3, max_new_tokens=4, max_sentences=2)
    trees = searched(policy, [prompt_group("a", "describe the image", pictures[:1])], spec)
    assert len(trees[0].nodes) > 6
