"""Quantised folders: what was to be left alone is left alone, what is kept is near, and the rest is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import train_runs
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

import sightline as sl
from command_line import sightline
from sightline.api import folders
from sightline.data.readers.rows import RowError
from sightline.data.render import Renderer
from sightline.data.schema import read_groups
from sightline.errors import RecipeError
from sightline.models import compress, reload
from sightline.models.compress import Plan, check_untouched
from sightline.models.family import family_of
from sightline.models.layout import lay_out
from sightline.models.load import load_policy, load_processor
from sightline.recipes.load import load_recipe
from sightline.recipes.schema import ModelSpec
from sightline.report.table import number
from sightline.train import export as writing
from sightline.train import quantise as quantising
from sightline.train.loop import train
from sightline.train.quantised import Answers, Moved, QuantiseSpec

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")


@pytest.fixture(scope="module")
def runs(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of adapters on models that are made of whole blocks of bitsandbytes."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    for family, config, model in (
        ("llava", LlavaConfig, LlavaForConditionalGeneration),
        ("qwen2_5_vl", Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
    ):
        torch.manual_seed(0)
        sizes = config.from_pretrained(tiny[family])
        sizes.text_config.update({"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8})
        sizes.text_config.update({"num_key_value_heads": 4, "head_dim": 8})
        if family == "qwen2_5_vl":
            sizes.vision_config.update({"out_hidden_size": 64})
        folder = root / family
        model(sizes).save_pretrained(folder)
        load_processor(ModelSpec(path=str(tiny[family]))).save_pretrained(folder)
        recipe = train_runs.recipe(folder, root / f"run-{family}", model=train_runs.lora(folder), size=12, max_steps=6)
        found[family] = train(recipe, quiet=True).run_dir
    return found


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small slice of the benchmark."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "scenes.json").write_text('{"scenes": 1, "questions": 1}')
    return f"scenes={folder}"


def here(command: list[str], **_: Any) -> SimpleNamespace:
    """The fresh process is this one."""
    reload.answer_request(Path(command[3]), Path(command[4]))
    return SimpleNamespace(returncode=0, stderr="")


def merged(run: Path) -> dict[str, torch.Tensor]:
    policy = load_policy(ModelSpec(path=str(run)), trainable=False)
    return policy.model.merge_and_unload().state_dict()


def trained_logprob(run: Path) -> float:
    """Mean log-probability of the answers of a run's rows with pictures, as training scores them."""
    policy = load_policy(ModelSpec(path=str(run)), trainable=False)
    rows = list(read_groups(Path(load_recipe(run / "recipe.yaml").data.train[0].path)))
    renderer = Renderer(policy.processor, policy.family)
    rendered = [renderer.render(group) for group in rows if group.prompts[0].images]
    return float(policy(lay_out(rendered, "tree", policy.family, policy.config)).logprobs.mean())


def by_python(run: Path, kind: Any, out: Path, scenes: str) -> SimpleNamespace:
    """What the command says, of the call."""
    made = sl.export(sl.open_run(run), out, quantize=sl.Quantizing(kind=kind, bench=scenes), push="me/low")
    assert made.figures == json.loads((out / "quantised.json").read_text())
    first, second = made.rows[:2]
    assert (first.key, second.key) == ("logprob", "picture") and first.difference
    told, page = repr(made), made._repr_html_()
    assert told.startswith(f"{out}: {kind}, before and after (scenes, ")
    for text in ("log-prob of answers", "picture's effect", number(first.before.value, first.unit), made.sentence()):
        assert text in told and escape(text) in page
    return SimpleNamespace(code=0, err=made.sentence(), out=told)


