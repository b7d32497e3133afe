"""Every online method on real records and photographs, through the command line (``online_records``).

The policy is a tiny LLaVA that SFT has taught the form of answers; a run has one round of samples, and two steps on it.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_judge import FakeJudge, body
from online_records import ROWS, SOURCES, WORDS, Source, judged, verdict
from safetensors.torch import load_file
from torch import Tensor

from command_line import Train, sightline
from sightline.algorithms.presets import PRESETS
from sightline.algorithms.registry import build_algorithm
from sightline.data.render import Renderer
from sightline.data.schema import read_groups
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import ModelSpec
from sightline.train.engine import score_batch
from sightline.types import Group
from tiny_models import save_tiny

pytestmark = pytest.mark.real

ANSWERS, TOKENS, BUFFER = 6, 12, 4
"""Answers to a prompt, most tokens of each, and DAPO's soft limit before that."""
END = 2
"""Id of the end of turn."""
ADAPTER = "adapter_model.safetensors"
ALL = {"language": "full", "projector": "full", "vision": "full"}
ADAPTERS = dict.fromkeys(ALL, "lora")
OVIP = {"good": 0.9, "small_gap": 0.9, "least_deviation": 0.3, "bad": 0.2, "reference": "label"}


@dataclass(frozen=True, kw_only=True)
class World:
    """What all runs share."""

    model: Path
    """The policy that they start from."""
    before: Path
    """The model that it was made from by SFT."""
    sources: dict[str, Source]
    judge: FakeJudge


def judge_script(number: int, request: dict[str, Any]) -> Any:
    *_, text = request["messages"][-1]["content"]
    answer = text["text"].partition("The answer to judge:\n")[2].rpartition("\n\nFirst name")[0]
    return 200, {}, body(f"Score: {verdict(answer)}"), 0


