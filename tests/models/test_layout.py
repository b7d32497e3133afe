"""The tree in numbers, rope positions against transformers, segment attention against a dense mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from groups import corner_groups, user

from sightline.data.render import Renderer
from sightline.errors import DataError, UnsupportedError
from sightline.models.attention_plan import plan_attention
from sightline.models.family import Family, join_images, text_positions
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec
from sightline.rendered import ImageInputs, RenderedGroup, RenderedPrompt, RenderedResponse
from sightline.types import Group, Prompt, Response
from tiny_models import FAMILIES

PLAIN = Family(
    name="plain", model_types=("plain",), language="", projector=(), vision=(), image_keys=("pixel_values",),
    join=join_images, positions=text_positions,
)  # fmt: skip


def image(key: str, tokens: int) -> ImageInputs:
    return ImageInputs(key=key, tensors={"pixel_values": torch.zeros(1, 1)}, num_tokens=tokens)


def rendered(
    prompts: list[RenderedPrompt], answers: list[tuple[int, tuple[int, ...]]], *images: ImageInputs
) -> RenderedGroup:
    responses = tuple(RenderedResponse(prompt=p, tokens=t, trained=(True,) * len(t)) for p, t in answers)
    group = Group(
        prompts=tuple(Prompt(id=str(n), messages=()) for n in range(len(prompts))),
        responses=tuple(Response(text="", prompt=p) for p, _ in answers),
        source="rows.json:5",
    )
    return RenderedGroup(group=group, prompts=tuple(prompts), responses=responses, images=images)


def test_the_tree_of_two_questions_on_one_picture() -> None:
    """Prompts 1 P P 5 6 and 1 P P 5 7: a trunk of four, two stems, three branches."""
    first = RenderedPrompt(tokens=(1, 9, 9, 5, 6), images=(0,), placeholders=(1, 2))
    second = RenderedPrompt(tokens=(1, 9, 9, 5, 7), images=(0,), placeholders=(1, 2))
    group = rendered([first, second], [(0, (20, 2)), (0, (21, 2)), (1, (22, 23, 2))], image("a", 2))
    batch = lay_out([group], "tree", PLAIN, None)
    assert batch.tokens.tolist() == [1, 9, 9, 5, 6, 7, 20, 2, 21, 2, 22, 23, 2]
    assert batch.segment.tolist() == [0, 0, 0, 0, 1, 2, 3, 3, 4, 4, 5, 5, 5]
    assert batch.parent.tolist() == [-1, 0, 0, 1, 1, 2]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 4, 5, 6, 5, 6, 5, 6, 7]
    assert batch.source.tolist() == [4, 6, 4, 8, 5, 10, 11]
    assert batch.target.tolist() == [20, 2, 21, 2, 22, 23, 2]
    assert batch.response.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert batch.last.tolist() == [7, 9, 12]
    assert (batch.placeholder.tolist(), batch.feature.tolist(), batch.image_tokens) == ([1, 2], [0, 1], (2,))


def test_different_pictures_are_not_one_trunk() -> None:
    first = RenderedPrompt(tokens=(1, 9, 5), images=(0,), placeholders=(1,))
    second = RenderedPrompt(tokens=(1, 9, 5), images=(1,), placeholders=(1,))
    batch = lay_out(
        [rendered([first, second], [(0, (2,)), (1, (2,))], image("a", 1), image("b", 1))], "tree", PLAIN, None
    )
    assert batch.tokens.tolist() == [1, 9, 5, 9, 5, 2, 2]
    assert batch.parent.tolist() == [-1, 0, 0, 1, 2]
    assert batch.feature.tolist() == [0, 1]


def test_a_prompt_that_continues_another_hangs_on_it() -> None:
    short, long = RenderedPrompt(tokens=(1, 2, 3)), RenderedPrompt(tokens=(1, 2, 3, 4, 5))
    for order in ([short, long], [long, short]):
        batch = lay_out([rendered(order, [(0, (7,)), (1, (8,))])], "tree", PLAIN, None)
        assert batch.tokens.tolist() == [1, 2, 3, 4, 5, 7, 8]
        end = {7: 2, 8: 4} if order[0] is short else {7: 4, 8: 2}
        assert batch.source.tolist() == [end[7], end[8]]


def test_a_prompt_without_responses_costs_nothing() -> None:
    group = rendered(
        [RenderedPrompt(tokens=(1, 2)), RenderedPrompt(tokens=(4, 5), images=(0,))], [(0, (7,))], image("a", 1)
    )
    for layout in ("rows", "packed", "tree"):
        batch = lay_out([group], layout, PLAIN, None)  # type: ignore[arg-type]
        assert batch.tokens.tolist() == [1, 2, 7]
        assert not batch.vision


def test_one_picture_in_two_groups_is_encoded_once() -> None:
    prompt = RenderedPrompt(tokens=(1, 9, 9, 4), images=(0,), placeholders=(1, 2))
    groups = [rendered([prompt], [(0, (7,))], image("a", 2)) for _ in range(2)]
    tree = lay_out(groups, "tree", PLAIN, None)
    assert (tree.image_tokens, tree.feature.tolist()) == ((2,), [0, 1, 0, 1])
    rows = lay_out(groups, "rows", PLAIN, None)
    assert (rows.image_tokens, rows.feature.tolist()) == ((2, 2), [0, 1, 2, 3])


def test_trained_history_comes_first_and_belongs_to_its_response() -> None:
    prompt = RenderedPrompt(tokens=(1, 30, 31, 4), trained=((1, 3),))
    for layout in ("packed", "tree"):
        batch = lay_out([rendered([prompt], [(0, (7, 2))])], layout, PLAIN, None)  # type: ignore[arg-type]
        assert batch.source.tolist() == [0, 1, 3, 4]
        assert batch.target.tolist() == [30, 31, 7, 2]
    with pytest.raises(DataError, match=r"rows.json:5: prompt '0' trains its history and has 2 responses"):
        lay_out([rendered([prompt], [(0, (7,)), (0, (8,))])], "tree", PLAIN, None)


def test_columns_come_from_the_responses() -> None:
    group = rendered([RenderedPrompt(tokens=(1,))], [(0, (7, 2)), (0, (8,))])
    answers = (
        Response(text="", tokens=(7, 2), weights=(2.0, 0.5), rollout_logprobs=(-1.0, -2.0), reward=1.5, label=True),
        Response(text="", tokens=(8,), rollout_logprobs=(-3.0,), reward=-1, label=False),
    )
    full = RenderedGroup(
        group=Group(prompts=group.group.prompts, responses=answers),
        prompts=group.prompts, responses=group.responses, images=(),
    )  # fmt: skip
    batch = lay_out([full], "tree", PLAIN, None)
    assert batch.weights is not None
    assert batch.weights.tolist() == [2.0, 0.5, 1.0]
    assert batch.rollout_logprobs is not None
    assert batch.rollout_logprobs.tolist() == [-1.0, -2.0, -3.0]
    assert batch.rewards is not None
    assert batch.rewards.tolist() == [1.5, -1.0]
    assert batch.labels is not None
    assert batch.labels.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("weights", [(2.0, 0.5), (2.0, 9.0, 0.5)])
def test_weights_of_trained_tokens_or_of_all(weights: tuple[float, ...]) -> None:
    group = rendered([RenderedPrompt(tokens=(1,))], [(0, (7, 8, 2))])
    trained = (True, False, True)
    answer = Response(text="", tokens=(7, 8, 2), trained=trained, weights=weights)
    responses = tuple(replace(made, trained=trained) for made in group.responses)
    made = replace(group, group=Group(prompts=group.group.prompts, responses=(answer,)), responses=responses)
    batch = lay_out([made], "tree", PLAIN, None)
    assert batch.weights is not None
    assert batch.weights.tolist() == [2.0, 0.5]


def test_a_family_refuses_a_layout_it_does_not_declare() -> None:
    family = Family(**{**vars(PLAIN), "layouts": frozenset({"rows"})})
    with pytest.raises(UnsupportedError, match=r"'plain' does not support layout 'tree'.*Set model.layout"):
        lay_out([], "tree", family, None)


def test_the_dense_mask_is_what_the_segments_say(tiny: dict[str, Path], pictures: list[str]) -> None:
    policy = load_policy(ModelSpec(path=str(tiny["llava"])))
    renderer = Renderer(policy.processor, policy.family)
    batch = lay_out([renderer.render(group) for group in corner_groups(pictures)], "tree", policy.family, policy.config)
    plan = plan_attention(batch, "dense")
    seen = plan.dense_mask(0, torch.float32) == 0
    expected = torch.zeros_like(seen)
    for (start, end), before in zip(plan.spans, plan.ancestors, strict=True):
        for position in range(start, end):
            expected[position, start : position + 1] = True
            for first, last in before:
                expected[position, first:last] = True
    assert torch.equal(seen, expected)


def test_qwen_positions_are_those_of_transformers(tiny: dict[str, Path], pictures: list[str]) -> None:
    policy = load_policy(ModelSpec(path=str(tiny["qwen2_5_vl"])))
    renderer = Renderer(policy.processor, policy.family)
    message = user(None, "and", None, None, "what are they?")
    prompt = Prompt(id="0", messages=(message,), images=(pictures[0], pictures[3], pictures[5]))
    group = renderer.render(Group(prompts=(prompt,), responses=(Response(text="three pictures"),)))
    batch = lay_out([group], "tree", policy.family, policy.config)
    marks = torch.zeros(1, batch.tokens.shape[0], dtype=torch.int32)
    marks[0, batch.placeholder] = 1
    expected, _ = policy.base.model.get_rope_index(
        batch.tokens[None], mm_token_type_ids=marks, image_grid_thw=batch.vision["image_grid_thw"]
    )
    assert torch.equal(batch.positions, expected[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_plain_forward(tiny: dict[str, Path], pictures: list[str], family: str) -> None:
    """``rows`` is the oracle of the layouts; its own oracle is one row through the whole model and log_softmax."""
    policy = load_policy(ModelSpec(path=str(tiny[family]))).eval()
    renderer = Renderer(policy.processor, policy.family)
    group = renderer.render(corner_groups(pictures)[0])
    with torch.no_grad():
        own = policy(lay_out([group], "rows", policy.family, policy.config)).logprobs
        ids = torch.tensor([[*group.prompts[0].tokens, *group.responses[1].tokens]])
        vision = policy.family.join([group.images[0].tensors])
        extra = policy.family.row_inputs(ids == policy.processor.image_token_id, ids < 0, {})
        logits = policy.base(input_ids=ids, **vision, **extra).logits[0]
    start = len(group.prompts[0].tokens)
    expected = torch.log_softmax(logits[start - 1 : -1], -1).gather(1, ids[0, start:, None])[:, 0]
    assert torch.allclose(own[-len(expected) :], expected, atol=1e-5)