@pytest.mark.parametrize(
    ("family", "kind", "fresh"),
    [("llava", "nf4", True), ("llava", "int8", False), ("qwen2_5_vl", "nf4", False), ("qwen2_5_vl", "int8", False)],
)
def test_a_quantised_run_reloads_as_the_same_model(
    runs: dict[str, Path], scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    family: str, kind: str, fresh: bool,
) -> None:  # fmt: skip
    calls = iter([here, subprocess.run if fresh else here])  # of the whole model, and of the one in few bits
    monkeypatch.setattr(reload, "subprocess", SimpleNamespace(run=lambda *a, **o: next(calls)(*a, **o)))
    out = tmp_path / "out"
    if (family, kind) == ("llava", "int8"):
        uploaded: list[Any] = []
        monkeypatch.setattr(folders, "push_to_hub", lambda *asked: uploaded.append(asked))
        done = by_python(runs[family], kind, out, scenes)
        assert uploaded == [(out, "me/low")]
    else:
        done = sightline("export", runs[family], "--quantize", kind, "-o", out, "--bench", scenes)
    assert done.code == 0, done.err
    assert next(calls, None) is None
    assert f"14 layers of the decoder in {kind}" in done.err and "8 answers (rows of the run)" in done.err
    assert "figure                before    after" in done.out and "picture's effect" in done.out
    low, whole = AutoModelForImageTextToText.from_pretrained(out), merged(runs[family])
    held = {name for name, layer in low.named_modules() if type(layer).__name__ in ("Linear4bit", "Linear8bitLt")}
    assert len(held) == 14 and all(".language_model." in name for name in held)
    for name, value in low.state_dict().items():
        if name in whole and name.removesuffix(".weight") not in held:
            torch.testing.assert_close(value, whole[name], rtol=0, atol=0)
    names = set(load_file(out / "model.safetensors"))
    assert (family == "qwen2_5_vl") == (not any("vision_tower.vision_model." in name for name in names))
    card, found = (out / "README.md").read_text(), json.loads((out / "quantised.json").read_text())
    assert ("## Quantised" in card and "| scenes: accuracy |" in card) or "| scenes: length |" in card
    assert found["kind"] == kind and found["compared"]["rows"] == 8 and found["calibration"] == 0
    assert 0 < found["moved"]["mean"] < (0.05 if kind == "nf4" else 0.005)
    assert 0.9 < found["picture_kept"]["share"] < 1.1
    assert found["figures"]["picture"]["before"]["value"] > 0.01, "the model looks"
    assert found["bytes"]["after"] < found["bytes"]["before"]
    assert found["figures"]["logprob"]["before"]["value"] == pytest.approx(trained_logprob(runs[family]), abs=1e-4)


