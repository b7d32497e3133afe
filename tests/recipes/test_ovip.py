"""``ovip_online`` on a tiny model, with a judge, a describer and an image service in this process."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path

import pytest
import yaml
from fake_judge import FakeJudge, body
from PIL import Image

from fake_server import FakeServer
from sightline.data.schema import read_groups
from sightline.errors import RecipeError
from sightline.recipes.load import load_recipe
from sightline.train.loop import train
from sightline.train.metrics import read_metrics

RECIPE = Path(__file__).parents[2] / "recipes/papers/ovip_online.yaml"


class Images(FakeServer):
    def __init__(self):
        super().__init__("generate")

    def answer(self, number, request):
        rng, held = random.Random(request["seed"]), io.BytesIO()
        picture = Image.new("RGB", (24, 24), (rng.randrange(256), 40, 40))
        picture.paste((3, 200, rng.randrange(256)), (0, 0, 12, 24))
        picture.save(held, format="PNG")
        return 200, {}, {"image": base64.b64encode(held.getvalue()).decode()}


def both(_, request):
    """Judge and describer on one server: a score by the words of an answer, or a description."""
    text = request["messages"][-1]["content"]
    if "FITTING answer" in text:
        return 200, {}, body(f"A picture of {len(text)} things."), 0
    return 200, {}, body(f"Fair enough. Score: {random.Random(text).randrange(11)}"), 0


def test_the_recipe_trains_with_services(tiny, pictures, tmp_path):
    rows = [{"question": "What is it?", "image": path, "answer": "a shape"} for path in pictures]
    (tmp_path / "prompts.json").write_text(json.dumps(rows))
    with FakeJudge(both) as judge, Images() as images:
        address = f"http://127.0.0.1:{judge.port}/v1"
        found = load_recipe(
            RECIPE,
            [
                f"model.path={tiny['llava']}", "model.dtype=float32", f"output_dir={tmp_path / 'run'}",
                f"online.prompts.path={tmp_path / 'prompts.json'}",
                f"online.reward.judge.judge={address}", f"online.negatives.describe.judge={address}",
                f"online.negatives.paint={{urls: [{images.url}], width: 24, height: 24}}",
                "online.negatives.gate=null", "online.sampling.max_new_tokens=5", "train.max_steps=2",
            ],
        )  # fmt: skip
        result = train(found, quiet=True)
    records = read_metrics(result.run_dir / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    assert records[0]["loss"] == pytest.approx(3 * 0.693147, rel=1e-4)  # three comparisons in full
    pairs = list(read_groups(result.run_dir / "pairs.jsonl"))
    assert len(pairs) >= 8 and all(records[0][f"negatives/{name}"] == 0 for name in ("failed", "refused"))
    assert {request["num_inference_steps"] for request in images.requests} == {40}
    scored = [r.reward for g in read_groups(result.run_dir / "samples.jsonl") for r in g.responses]
    assert max(scored) > 5 and min(scored) >= 0  # out of ten


def refused(tmp_path, online: str, *, reward="scenes") -> str:
    values = yaml.safe_load(
        "{name: r, output_dir: runs/r, model: {path: m}, algorithm: {name: dpo}, online: {prompts: {path: p.jsonl}, "
        f"reward: {reward}, relation: ovip, {online}}}}}"
    )
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(RecipeError) as error:
        load_recipe(tmp_path / "r.yaml")
    return str(error.value)


DESCRIBE, PAINT = "describe: {judge: openai:m}", "paint: {path: f}"


@pytest.mark.parametrize(
    ("online", "message"),
    [
        ("negatives: {kind: scenes}", "nothing compares them. Add online.visual"),
        ("visual: {relation: ovip, negative: {kind: noise}}, negatives: {kind: scenes}", "Remove one of the two"),
        ("visual: {relation: ovip}, negatives: {kind: crop}", "Valid: text_to_image, edit, inpaint, scenes."),
        ("visual: {relation: ovip}, negatives: {kind: edit}", "kind edit needs describe. Add it"),
        (f"visual: {{relation: ovip}}, negatives: {{kind: edit, {DESCRIBE}}}", "kind edit needs paint. Add it"),
        (f"visual: {{relation: ovip}}, negatives: {{kind: scenes, {DESCRIBE}}}", "describe is not read"),
        (
            f"visual: {{relation: ovip}}, negatives: {{kind: edit, {DESCRIBE}, paint: {{}}}}",
            "found neither path nor urls",
        ),
        (
            f"visual: {{relation: ovip}}, negatives: {{kind: text_to_image, {DESCRIBE}, {PAINT}, box_fact: b}}",
            "the box is one of inpaint",
        ),
        (
            "visual: {relation: ovip}, negatives: "
            f"{{kind: text_to_image, {DESCRIBE}, paint: {{path: f, strength: 1}}}}",
            "paint.strength is not read with kind text_to_image",
        ),
        (
            "visual: {relation: svco}, negatives: {kind: scenes, failed: text}",
            "failed: text compares the answers, and relation svco never does",
        ),
        (
            f"visual: {{relation: ovip}}, negatives: {{kind: edit, {DESCRIBE}, paint: {{path: f, width: 64}}}}",
            "paint.width is not read with kind edit",
        ),
        (
            f"visual: {{relation: ovip}}, negatives: {{kind: edit, {DESCRIBE}, paint: {{path: f, workers: 2}}}}",
            "workers is not read of a pipeline (path)",
        ),
        (
            "visual: {relation: ovip}, negatives: "
            f"{{kind: edit, {DESCRIBE}, paint: {{urls: ['http://h/generate'], dtype: float32}}}}",
            "dtype is not read of services (urls)",
        ),
        (
            "visual: {relation: ovip}, negatives: "
            f"{{kind: edit, {DESCRIBE}, paint: {{urls: ['http://me:secret@h/generate']}}}}",
            "found a user or a password in the address http://h/generate",
        ),
        (
            f"visual: {{relation: ovip}}, negatives: {{kind: edit, {DESCRIBE}, {PAINT}, gate: {{kind: clip}}}}",
            "kind clip needs path",
        ),
        (
            "visual: {relation: ovip}, negatives: "
            f"{{kind: edit, {DESCRIBE}, {PAINT}, gate: {{kind: clip, path: c, judge: openai:m}}}}",
            "judge is not read with kind clip",
        ),
        (
            "visual: {relation: ovip}, negatives: {kind: edit, describe: {judge: openai, options: {key: k}}, "
            f"{PAINT}}}",
            "Set OPENAI_API_KEY instead",
        ),
        ("stages: {painters: 2}", "no pictures are made (online.negatives). Remove painters"),
        ("stages: {overlap: false, queue: 3}", "queue is read with overlap: true alone"),
        ("stages: {}, replay: s.jsonl", "which gives whole rounds at once"),
        ("selection: {most: 0}", "online.selection.most: found 0 (whole number), expected a value >= 1"),
    ],
)
def test_what_would_be_ignored_or_go_wrong_is_refused(tmp_path, online, message):
    assert message in refused(tmp_path, online)


def test_stages_do_not_overlap_where_the_reward_asks_the_policy(tmp_path):
    told = refused(tmp_path, "stages: {}", reward="{iris: {reference: b}}")
    assert "iris asks the policy, which trains meanwhile" in told