@pytest.fixture(scope="module")
def world(shared_data: Path, train: Train, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("online")
    (folder / "pictures").mkdir()
    made = {name: source(shared_data, folder / "pictures") for name, source in SOURCES.items()}
    rows = [row for source in made.values() for row in source.taught]
    (folder / "taught.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [f" {row[key]}" for row in rows for key in ("prompt", "completion")]
    before = save_tiny("llava", folder / "before", corpus=texts, vocabulary=1200)
    data = {"train": [{"path": str(folder / "taught.jsonl")}]}
    steps = {"epochs": 12, "batch_size": 12, "learning_rate": 1e-2, "schedule": "constant", "warmup": 0}
    overrides = {"model.path": before, "model.parts": ALL, "data": data, "train": steps}
    train("real_sft", folder / "sft", *told(overrides))
    with FakeJudge(judge_script) as judge:
        made["judged"] = judged(shared_data, judge.url)
        yield World(model=folder / "sft/model", before=before, sources=made, judge=judge)


def told(overrides: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A documented recipe, and what is said over it."""

    recipe: str
    overrides: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    """None: each in turn."""
    depends: str | None = None
    """What a run logs of how much the picture matters: not zero."""


def preset(name: str) -> Method:
    """A policy gradient, with what its remark in the table of presets says belongs to it."""
    algorithm = build_algorithm({"name": name})
    looks = algorithm.masked != "no"
    own: dict[str, Any] = {"algorithm": {"name": name}}
    own |= {"online.greedy": True} if "values" in algorithm.needs else {}
    own |= {"online.masked": {"kind": "none"}} if name == "ves_rft" else {}
    own |= {"online.dynamic_sampling": 1, "online.overlong_buffer": BUFFER} if name == "dapo" else {}
    measured = {"papo": "kl_prcp", "papo_d": "kl_prcp", "vppo": "sensitivity_score_mean"}
    depends = measured.get(name, "rewards/visual_entropy/mean") if looks else None
    return Method(recipe="papo_scenes" if looks else "grpo_scenes", overrides=own, depends=depends)


METHODS: dict[str, Method] = {
    **{name: preset(name) for name in PRESETS},
    "noisy_rollout": Method(recipe="grpo_scenes", overrides={"online.distorted": {"answers": 3}}),
    "ppo": Method(recipe="ppo_scenes"),
    "ppo_own_critic": Method(recipe="ppo_scenes", overrides={"model.parts": ADAPTERS, "critic": {"hidden": "own"}}),
    "best_worst": Method(recipe="dpo_online_scenes"),
    "ranked": Method(recipe="dpo_online_scenes", overrides={"online.relation": "ranked", "algorithm.link": "ipo"}),
    "length_balanced": Method(recipe="dpo_online_scenes", overrides={"online.relation": "length_balanced"}),
    "adapters": Method(recipe="dpo_online_scenes", overrides={"model.parts": ADAPTERS, "reference": "adapter"}),
    "buffer": Method(recipe="dpo_online_scenes", overrides={"online.buffer": {"uses": 2, "fresh": 0.5}}),
    "ovip": Method(recipe="dpo_ovip_scenes", overrides={"online.selection": OVIP}, source="yes_no"),
    "iris": Method(recipe="dpo_online_scenes"),
    "simpo": Method(recipe="dpo_online_scenes", overrides={"algorithm": {"name": "simpo"}, "reference": "none"}),
    "raft": Method(recipe="raft_scenes"),
}
PLACES = {name: place for place, name in enumerate(METHODS)}


@pytest.fixture(scope="module")
def policy(world: World) -> Policy:
    return loaded(world.model)


def loaded(model: Path, adapter: Path | None = None) -> Policy:
    return load_policy(ModelSpec(path=str(model), adapter=adapter and str(adapter)), trainable=False)


def run(world: World, train: Train, source: Source, method: Method, folder: Path) -> list[dict[str, Any]]:
    """One round, all of its answers in each of two steps. Comes out: what the run logged."""
    given = {
        "model.path": world.model, "model.parts": ALL, "online.prompts": source.prompts, "online.min_gap": 0.0,
        "online.reward": {"facts": source.facts, "length": {"weight": 0.1, "unit": "words", "limit": WORDS}},
        "online.sampling.n": ANSWERS, "online.sampling.max_new_tokens": TOKENS, "online.steps_per_round": 1,
        "online.inner_epochs": 2, "train.batch_size": ROWS, "train.max_steps": 2, "train.learning_rate": 1e-3,
    }  # fmt: skip
    own = {"online.reward.iris": {"reference": world.before}} if method is METHODS["iris"] else {}
    _, records = train(method.recipe, folder, *told(given | method.overrides | own))
    return records


def logprobs(policy: Policy, groups: Sequence[Group]) -> list[list[Tensor]]:
    """Of the tokens of each answer of each group, by transformers' own forward pass on each row."""
    renderer = Renderer(policy.processor, policy.family)
    batch = score_batch(policy, [renderer.render(group) for group in groups], "rows")
    assert batch.old_logprobs is not None
    found = iter(batch.old_logprobs.split(batch.response.bincount(minlength=batch.num_responses).tolist()))
    return [[next(found) for _ in group.responses] for group in groups]


def without_picture(group: Group) -> Group:
    (prompt,) = group.prompts
    (message,) = prompt.messages
    text = [part for part in message["content"] if part["type"] == "text"]
    return replace(group, prompts=(replace(prompt, images=(), messages=({**message, "content": text},)),))


def check_samples(source: Source, samples: Sequence[Group]) -> None:
    """Every record was asked with its picture, and every answer is worth what its facts say."""
    told = [(one.messages[0]["content"][-1]["text"].strip(), Path(one.images[0])) for g in samples for one in g.prompts]
    assert set(told) == {(question.strip(), picture) for question, picture in source.asked}
    for group in samples:
        for response in group.responses:
            assert response.tokens and response.finish_reason == ("stop" if response.tokens[-1] == END else "length")
            parts = {"facts": source.worth(group.prompts[0], response.text)}
            parts["length"] = len(response.text.split()) / WORDS
            if "overlong" in response.rewards:
                parts["overlong"] = -max(0.0, len(response.tokens) - TOKENS + BUFFER) / BUFFER
            assert response.rewards == pytest.approx({**response.rewards, **parts}), response.text
            assert response.reward == pytest.approx(sum(response.rewards.values()) - 0.9 * parts["length"])
    assert any(len({response.rewards["facts"] for response in group.responses}) > 1 for group in samples)


def check_pictures(policy: Policy, groups: Sequence[Group], shown: list[list[Tensor]]) -> None:
    """The sampler's numbers are those of the policy with the picture, and no others."""
    hidden = logprobs(policy, [without_picture(group) for group in groups])
    for group, with_it, without in zip(groups, shown, hidden, strict=True):
        for response, seen, unseen in zip(group.responses, with_it, without, strict=True):
            assert (seen - unseen).abs().max() > 1e-3
            if response.distorted is None:  # what noise made less likely is not kept
                assert torch.allclose(torch.tensor(response.rollout_logprobs), seen, atol=1e-4)


def check_iris(world: World, policy: Policy, groups: Sequence[Group], shown: list[list[Tensor]]) -> None:
    """How much more the picture made of each answer than the question alone did, since before SFT."""
    first = loaded(world.before)
    bare = [without_picture(group) for group in groups]
    scores = (shown, logprobs(first, groups), logprobs(policy, bare), logprobs(first, bare))
    for group, *of_group in zip(groups, *scores, strict=True):
        for response, *of_answer in zip(group.responses, *of_group, strict=True):
            now, then, bare_now, bare_then = (float(one.sum()) for one in of_answer)
            assert response.rewards["iris"] == pytest.approx(now - then - (bare_now - bare_then), abs=1e-3)


def check_judge(world: World, source: Source) -> None:
    """It was shown every photograph as it lies on disk, with its question."""
    shown = set()
    for request in world.judge.requests:
        picture, text = request["messages"][-1]["content"]
        shown.add((picture["image_url"]["url"].partition("base64,")[2], text["text"]))
    for question, path in source.asked:
        encoded = base64.b64encode(path.read_bytes()).decode()
        assert any(question in text for picture, text in shown if picture == encoded), path


def check_tower(before: Path, after: Path) -> None:
    """The loss moved the vision tower, so it saw the pictures."""
    if (after / ADAPTER).exists():
        names = {name: value for name, value in load_file(after / ADAPTER).items() if "vision" in name}
        tower = [value for name, value in names.items() if "layers.0." in name and "lora_B" in name]
        assert tower and all(bool(value.any()) for value in tower)
        return
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    tower = [name for name in old if "vision" in name and "layers.0." in name]
    assert tower and not any(torch.equal(old[name], new[name]) for name in tower)


def covariance(groups: Sequence[Group], before: list[list[Tensor]], after: list[list[Tensor]]) -> float:
    """Of reward and gain in log-probability: whether better answers became likelier than worse ones."""
    total = 0.0
    for group, old, new in zip(groups, before, after, strict=True):
        rewards = torch.tensor([response.reward for response in group.responses])
        gains = torch.stack([(b - a).sum() for a, b in zip(old, new, strict=True)])
        total += float((rewards - rewards.mean()) @ gains)
    return total


@pytest.mark.parametrize("name", METHODS)
def test_method(world: World, policy: Policy, train: Train, tmp_path: Path, name: str) -> None:
    method, folder = METHODS[name], tmp_path / "run"
    source = world.sources[method.source or list(world.sources)[PLACES[name] % len(world.sources)]]
    records = run(world, train, source, method, folder)

    assert [record["step"] for record in records] == [1, 2]
    assert all(math.isfinite(value) for record in records for value in record.values())
    assert all(record["grad_norm"] > 0 for record in records)
    assert method.depends is None or all(record[method.depends] != 0 for record in records)
    rows = json.loads((folder / "environment.json").read_text())["rows"]
    assert rows == {"train": f"{ROWS} of {ROWS} rows kept, {ROWS} with pictures"}

    samples = list(read_groups(folder / "samples.jsonl"))
    check_samples(source, samples)
    first = [group for group in samples if group.responses[0].policy_version == 0]
    answers = [response for group in first for response in group.responses if not response.greedy]
    assert len(answers) == ANSWERS * len(first) >= ANSWERS * ROWS
    assert records[0]["reward"] == pytest.approx(sum(response.reward or 0.0 for response in answers) / len(answers))

    before = logprobs(policy, first)
    check_pictures(policy, first, before)
    check_tower(world.model, folder / "model")
    if source is world.sources["judged"]:
        check_judge(world, source)
    if name == "iris":
        check_iris(world, policy, first, before)
    adapter = folder / "model" if (folder / "model" / ADAPTER).exists() else None
    trained = loaded(folder / "model" if adapter is None else world.model, adapter)
    assert covariance(first, before, logprobs(trained, first)) > 0


def test_best_of_n_by_commands(world: World, policy: Policy, train: Train, tmp_path: Path) -> None:
    """Records converted, sampled, scored by their annotations; SFT on the best answers makes these likelier."""
    source, rows = world.sources["coco"], tmp_path / "rows.jsonl"
    asked = ["data", "convert", source.prompts["path"], "--image-dir", source.prompts["image_dir"], "--limit", ROWS]
    samples, scored, best = (tmp_path / f"{name}.jsonl" for name in ("samples", "scored", "best"))
    terms = tmp_path / "terms.yaml"
    terms.write_text(json.dumps({"facts": source.facts, "length": {"weight": 0.1, "unit": "words", "limit": WORDS}}))
    for command in (
        [*asked, "--rename", "text=prompt", "--where", "category=detail", "-o", rows],
        ["sample", world.model, rows, "-n", 8, "--max-tokens", TOKENS, "-o", samples],
        ["score", samples, "--reward", terms, "-o", scored],
        ["pairs", scored, "--best", "-o", best],
    ):
        done = sightline(*command)
        assert done.code == 0, done.err
    answered, kept = list(read_groups(scored)), list(read_groups(best))
    check_samples(source, answered)
    for group, one in zip(answered, kept, strict=True):
        assert one.responses == (max(group.responses, key=lambda response: response.reward or 0.0),)
    before = logprobs(policy, kept)
    check_pictures(policy, kept, before)

    data = {"train": [{"path": best}]}
    steps = {"max_steps": 2, "batch_size": ROWS, "learning_rate": 1e-3, "schedule": "constant", "warmup": 0}
    train(
        "sft_llava",
        tmp_path / "run",
        *told({"model.path": world.model, "model.parts": ALL, "data": data, "train": steps}),
    )
    check_tower(world.model, tmp_path / "run/model")
    after = logprobs(loaded(tmp_path / "run/model"), kept)
    assert all(
        float((new - old).sum()) > 0
        for olds, news in zip(before, after, strict=True)
        for old, new in zip(olds, news, strict=True)
    )