def test_what_moved_too_far_is_not_kept_and_it_is_said_how_far(
    runs: dict[str, Path], scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, loaded = tmp_path / "out.work.tmp/whole", list[str]()
    left.mkdir(parents=True)  # by a kill
    (left / "old.safetensors").write_text("")
    load = quantising.load_engine
    monkeypatch.setattr(quantising, "load_engine", lambda spec: loaded.append(spec.path) or load(spec))
    asked = ("--bench", scenes, "--tolerance", 1e-9)
    done = sightline("export", runs["llava"], "--quantize", "nf4", "-o", tmp_path / "out", *asked)
    assert done.code == 1 and not list(tmp_path.iterdir())
    assert loaded == [str(left)], "the whole model lies on the disk of --out, which has room for it"
    assert "in nf4 the model is another: log-probabilities of answers moved by 0.0" in done.err
    assert "where 1e-09 are tolerated" in done.err
    assert "Nothing was kept. Take int8, or tolerate more (--tolerance)" in done.err, "nf4 learns from no rows"


def answers(seen: list[float], white: list[float]) -> Answers:
    """Two rows, whose answers are two tokens and one, behind one token of a question."""
    rows = [[0.0, *side[:2]] for side in (seen, white)], [[0.0, *side[2:]] for side in (seen, white)]
    logprobs = [torch.tensor(rows[number][side]) for side in (0, 1) for number in (0, 1)]
    return Answers.of(logprobs, [2, 1])


def test_how_far_a_model_moved_and_how_much_it_still_looks() -> None:
    before = answers([-1.0, -2.0, -3.0], [-2.0, -2.0, -5.0])
    assert before.row == [0, 0, 1] and before.effect.tolist() == [1, 0, 2]
    after = answers([-1.5, -2.0, -3.0], [-2.0, -2.5, -4.0])
    moved = Moved.of(before, after, "rows")
    assert moved.mean == pytest.approx(0.5 / 3) and moved.most == 0.5 and (moved.rows, moved.tokens) == (2, 3)
    assert moved.kept == pytest.approx((1 * 0.5 + 2 * 1) / 5)
    logprob, picture = moved.figures
    assert (logprob.before.value, logprob.after.value) == pytest.approx((-2, -6.5 / 3))
    assert (picture.before.value, picture.after.value) == pytest.approx((1, 2 / 3))
    assert not moved.faults(QuantiseSpec(kind="nf4"))
    assert moved.faults(QuantiseSpec(kind="int8")) == [
        "log-probabilities of answers moved by 0.167 nats a token on average, where 0.1 are tolerated"
    ]
    blind = Moved.of(before, answers([-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0]), "rows")
    assert blind.faults(QuantiseSpec(kind="nf4")) == [
        "0% of what the picture does to answers is left, where 50% must be"
    ]
    broken = Moved.of(before, answers([float("nan")] * 3, [-1.0, -2.0, -3.0]), "rows")
    assert len(broken.faults(QuantiseSpec(kind="nf4", tolerance=100))) == 2


def matches(name: str, pattern: str) -> bool:
    """As compressed-tensors reads its ``ignore``."""
    return re.match(pattern.removeprefix("re:"), name) is not None


def test_names_of_what_is_left_fit_every_program(tiny: dict[str, Path]) -> None:
    """transformers takes the start of a path or a whole pattern, vLLM names on the path, in a tree of its own."""
    for family, theirs in (
        ("llava", ("vision_tower.vision_model.encoder.layers.0.mlp.fc1", "multi_modal_projector.linear_1")),
        ("qwen2_5_vl", ("visual.blocks.0.attn.qkv", "visual.merger.mlp.0")),
    ):
        model = AutoModelForImageTextToText.from_pretrained(tiny[family])
        plan = Plan.of(model, family_of(model.config), "gptq")
        linear = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
        left = {name for name in linear if any(matches(name, one) for one in plan.patterns())}
        assert left == linear - set(plan.layers) and len(plan.layers) == 14
        for name in (*theirs, "language_model.lm_head"):
            assert any(matches(name, one) for one in plan.patterns())
            assert set(name.split(".")) & set(plan.skipped())
        for name in (
            "language_model.model.layers.0.mlp.gate_up_proj",
            "language_model.model.layers.1.self_attn.o_proj",
        ):
            assert not any(matches(name, one) for one in plan.patterns())
            assert not set(name.split(".")) & set(plan.skipped())
        assert plan.group == 32


def test_scales_may_move_into_norms_of_the_decoder_under_awq_alone(tiny: dict[str, Path]) -> None:
    model = AutoModelForImageTextToText.from_pretrained(tiny["llava"])
    family = family_of(model.config)
    before = reload.weights_of(model, exact=True)
    low = {f"{name}.weight" for name in Plan.of(model, family, "gptq").layers}
    norms = {name for name in before if "layernorm" in name and "language" in name}
    after = {name: "0" if name in low | norms else value for name, value in before.items()}
    assert check_untouched(Plan.of(model, family, "awq"), family, before, after) > 20
    with pytest.raises(compress.VerificationError, match=r"^4 tensors"):
        check_untouched(Plan.of(model, family, "gptq"), family, before, after)
    with torch.no_grad():  # less than bfloat16 shows, in a layer that no log-probability depends on
        model.model.vision_tower.encoder.layers[1].mlp.fc1.weight[0, 0] += 1e-6
    spoiled = {**reload.weights_of(model, exact=True), **dict.fromkeys(low, "0")}
    with pytest.raises(compress.VerificationError, match="1 tensors that were to be left"):
        check_untouched(Plan.of(model, family, "gptq"), family, before, spoiled)
    with pytest.raises(compress.VerificationError, match="14 layers were not quantised"):
        check_untouched(Plan.of(model, family, "awq"), family, before, before)
    low_rank = nn.Linear(72, 32)
    mlp = model.model.language_model.layers[0].mlp
    down, mlp.down_proj = mlp.down_proj, low_rank
    with pytest.raises(compress.UnsupportedError, match="multiples of 8 alone, and gptq needs groups of 32"):
        Plan.of(model, family, "gptq")
    mlp.down_proj = down
    with pytest.raises(compress.UnsupportedError, match=r"of 32 alone, and nf4 needs groups of 64 .*Take int8$"):
        Plan.of(model, family, "nf4")
    model.model.language_model.layers[0].pre_feedforward_layernorm = nn.LayerNorm(4)
    with pytest.raises(compress.UnsupportedError, match="Take gptq"):
        Plan.of(model, family, "awq")


def test_wrong_requests_say_what_to_change(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run = tmp_path / "out", runs["llava"]
    monkeypatch.setattr(compress, "find_spec", lambda name: None if name == "llmcompressor" else object())
    for arguments, told in (
        (("--tolerance", 1), "--tolerance goes with --quantize, which is not there"),
        (("--quantizer-python", "x"), "--quantizer-python goes with --quantize"),
        (("--quantize", "nf4", "--calibration", 8), "--calibration is for gptq and awq: nf4 learns from nothing"),
        (("--quantize", "nf4", "--quantizer-python", "x"), "--quantizer-python is for gptq and awq"),
        (("--quantize", "gptq"), "needs LLM Compressor, which is not in this environment"),
        (("--quantize", "awq", "--quantizer-python", "x/python"), "x/python cannot be run (No such file or directory)"),
        (("--quantize", "awq", "--quantizer-python", run / "recipe.yaml"), "recipe.yaml cannot be run (Permission den"),
        (("--quantize", "awq", "--quantizer-python", sys.executable), "has no LLM Compressor. Install it there ("),
        (("--quantize", "awq", "--quantizer-python", shutil.which("true")), "has no LLM Compressor"),
        (("--quantize", "int8", "--only", "yes"), "--only chooses categories of --bench, which is not there"),
        (("--quantize", "int8", "--bench", "pope"), "--bench pope names no folder. Write NAME=DIR"),
    ):
        done = sightline("export", run, "-o", out, *arguments)
        assert done.code == 2 and told in done.err, done.err
    for wrong, told in (
        ("int4", "quantize: kind: found 'int4' (string), expected one of the words. Did you mean 'int8'?"),
        (sl.Quantizing(kind="gptq", calibration=0), "quantize: calibration: found 0"),
        (sl.Quantizing(kind="nf4", tolerance=-1.0), "quantize: tolerance: found -1"),
        (sl.Quantizing(kind="nf4", calibration=8), "--calibration is for gptq and awq: nf4 learns from nothing"),
        (sl.Quantizing(kind="awq", quantizer_python="x/python"), "x/python cannot be run"),  # type: ignore[arg-type]
        (sl.Quantizing(kind="int8", only=("yes",)), "--only chooses categories of --bench, which is not there"),
        (sl.Quantizing(kind="int8", bench="pope"), "--bench pope names no folder. Write NAME=DIR"),
    ):
        with pytest.raises(RecipeError) as error:
            sl.export(run, out, quantize=wrong)  # type: ignore[arg-type]
        assert told in str(error.value)
    monkeypatch.setattr(compress, "find_spec", lambda name: None)
    for kind, extra in (("nf4", "quantize"), ("gptq", "compressed")):
        done = sightline("export", run, "-o", out, "--quantize", kind)
        assert done.code == 2 and f"pip install 'sightline[{extra}]'" in done.err
    assert not list(tmp_path.iterdir())


def test_gptq_without_rows_and_a_quantiser_that_fails_leave_nothing(
    runs: dict[str, Path], scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compress, "find_spec", lambda name: object())
    monkeypatch.chdir(tmp_path)  # a path from here is one from here, wherever the quantiser runs
    python = Path("quantiser/bin/python")
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/bash\n[ "$1" = -c ] && echo True || exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    asked = ("--quantize", "gptq", "--quantizer-python", python, "--bench", scenes)
    done = sightline("export", runs["llava"], "-o", "out", *asked)
    assert done.code == 1 and [path.name for path in tmp_path.iterdir()] == ["quantiser"]
    assert "LLM Compressor is not installed in this environment" in done.err

    def gone(*_: Any) -> None:
        raise RowError("missing image", "gone")

    monkeypatch.setattr(writing, "load_groups", gone)
    done = sightline("export", runs["llava"], "-o", "out", *asked)
    assert done.code == 2 and [path.name for path in tmp_path.iterdir()] == ["quantiser"]
    assert "gptq learns from answered rows with pictures of the run's own data (data.train), and 0" in done.err


def test_reward_models_and_quantised_models_are_refused(
    runs: dict[str, Path], tiny: dict[str, Path], scenes: str, tmp_path: Path
) -> None:
    options = {"responses": 2, "algorithm": {"name": "reward_model"}, "reference": "none", "max_steps": 2}
    recipe = train_runs.recipe(tiny["llava"], tmp_path / "run", model=train_runs.lora(tiny["llava"]), **options)
    run = train(recipe, quiet=True).run_dir
    done = sightline("export", run, "--quantize", "int8", "-o", tmp_path / "out", "--bench", scenes)
    assert done.code == 2 and "is a reward model" in done.err
    model = SimpleNamespace(config=SimpleNamespace(quantization_config={"quant_method": "awq"}))
    with pytest.raises(compress.UnsupportedError, match="quantised already"):
        Plan.of(model, family_of(LlavaConfig()), "nf4")


def test_rows_that_are_compared_are_not_learnt_from() -> None:
    groups: list[Any] = list(range(40))
    compared, learnt = quantising._parted(groups, 10)
    assert len(compared) == 16 and len(learnt) == 10 and not set(compared) & set(learnt)
    compared, learnt = quantising._parted(groups[:3], 10)
    assert compared == [0] and learnt == [1, 2]
