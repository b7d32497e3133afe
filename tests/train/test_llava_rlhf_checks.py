"""The acceptance checks (a) to (j) of Fact-RLHF (LLaVA-RLHF) on the parts that a run is made of, each under its letter;
rewards and PPO are those of recipes/papers/llava_rlhf_ppo.yaml."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import train_runs
from test_ppo import recipe as ppo

from evaluation.benches.scripted_judge import ScriptedJudge
from sightline.algorithms.ppo import PPO
from sightline.algorithms.registry import build_algorithm
from sightline.algorithms.reward_model import RewardModel
from sightline.data.augment import Reader
from sightline.data.load import Account, load_prompts
from sightline.data.render import Renderer
from sightline.data.schema import read_groups
from sightline.data.validate import Checks
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.mmhal import BENCH
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import DataSpec, ModelSpec, ReadsSpec
from sightline.rewards.build import build_reward
from sightline.train.gradients import OneProcess
from sightline.train.loop import train
from sightline.train.session import open_session
from sightline.types import Edge, Group, Prompt, Response

RECIPE = load_recipe(Path(__file__).parents[2] / "recipes/papers/llava_rlhf_ppo.yaml")
REWARD = frozenset({"reward"})


def reward(
    text: str = "x", *, tokens: int = 0, finish: str = "stop", **facts: object
) -> tuple[float, dict[str, float]]:
    """What the terms of the recipe give an answer, but for the reward model: the sum, and the parts."""
    terms = {name: term for name, term in RECIPE.online.reward.items() if name != "model"}
    made = build_reward(terms, max_new_tokens=RECIPE.online.sampling.max_new_tokens)
    answer = Response(text=text, tokens=(5,) * tokens, finish_reason=finish)
    messages = ({"role": "user", "content": [{"type": "text", "text": "?"}]},)
    prompt = Prompt(id="p", messages=messages, facts={"caption_type": 1, **facts})
    (scored,) = made.reward(Group(prompts=(prompt,), responses=(answer,))).responses
    return scored.reward, dict(scored.rewards)


def first_round(recipe, monkeypatch) -> list:
    """The batches that the loss is given in the first step."""
    seen, loss = [], PPO.loss
    monkeypatch.setattr(PPO, "loss", lambda self, batch, *more: (seen.append(batch), loss(self, batch, *more))[1])
    train(replace(recipe, train=replace(recipe.train, max_steps=1)), quiet=True)
    return seen


def test_a_equal_adapters_have_equal_log_probabilities_and_no_divergence(tiny, tmp_path, monkeypatch):
    """The policy goes on from an adapter that is not nothing, and the reference is that adapter."""
    start = train_runs.recipe(tiny["llava"], tmp_path / "start", model=train_runs.lora(tiny["llava"]), max_steps=3)
    train(start, quiet=True)
    spec = ModelSpec(path=str(tiny["llava"]), adapter=f"{start.output_dir}/model")
    made = replace(ppo(tiny["llava"], tmp_path / "ppo", algorithm={"kl_clamp": True}), model=spec)
    (batch,) = first_round(made, monkeypatch)
    assert torch.equal(batch.old_logprobs, batch.ref_logprobs)
    bare = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False)
    without = bare(replace(batch, features=None, plans={}), frozenset({"logprobs"})).logprobs
    assert (without - batch.ref_logprobs).abs().max() > 1e-2
    (record,) = [json.loads(line) for line in (tmp_path / "ppo/run/metrics.jsonl").read_text().splitlines()]
    assert record["objective/kl"] == record["kl"] == 0


def test_b_a_critic_of_zeros_gives_the_reward_to_go(tiny, tmp_path, monkeypatch):
    """Ten times the score at every token, as the recipe multiplies."""
    made = ppo(tiny["llava"], tmp_path, algorithm={**RECIPE.algorithm, "whiten_advantages": False})
    (batch,) = first_round(made, monkeypatch)
    assert not batch.values.any() and batch.rewards.any()
    assert torch.equal(batch.returns, 10 * batch.rewards[batch.response])
    assert torch.equal(batch.advantages, batch.returns)


@pytest.mark.parametrize(("facts", "value"), [({}, -5.0), ({"length_bonus": 1.0}, -5.0), ({"length_bonus": -0.5}, 2.5)])
def test_c_half_the_length_costs_five_and_a_negative_bonus_pays_for_it(facts, value):
    assert reward(tokens=448, **facts)[0] == value


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(3, "B. winter", 2.0), (3, "winter", 0.0), (6, "Yes, it is.", -1.0), (6, "No.", 1.0), (7, "Yes.", 0.0)],
)
def test_d_symbolic_rewards(kind, text, value):
    assert reward(text, caption_type=kind)[0] == value


@pytest.mark.parametrize(("text", "finish", "price"), [("a", "stop", 0), ("a", "length", -8), ("Is it?", "stop", -8)])
def test_e_no_end_of_turn_costs_eight_beside_the_rest(text, finish, price):
    total, parts = reward(text, tokens=448, finish=finish)
    assert total == price - 5 and parts["no_end"] == price / 8


def pair(pictures, *, swapped: bool) -> Group:
    content = [{"type": "image"}, {"type": "text", "text": "describe the image"}]
    prompt = Prompt(id="p", messages=({"role": "user", "content": content},), images=(pictures[0],))
    texts = ["a red circle", "two blue squares and a star"]
    edge = Edge(winner=1, loser=0) if swapped else Edge(winner=0, loser=1)
    answers = tuple(Response(text=text) for text in (texts[::-1] if swapped else texts))
    return Group(prompts=(prompt,), responses=answers, edges=(edge,))


@pytest.mark.parametrize("layout", ["rows", "tree"])
def test_f_a_swapped_pair_negates_the_logit_and_has_the_same_loss(tiny, pictures, layout):
    torch.manual_seed(0)
    policy = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False, heads=REWARD).eval()
    torch.nn.init.normal_(policy.score_head.weight)
    renderer, found = Renderer(policy.processor, policy.family), []
    for swapped in (False, True):
        rendered = renderer.render(pair(pictures, swapped=swapped))
        batch = lay_out([rendered], layout, policy.family, policy.config)
        scores = policy(batch, REWARD)
        terms, _ = RewardModel(center_rewards_coefficient=0.001).loss(batch, scores, OneProcess())
        first, second = scores.reward.tolist()
        found.append((second - first, [float(term.values.sum()) for term in terms]))
    (logit, losses), (other, same) = found
    assert abs(logit) > 0.1 and other == pytest.approx(-logit, rel=1e-4)
    assert losses == pytest.approx(same, rel=1e-4) and len(losses) == 2


def test_g_the_score_is_read_where_the_lead_in_ends_whatever_is_beside(tiny, pictures):
    """At the end of turn behind its last word: here training and scoring read the same layout."""
    torch.manual_seed(0)
    policy = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False, heads=REWARD).eval()
    torch.nn.init.normal_(policy.score_head.weight)
    renderer = Renderer(policy.processor, policy.family)
    spec = ReadsSpec(facts=("captions",), criteria="default")
    facts = {"captions": ["A {red} circle.", "One shape."]}
    short = pair(pictures, swapped=False)
    short = replace(short, prompts=(replace(short.prompts[0], facts=facts),))
    long = replace(short, responses=tuple(replace(one, text=one.text + " and more" * 30) for one in short.responses))
    long = replace(long, prompts=(replace(long.prompts[0], id="q", images=(pictures[3],)),))
    read = [renderer.render(Reader(spec)(group)) for group in (short, long)]
    tail = policy.processor.tokenizer.decode(policy.processor.tokenizer(spec.lead_in).input_ids).split()[-1]
    expected = None
    for layout in ("rows", "packed", "tree"):
        for groups in ([read[0]], [read[0], read[1]], [read[1], read[0]]):
            batch = lay_out(groups, layout, policy.family, policy.config)
            place = groups.index(read[0])
            mine = batch.group == place
            last = batch.last[mine]
            assert {int(token) for token in batch.tokens[last]} == {policy.processor.tokenizer.eos_token_id}
            assert [policy.processor.tokenizer.decode([int(one)]).strip() for one in batch.tokens[last - 1]] == [
                tail
            ] * 2
            scores = policy(batch, REWARD).reward[mine]
            expected = scores if expected is None else expected
            torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_h_a_prompt_that_is_too_long_takes_its_own_picture_with_it(tiny, pictures, tmp_path):
    rows = [
        {
            "id": str(number),
            "image": picture,
            "caption_type": 1 + number,
            "conversations": [
                {"from": "human", "value": "<image>\n" + ("word " * 400 if number in (1, 3) else "What is it?")},
                {"from": "gpt", "value": ""},
            ],
        }
        for number, picture in enumerate(pictures)
    ]
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(rows))
    policy = load_policy(ModelSpec(path=str(tiny["llava"])), trainable=False)
    count = Renderer(policy.processor, policy.family).num_tokens
    account = Account(checks=Checks(max_length=200, num_tokens=count), on_bad_row="skip")
    kept = [group.prompts[0] for group in load_prompts(DataSpec(path=str(path)), account)]
    assert [(one.images, one.facts["caption_type"]) for one in kept] == [
        ((pictures[number],), 1 + number) for number in (0, 2, 4, 5)
    ]
    assert account.report.by_reason() == {"too long": 2}


def test_i_mmhal_reads_no_rating_out_of_two_and_counts_those_below_three(tmp_path):
    texts = {"question_topic": "t", "question": "Q?", "gt_answer": "A.", "model_answer": "", "question_type": "other"}
    rows = [
        {**texts, "image_id": f"{n}", "image_src": f"https://host/{n}.jpg", "image_content": ["Cat"]} for n in range(4)
    ]
    (tmp_path / "response_template.json").write_text(json.dumps(rows))
    replies = ["Rating: 5, or rather rating: 6", "Rating: 3", "Rating: 2", "Rating: 6. As said, rating: 6"]
    judge = ScriptedJudge({str(number): reply for number, reply in enumerate(replies)})
    result = BENCH.grade(tmp_path, [Answer(id=str(n), text="said") for n in range(4)], "official", {}, judge)
    assert [graded.counts["score"] for graded in result.graded] == [0, 3, 2, 6]
    assert result.metrics["average_score"] == 11 / 4 and result.metrics["hallucination_rate"] == 2 / 4


def test_j_a_run_that_goes_on_samples_the_same_next_round(tiny, tmp_path):
    whole, broken = (ppo(tiny["llava"], tmp_path / name, max_steps=8, save_every=4) for name in "ab")
    train(whole, quiet=True)

    train_runs.stop(broken, 6)
    with open_session(broken) as session:
        assert session.step == 4
    assert train(broken, quiet=True).resumed_from == 4
    texts = [
        [(group.id, response.tokens, response.reward) for group in read_groups(f"{one.output_dir}/samples.jsonl")
         for response in group.responses]
        for one in (whole, broken)
    ]  # fmt: skip
    assert texts[0] == texts[1] and len(texts[0]) == 2 * 5


def test_the_recipe_has_the_published_numbers():
    algorithm = build_algorithm(RECIPE.algorithm)
    assert (algorithm.gamma, algorithm.lam, algorithm.kl_coefficient, algorithm.reward_scale) == (1, 1, 0.1, 10)
    assert (algorithm.epsilon, algorithm.value_epsilon, algorithm.value_coefficient) == (0.2, 0.2, 0.1)
    assert algorithm.kl_clamp and algorithm.kl == "k1" and not algorithm.whiten_rewards
    assert RECIPE.train.batch_size * RECIPE.online.steps_per_round == 512 and RECIPE.online.inner_epochs == 2
