"""The contenders of the benchmark of the sentence search grow the same trees."""

from __future__ import annotations

from benchmarks.sentence_search import CONTENDERS, same

from sightline.models.load import load_policy
from sightline.recipes.csr import SearchSpec
from sightline.recipes.schema import ModelSpec
from sightline.rollouts.hf import HFEngine
from sightline.types import Group, Prompt


def test_all_contenders_grow_the_same_trees(tiny, pictures):
    engine = HFEngine(load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False))
    engine.ends = []
    spec = SearchSpec(candidates=3, width=5, max_new_tokens=4, max_sentences=3, junk="keep", max_characters=10**6)
    groups = []
    for name, picture in zip("ab", pictures, strict=False):
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}
        groups.append(Group(prompts=(Prompt(id=name, messages=(message,), images=(picture,)),)))
    implementation = engine.policy.language.config._attn_implementation
    grown = {}
    for name, contender in CONTENDERS.items():
        engine.policy.language.set_attn_implementation(implementation)
        grown[name] = contender(engine, spec)(groups)
    assert [len(tree) for tree in grown["search"]] == [3 + 9 + 9] * 2
    assert all(same(grown["search"], others) for others in grown.values())
    shorter = [{tokens[:-1]: value for tokens, value in tree.items()} for tree in grown["rows"]]
    assert not same(grown["search"], shorter)
