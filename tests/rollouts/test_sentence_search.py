"""The sentence search against a plain one that encodes every prefix anew with the model's own forward pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from zlib import crc32

import pytest
import torch
from test_hf import lift, prompt_group, sharp_policy

from sightline.errors import DataError
from sightline.models.load import load_policy
from sightline.recipes.csr import CalibrationSpec, SearchSpec
from sightline.recipes.schema import ModelSpec
from sightline.relations.calibrated import kept, sentence_scores
from sightline.rollouts import sentence_search
from sightline.rollouts.hf import HFEngine
from sightline.rollouts.sentence_search import SentenceSearch
from tiny_families import save_family

SPEC = SearchSpec(max_new_tokens=6, candidates=4, max_sentences=3, junk="keep", width=13, diversity=1.5)


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
                if step and not last and sentence_search.ends(said, self.text([*tokens, token]).removeprefix(said)):
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
    policy = talkative(sharp_policy(tiny[family]))
    lift(policy, policy.processor.tokenizer.eos_token_id, 1.0)
    trees = searched(policy, groups)
    nodes = [node for tree in trees for node in tree.nodes[1:]]
    assert any(len(starts(tree)) >= 2 for tree in trees)
    assert {None, "stop", "length"} == {node.final for node in nodes} and all(len(tree.nodes) > 20 for tree in trees)


def starts(tree):
    """Lengths of the answers so far that sentences of one level begin at: they are computed side by side."""
    lengths = {node.id: sum(len(one.tokens) for one in tree.path(node.id)) for node in tree.nodes}
    second = {node.parent for node in tree.nodes[1:] if len(tree.path(node.id)) == 2}
    return {lengths[parent] for parent in second}


OTHERS = ("llava_next", "qwen3_vl", "gemma3", "gemma4", "paligemma", "internvl", "mllama", "qwen3_5")
"""Tiles, deep features, sliding windows, keys that layers share, prefixes that see themselves whole, cross-attention,
and layers that carry a state."""


@pytest.mark.parametrize("family", OTHERS)
def test_equals_the_plain_search_on_other_families(tmp_path, pictures, family, monkeypatch):
    # random models hardly ever end a sentence: any text may, and some do
    monkeypatch.setattr(sentence_search, "may_end", bool)
    monkeypatch.setattr(sentence_search, "ends", lambda text, following: crc32(f"{text}{following}".encode()) % 3 == 0)
    monkeypatch.setattr(SentenceSearch, "_may_end_at", lambda search, token: True)
    policy = load_policy(ModelSpec(path=str(save_family(family, tmp_path)), layout="rows"), trainable=False)
    spec = replace(SPEC, candidates=3, max_sentences=2)
    trees = searched(policy, [prompt_group("a", "describe the image", pictures[:1])], spec)
    assert len(starts(trees[0])) >= 2


def grown(policy, groups, **options):
    return SentenceSearch(HFEngine(policy), replace(SPEC, **options)).grow(groups)


@pytest.fixture
def policy(tiny):
    return talkative(sharp_policy(tiny["llava"]))


@pytest.fixture
def groups(pictures):
    return [
        prompt_group("a", "describe the image", pictures[:1]),
        prompt_group("b", "is there a red circle?", pictures[1:2]),
        prompt_group("c", "how many objects can you see in it?", pictures[:1]),
    ]


def siblings(tree):
    return [[n for n in tree.nodes if n.parent == parent] for parent in sorted({n.parent for n in tree.nodes[1:]})]


def test_without_a_penalty_groups_are_equal_and_with_the_published_one_they_begin_otherwise(policy, groups):
    for tree in grown(policy, groups[:1], diversity=0.0, max_sentences=2):
        assert all(len({node.tokens for node in some}) == 1 and len(some) == 4 for some in siblings(tree))
    (tree,) = grown(policy, groups[:1], diversity=3.0)
    assert all(len({node.tokens[0] for node in some}) > 1 for some in siblings(tree))
    (tree,) = grown(policy, groups[:1], diversity=1e6)
    assert all(len({node.tokens[0] for node in some}) == 4 for some in siblings(tree))


def test_a_tree_does_not_depend_on_what_is_searched_beside_it(policy, groups):
    lift(policy, policy.processor.tokenizer.eos_token_id, 2.0)
    together = grown(policy, groups)
    apart = [tree for group in groups[::-1] for tree in grown(policy, [group])][::-1]
    for one, other in zip(together, apart, strict=True):
        assert [(n.parent, n.tokens, n.text, n.final, n.answer) for n in one.nodes] == [
            (n.parent, n.tokens, n.text, n.final, n.answer) for n in other.nodes
        ]
        for a, b in zip(one.nodes, other.nodes, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
    assert len({len(tree.nodes) for tree in together}) > 1  # levels of different widths, side by side


def test_a_level_keeps_the_best_and_the_worst(policy, groups):
    (tree,) = grown(policy, groups[:1], candidates=5, width=5, max_sentences=3)
    levels = Counter(len(tree.path(node.parent)) for node in tree.nodes[1:])
    goes_on = [node for node in tree.nodes if node.final is None and len(tree.path(node.id)) == 2]
    assert levels[0] == 5 and levels[1] in (5, 15, 20) and len(goes_on) > 5
    mean = {n.id: sum(sum(one.logprobs) / len(one.tokens) for one in tree.path(n.id)) for n in goes_on}
    order = sorted(mean, key=lambda key: -mean[key])
    assert {node.parent for node in tree.nodes if len(tree.path(node.id)) == 3} == {order[0], *order[-2:]}


def test_is_pruned_by_the_calibrated_score_where_asked(policy, groups):
    asked = []

    def relevance(trees):
        asked.extend([node.id for node in tree.unasked()] for tree in trees)
        return [tree.with_relevance({n.id: float(sum(n.tokens) % 97) for n in tree.unasked()}) for tree in trees]

    score = CalibrationSpec(mode="raw", weight=1.0, path_reduce="sum")
    spec = replace(SPEC, prune_by="calibrated", width=5, max_sentences=3)
    (tree,) = SentenceSearch(HFEngine(policy), spec, score, relevance).grow(groups[:1])
    scores = sentence_scores(relevance([tree])[0], score)
    second = [node for node in tree.nodes if node.final is None and len(tree.path(node.id)) == 2]
    total = {n.id: sum(scores.get(one.id, 0.0) for one in tree.path(n.id)) for n in second}
    order = sorted(total, key=lambda key: (-total[key], key))
    assert len(order) >= 5
    assert {node.parent for node in tree.nodes if len(tree.path(node.id)) == 3} == {order[0], *order[-2:]}
    assert len(asked) == 3 and not set(asked[0]) & set(asked[1])  # for what is new of the levels that go on


def test_an_answer_ends_at_its_end_of_turn_or_is_cut(policy, groups):
    engine = HFEngine(policy)
    trees = grown(policy, groups)
    for tree in trees:
        for path in tree.answers():
            tokens = [token for node in path for token in node.tokens]
            last = path[-1]
            assert last.answer == engine.tokenizer.decode(tokens, skip_special_tokens=True).strip()
            assert (last.final == "stop") == (tokens[-1] in engine.ends)
            assert not set(tokens[:-1]) & set(engine.ends) and len(last.tokens) <= SPEC.max_new_tokens
    (cut,) = grown(policy, groups[:1], max_characters=20, max_sentences=None)
    ends = [path[-1] for path in cut.answers() if path[-1].final == "length"]
    assert ends and all(len(node.answer) >= 20 for node in ends)
    assert all(len(path[-2:-1]) == 0 or path[-2].final is None for path in cut.answers())


def test_an_answer_ends_before_the_context_of_the_model(policy, groups):
    search = SentenceSearch(HFEngine(policy), replace(SPEC, max_sentences=None, max_characters=10**6))
    prompt = len(search.engine.read(groups[0]))
    search.engine.longest = prompt + 15
    (tree,) = search.grow(groups[:1])
    cut = [node for node in tree.nodes if node.final == "length"]
    lengths = [sum(len(one.tokens) for one in tree.path(node.id)) for node in cut]
    assert cut and all(9 < length <= 15 for length in lengths)
    search.engine.longest = prompt + 5
    with pytest.raises(DataError, match=r"with 6 new ones it exceeds .* Lower search\.max_new_tokens"):
        search.grow(groups[:1])


def test_an_end_of_turn_alone_is_kept_and_junk_ends_its_branch(policy, groups):
    lift(policy, policy.processor.tokenizer.eos_token_id, 1e3)
    (tree,) = grown(policy, groups[:1], junk="drop", diversity=0.0)
    assert [(node.text, node.final, node.junk, node.answer) for node in tree.nodes[1:]] == [("", "stop", None, "")] * 4
    lift(policy, policy.processor.tokenizer.eos_token_id, -2e3)
    lift(policy, policy.processor.tokenizer.encode("t", add_special_tokens=False)[0], 1e3)
    (tree,) = grown(policy, groups[:1], junk="drop", diversity=0.0)
    assert [(node.text, node.final, node.junk) for node in tree.nodes[1:]] == [("tttttt", None, "run")] * 4
    assert not list(tree.answers())


def test_placeholders_are_never_taken_and_the_policy_is_left_as_it_was(policy, groups):
    for token in HFEngine(policy).forbidden:
        lift(policy, token, 1e4)
    policy.train()
    (tree,) = grown(policy, groups[:1])
    assert not {token for node in tree.nodes for token in node.tokens} & set(HFEngine(policy).forbidden)
    assert policy.training
    with pytest.raises(DataError, match="has 2 prompts, and a tree grows from one"):
        grown(policy, [replace(groups[0], prompts=groups[0].prompts * 2)])


def test_pictures_and_sentences_are_computed_once(policy, groups, monkeypatch):
    widths, encoded = [], []
    image_features = policy.image_features
    monkeypatch.setattr(
        policy, "image_features", lambda batch: encoded.append(batch.image_tokens) or image_features(batch)
    )
    policy.language.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
    )
    grown(policy, groups)
    assert [len(tokens) for tokens in encoded] == [2]  # two prompts share a picture
    assert widths[0][0] == 1 and all(width == 1 for _, width in widths[1:])
    assert len(widths) <= 1 + SPEC.max_sentences * SPEC.max_new_tokens
