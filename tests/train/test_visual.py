"""Visual preferences in runs: what the data make of them, what is refused, and that they are learnt."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import scene_pairs
import torch
import train_runs
from PIL import Image

from sightline.data.render import Renderer
from sightline.data.schema import read_groups, write_groups
from sightline.errors import DataError, RecipeError
from sightline.models.load import load_policy
from sightline.recipes.schema import DatasetSpec, NegativeSpec, VisualSpec
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from sightline.train.session import open_session
from sightline.types import Edge, Group, Prompt, Response

OTHER = NegativeSpec(kind="other")
RELATIONS = {
    "mdpo": VisualSpec(relation="mdpo", negative=OTHER),
    "svco": VisualSpec(relation="svco", negative=OTHER, symmetric=True),
    "ovip": VisualSpec(relation="ovip", negative=OTHER),
}
EDGES = {"mdpo": 2, "svco": 4, "ovip": 3}
# losses per group at steps 1, 5, 10 and 20
GOLDEN: dict[str, list[float]] = {
    "mdpo": [1.3863, 1.3638, 1.2363, 0.7154],
    "svco": [2.7726, 2.7239, 2.4, 2.1304],
    "ovip": [2.0794, 2.0588, 1.9716, 1.431],
}


@pytest.fixture(scope="module")
def tiny_scenes(tmp_path_factory):
    return scene_pairs.model(tmp_path_factory.mktemp("scenes") / "model")


@pytest.mark.parametrize("name", RELATIONS)
def test_twenty_steps_on_scenes(tiny_scenes, tmp_path, name):
    """The first loss is log 2 per comparison: the policy is still the reference."""
    recipe = scene_pairs.recipe(tiny_scenes, tmp_path, visual=RELATIONS[name])
    train(recipe, quiet=True)
    records = {record["step"]: record for record in read_metrics(tmp_path / "run" / "metrics.jsonl")}
    assert records[1]["loss/dpo"] == pytest.approx(EDGES[name] * 0.6931472, abs=1e-5)
    assert [records[step]["loss/dpo"] for step in (1, 5, 10, 20)] == pytest.approx(GOLDEN[name], rel=0.02)
    assert records[20]["loss/dpo"] < 0.78 * records[1]["loss/dpo"]
    assert records[20]["rewards/accuracies/image"] > 0.6
    assert records[20]["looking/blind"] == 0


@pytest.mark.parametrize("name", RELATIONS)
def test_tree_and_rows_give_the_same_step(tiny_scenes, tmp_path, name):
    """Loss and gradients; in the tree, pictures, questions and their common beginnings are computed once."""

    def step(layout):
        recipe = scene_pairs.recipe(tiny_scenes, tmp_path / layout, visual=RELATIONS[name], max_grad_norm=0)
        recipe = replace(recipe, model=replace(recipe.model, layout=layout))
        with open_session(recipe) as session:
            for parameter in session.policy.parameters():  # away from the reference, where all margins are 0
                parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            batch = session.columns.fill(session.lay_out(groups := session.source.take(0).groups), groups)
            terms, _ = session.algorithm.loss(batch, session.policy(batch), session.runtime)
            loss = sum(term.coefficient * term.values.sum() for term in terms)
            loss.backward()
            named = [pair for part in session.policy.parts().values() for pair in part]
            return (
                float(loss.detach()),
                {n: p.grad for n, p in named if p.grad is not None},
                len(batch.tokens),
                batch.vision,
            )

    rows, tree = step("rows"), step("tree")
    assert tree[0] == pytest.approx(rows[0], rel=1e-5)
    scale = max(float(gradient.abs().max()) for gradient in rows[1].values())
    for key, gradient in rows[1].items():
        torch.testing.assert_close(
            tree[1][key], gradient, rtol=1e-3, atol=1e-5 * scale, msg=lambda m, k=key: f"{k} {m}"
        )
    assert tree[2] < 0.7 * rows[2]
    assert len(tree[3]["pixel_values"]) < len(rows[3]["pixel_values"])


def test_negatives_are_files_of_the_run_that_are_made_once(tiny_scenes, tmp_path):
    recipe = scene_pairs.recipe(tiny_scenes, tmp_path, visual=VisualSpec(relation="mdpo"), max_steps=1)
    user_files = {path: path.read_bytes() for path in (tmp_path / "pictures").iterdir()}
    train(recipe, quiet=True)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "negatives").glob("crop-*.png")}
    rows = list(read_groups(recipe.data.train[0].path))
    assert len(made) == len(rows)
    with open_session(recipe) as session:
        taken = {group.group.id: group.group for group in session.source.take(0).groups}
    assert {Path(group.prompts[1].images[0]) for group in taken.values()} <= set(made)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert {path: path.read_bytes() for path in (tmp_path / "pictures").iterdir()} == user_files


def test_bad_rows_are_named_or_skipped(tiny_scenes, tmp_path):
    recipe = scene_pairs.recipe(tiny_scenes, tmp_path, visual=VisualSpec(relation="mdpo"))
    (spec,) = recipe.data.train
    groups = list(read_groups(spec.path))
    prompt = groups[2].prompts[0]
    text = {"role": "user", "content": [part for part in prompt.messages[0]["content"] if part["type"] == "text"]}
    groups[2] = replace(groups[2], prompts=(replace(prompt, images=(), messages=(text,)),))
    groups[4] = replace(groups[4], edges=())
    write_groups(spec.path, groups)
    with pytest.raises(DataError, match=r"pairs.jsonl, row 3 .* has no picture"), open_session(recipe):
        pass
    skipping = replace(recipe, data=replace(recipe.data, on_bad_row="skip"))
    with open_session(skipping) as session:
        assert session.looking.candidates[2].id == groups[3].id
    bad = [json.loads(line) for line in (tmp_path / "run/bad_rows.jsonl").read_text().splitlines()]
    assert [row["row"] for row in bad] == [3, 5]
    assert "no comparison of answers" in bad[1]["error"]


def test_another_picture_that_makes_a_row_too_long_is_a_bad_row(tiny, tmp_path):
    """A family whose pictures take as many tokens as they are large: the long question gets the large picture."""

    pictures = {side: str(tmp_path / f"{side}.png") for side in (16, 32)}
    for side, path in pictures.items():
        Image.new("RGB", (side, side)).save(path)

    def group(side, question):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = Prompt(id=f"{side}", messages=({"role": "user", "content": content},), images=(pictures[side],))
        answers = (Response(text="yes"), Response(text="no"))
        return Group(prompts=(prompt,), responses=answers, edges=(Edge(winner=0, loser=1),))

    groups = [group(16, "what can you see in the image? " * 4), group(32, "what?")]
    recipe = train_runs.recipe(tiny["qwen2_5_vl"], tmp_path, responses=2)
    (spec,) = recipe.data.train
    write_groups(spec.path, groups)
    policy = load_policy(recipe.model, trainable=False)
    limit = max(Renderer(policy.processor, policy.family).num_tokens(group) for group in groups)
    with open_session(replace(recipe, data=DatasetSpec(train=(spec,), max_length=limit))):
        pass
    visual = replace(spec, visual=VisualSpec(relation="mdpo", negative=OTHER))
    with (
        pytest.raises(DataError, match=rf"row 1 .*take \d+ tokens or more, and may take {limit}"),
        open_session(replace(recipe, data=DatasetSpec(train=(visual,), max_length=limit)), overwrite=True),
    ):
        pass


def test_online_groups_become_comparisons_of_pictures(tiny, tmp_path):
    """Sampled answers keep their ids on every prompt; a killed round goes on from its buffer."""
    visual = VisualSpec(relation="ovip", negative=NegativeSpec(kind="crop"))
    recipe = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE")
    (tmp_path / "data" / "5-1.jsonl").write_text(
        "".join(line for line in (tmp_path / "data" / "5-1.jsonl").read_text().splitlines(True) if "images" in line)
    )
    recipe = replace(recipe, online=replace(recipe.online, visual=visual))
    with open_session(recipe) as session:
        group = session.source.take(0).groups[0].group
        assert [edge.kind for edge in group.edges] == ["text", "image", "image"]
        assert [prompt.id.removeprefix(group.id) for prompt in group.prompts] == ["", "/none", "/crop"]
        assert group.responses[0].tokens == group.responses[2].tokens == group.responses[3].tokens
        assert group.responses[0].rollout_logprobs is not None and group.responses[2].rollout_logprobs is None
    train(recipe, quiet=True, overwrite=True)
    assert all("negatives" not in line for line in (tmp_path / "run/samples.jsonl").read_text().splitlines())


def test_online_prompts_without_picture_are_refused_before_sampling(tiny, tmp_path):
    recipe = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE")
    recipe = replace(recipe, online=replace(recipe.online, visual=VisualSpec(relation="mdpo")))
    with pytest.raises(DataError, match=r"5-1.jsonl:3.*has no picture"), open_session(recipe):
        pass


def test_one_picture_in_all_rows_has_no_other(tiny, tmp_path):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, responses=2)
    (spec,) = recipe.data.train
    groups = [group for group in read_groups(spec.path) if group.prompts[0].images][:1]
    write_groups(spec.path, groups)
    visual = replace(spec, visual=VisualSpec(relation="mdpo", negative=OTHER))
    with pytest.raises(RecipeError, match="all rows have the same picture"):
        train(replace(recipe, data=DatasetSpec(train=(visual,))), quiet=True)
