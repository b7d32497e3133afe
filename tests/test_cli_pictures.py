"""One way to make pictures ready, in training and in every command: as the run saved it, or as said beside figures."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_runs

from command_line import Done, sightline
from sightline.data.render import Renderer
from sightline.data.schema import read_groups
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.recipes.pictures import PictureSpec
from sightline.recipes.schema import ModelSpec
from sightline.rollouts import hf
from sightline.train.loop import train

OFF = ("--picture", "pad_to_square=false")


def ok(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def padded(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with LoRA whose pictures were padded to squares."""
    model = replace(train_runs.lora(tiny["llava"]), pictures=PictureSpec(pad_to_square=True))
    folder = tmp_path_factory.mktemp("padded")
    return train(train_runs.recipe(tiny["llava"], folder, responses=2, model=model, max_steps=2), quiet=True).run_dir


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs about pictures that are no squares, in memory: base64 and data URLs."""
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for index, path in enumerate(train_runs.draw(folder / "drawn")[2:]):
        code = base64.b64encode(Path(path).read_bytes()).decode()
        image = code if index else f"data:image/png;base64,{code}"
        answers = {"chosen": f"a circle, {index}", "rejected": "two stars"}
        lines.append(json.dumps({"prompt": f"what is this, {index}?", "images": [image], **answers}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


def sampled_under(path: Path, spec: ModelSpec) -> float:
    """How far the log-probs that were sampled with are from those of a policy."""
    policy = load_policy(spec, trainable=False).eval()
    renderer = Renderer(policy.processor, policy.family)
    batch = lay_out([renderer.render(group) for group in read_groups(path)], "tree", policy.family, policy.config)
    with torch.no_grad():
        return float((policy(batch).logprobs - batch.rollout_logprobs).abs().max())


def test_samples_see_pictures_as_in_training(padded: Path, rows: Path, tmp_path: Path) -> None:
    trained = ModelSpec(path=str(padded))
    cut = replace(trained, pictures=PictureSpec(pad_to_square=False))
    ok(sightline("sample", padded, rows, "-o", tmp_path / "as.jsonl", "--max-tokens", 5))
    ok(
        sightline(
            "sample", padded, rows, "-o", tmp_path / "cut.jsonl", "--max-tokens", 5, "--picture", "pad_to_square=0"
        )
    )
    for name, own, other in (("as", trained, cut), ("cut", cut, trained)):
        assert (
            sampled_under(tmp_path / f"{name}.jsonl", own)
            < 1e-4
            < 1e-3
            < sampled_under(tmp_path / f"{name}.jsonl", other)
        )
    assert len(list((tmp_path / "images").iterdir())) == 2, "pictures in memory are files beside the answers"
    settings = [json.loads((tmp_path / f"{name}.jsonl.settings.json").read_text()) for name in ("as", "cut")]
    assert "pictures" not in settings[0] and settings[1]["pictures"] == {"pad_to_square": False}
    again = sightline("sample", padded, rows, "-o", tmp_path / "as.jsonl", "--picture", "pad_to_square=false")
    assert again.code == 2 and "made with other settings" in again.err


def test_figures_say_how_pictures_were_made_ready(padded: Path, tmp_path: Path) -> None:
    world = tmp_path / "world"
    world.mkdir()
    (world / "scenes.json").write_text('{"scenes": 2, "questions": 1}')
    command = ("eval", "run", "scenes", "--model", padded, "--data", world, "--max-tokens", 2)
    as_saved = ok(sightline(*command, "-o", tmp_path / "a"))
    other = ok(sightline(*command, "-o", tmp_path / "b", *OFF, "--against", tmp_path / "a"))
    assert "Pictures: image_size shortest_edge 32, pad_to_square true." in as_saved.err
    told = "pad_to_square false (saved with the model: true)"
    assert f"Pictures: image_size shortest_edge 32, {told}." in other.err
    page = (tmp_path / "b" / "report.html").read_text()
    assert told in page and "pictures: image_size shortest_edge 32, pad_to_square true" in page
    facts = [json.loads((tmp_path / n / "scenes/results.json").read_text())["sightline"]["facts"] for n in "ab"]
    assert facts[0]["pictures"]["pad_to_square"] is True and "pictures_saved" not in facts[0]
    assert facts[1]["pictures"]["pad_to_square"] is False and facts[1]["pictures_saved"] == {"pad_to_square": True}
    diff = ok(sightline("eval", "diff", tmp_path / "a", tmp_path / "b"))
    assert "The pictures were made ready differently: image_size" in diff.err
    assert "differently" not in ok(sightline("eval", "diff", tmp_path / "a", tmp_path / "a")).err


def test_preferences_and_their_reference_see_the_same_pictures(padded: Path, rows: Path, tmp_path: Path) -> None:
    done = ok(sightline("eval", "preferences", "--model", padded, "--data", rows, "-o", tmp_path / "a", "--looking", 0))
    assert "pad_to_square true" in done.err
    base = load_policy(ModelSpec(path=str(padded), pictures=PictureSpec()), trainable=False)
    with base.model.disable_adapter(), torch.no_grad():
        renderer = Renderer(base.processor, base.family)
        groups = list(read_groups(tmp_path / "a/preferences/reference.jsonl"))
        batch = lay_out([renderer.render(group) for group in groups], "tree", base.family, base.config)
        logprobs = base(batch).logprobs
    summed = torch.zeros(batch.num_responses).index_add(0, batch.response, logprobs)
    kept = [response.rewards["logprob"] for group in groups for response in group.responses]
    assert summed.tolist() == pytest.approx(kept, abs=1e-4)


def test_chat_takes_the_options(tiny: dict[str, Path], pictures: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ModelSpec] = []
    load = hf.load_engine
    monkeypatch.setattr(hf, "load_engine", lambda spec: asked.append(spec) or load(spec))
    command = ("chat", tiny["llava"], "--image", pictures[0], "--question", "what?", "--max-tokens", 2)
    ok(sightline(*command, "--picture", "pad_to_square=true"))
    assert asked[0].pictures == PictureSpec(pad_to_square=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["pad_to_square"], "the key 'pad_to_square' has no '='"),
        (["max_tiles=1", "max_tiles=2"], "the key 'max_tiles' stands twice"),
        (["max_tile=1"], "unknown key 'max_tile' in pictures. Did you mean 'max_tiles'"),
        (["max_tiles=0"], "max_tiles"),
        (["max_tiles=["], "cannot be read"),
        (["max_tiles=3"], "'llava' has no such option (it has pad_to_square)"),
        (["image_size={shortest_edge: 16}"], "with black borders"),
    ],
)
def test_wrong_options_are_refused(
    tiny: dict[str, Path], rows: Path, tmp_path: Path, options: Any, message: str
) -> None:
    given = [part for option in options for part in ("--picture", option)]
    done = sightline("sample", tiny["llava"], rows, "-o", tmp_path / "x.jsonl", *given)
    assert done.code == 2 and message in done.err, done.err


def test_models_are_asked_in_few_bits(tiny: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")
    ok(sightline("sample", tiny["llava"], rows, "-o", tmp_path / "s.jsonl", "--max-tokens", 4, "--quantization", "nf4"))
    low, plain = (ModelSpec(path=str(tiny["llava"]), quantization=kind) for kind in ("nf4", "none"))
    assert sampled_under(tmp_path / "s.jsonl", low) < 1e-4 < 1e-3 < sampled_under(tmp_path / "s.jsonl", plain)
    assert json.loads((tmp_path / "s.jsonl.settings.json").read_text())["quantization"] == "nf4"
    world = tmp_path / "world"
    world.mkdir()
    (world / "scenes.json").write_text('{"scenes": 1, "questions": 1}')
    command = (
        "eval",
        "run",
        "scenes",
        "--model",
        tiny["llava"],
        "--data",
        world,
        "--max-tokens",
        2,
        "-o",
        tmp_path / "e",
    )
    assert "held in int8" in ok(sightline(*command, "--quantization", "int8")).err
    assert "held in int8; " in (tmp_path / "e/report.html").read_text()


def test_reward_models_in_few_bits(tiny: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    """Scored, evaluated and selected by, from rows with pictures in memory."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")
    options = {"responses": 2, "algorithm": {"name": "reward_model"}, "reference": "none", "max_steps": 2}
    recipe = train_runs.recipe(tiny["llava"], tmp_path / "rm", model=train_runs.lora(tiny["llava"]), **options)
    run, groups = train(recipe, quiet=True).run_dir, recipe.data.train[0].path
    found = []
    for kind in ("none", "nf4"):
        more = [] if kind == "none" else ["--quantization", kind]
        ok(sightline("score", groups, "--reward", run, "-o", tmp_path / f"{kind}.jsonl", *more))
        found.append([r.reward for group in read_groups(tmp_path / f"{kind}.jsonl") for r in group.responses])
        ok(sightline("eval", "reward", "--model", run, "--data", groups, "-o", tmp_path / kind, *more))
        out = tmp_path / kind / "kept.jsonl"
        ok(sightline("select", rows, "--target", rows, "--reward", run, "--keep", 1, "-o", out, *more))
        assert len(list(read_groups(out))) == 1 and len(list((tmp_path / kind / "images").iterdir())) == 2
    assert found[0] != found[1] and found[0] == pytest.approx(found[1], abs=0.3)
    refused = sightline("score", groups, "--reward", "scenes", "-o", tmp_path / "x.jsonl", "--quantization", "nf4")
    assert refused.code == 2 and "--quantization is for reward models" in refused.err
