"""Merged and exported folders are the trained model: read again by plain transformers, or not kept at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import train_runs
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from command_line import sightline
from sightline.data.readers.rows import RowError
from sightline.data.schema import read_groups
from sightline.errors import CheckpointError
from sightline.models import export as exporting
from sightline.models import reload
from sightline.models.export import read_policy
from sightline.models.hub import HubError, push
from sightline.models.load import load_policy
from sightline.recipes.pictures import PictureSpec
from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
from sightline.rewards.model import load_reward_model, reward_model_spec
from sightline.train import export as writing
from sightline.train.export import open_trained
from sightline.train.loop import train
from tiny_models import save_tiny


@pytest.fixture(scope="module")
def runs(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four steps of an adapter, and of a whole LLaVA-NeXT in bfloat16; checkpoints of steps 2 and 4."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    models = {"adapter": train_runs.lora(tiny["llava"]), "whole": ModelSpec(path=str(tiny["llava_next"]))}
    for name, model in models.items():
        recipe = train_runs.recipe(Path(model.path), root / name, model=model, save_every=2, max_steps=4)
        found[name] = train(recipe, quiet=True).run_dir
    return found


def nothing_left(folder: Path) -> bool:
    return not list(folder.iterdir())


def test_a_merged_run_is_the_trained_model(runs: dict[str, Path], tmp_path: Path) -> None:
    done = sightline("merge", runs["adapter"], "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert "Model of step 4" in done.err and "with 4 pictures differ from the trained model by" in done.err
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    trained = load_policy(ModelSpec(path=str(runs["adapter"])), trainable=False).model.merge_and_unload()
    assert merged.state_dict().keys() == trained.state_dict().keys()
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], value, rtol=0, atol=0)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "tokens_per_second" not in card and "time/" not in card, "the same run on another machine has the same card"
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["library_name"] == "transformers" and head["pipeline_tag"] == "image-text-to-text"
    assert "7 of 7 rows kept, 5 with pictures" in card and "| `loss` |" in card and "rank: 4" in card
    assert "(rows of the run): reloaded in a fresh process" in card
    assert str(tmp_path.parent) not in card, "folders of this machine are nobody's business"


def test_a_checkpoint_is_exported_in_a_fresh_process(
    runs: dict[str, Path], tmp_path: Path, fresh_process: None
) -> None:
    assert sightline("export", runs["whole"], "--step", 2, "-o", tmp_path / "two").code == 0
    assert "up to step 2:" in (tmp_path / "two" / "README.md").read_text()
    here, last = (_parameters(folder) for folder in (tmp_path / "two", runs["whole"] / "model"))
    step = load_file(runs["whole"] / "checkpoints" / "step-00000002" / "weights.safetensors")
    assert step and all(torch.equal(here[name], value) for name, value in step.items())
    assert not torch.equal(here["lm_head.weight"], last["lm_head.weight"]) and here.keys() == last.keys()


def _parameters(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForImageTextToText.from_pretrained(folder).named_parameters())


def test_an_adapter_is_exported_as_it_is(runs: dict[str, Path], tmp_path: Path) -> None:
    assert sightline("export", runs["adapter"], "--step", 2, "-o", tmp_path / "a").code == 0
    card = (tmp_path / "a" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "peft"
    loaded = load_policy(ModelSpec(path=str(tmp_path / "a")), trainable=False)
    step = load_file(runs["adapter"] / "checkpoints" / "step-00000002" / "weights.safetensors")
    own = dict(loaded.model.named_parameters())
    assert step and all(torch.equal(own[name], value) for name, value in step.items())
    bare = sightline("merge", tmp_path / "a", "-o", tmp_path / "b", "--dtype", "bfloat16")
    assert bare.code == 0, bare.err
    assert "in 3 rows with 3 pictures" in bare.err and "Not known." in (tmp_path / "b" / "README.md").read_text()
    assert load_file(tmp_path / "b" / "model.safetensors").popitem()[1].dtype == torch.bfloat16


@pytest.mark.parametrize("tied", [False, True])
def test_adapters_with_parts_in_full_are_merged_in_bfloat16(tmp_path: Path, tied: bool) -> None:
    """Copies of whole modules, of tied embeddings too, trained in float32 over a model in bfloat16."""
    base = save_tiny("qwen2_5_vl", tmp_path / "base", tied=tied)
    modes = {"language": "full", "projector": "lora"} if tied else {"language": "lora", "projector": "full"}
    model = ModelSpec(path=str(base), dtype="bfloat16", parts=PartsSpec(**modes), lora=LoraSpec(rank=4))  # type: ignore[arg-type]
    run = train(train_runs.recipe(base, tmp_path / "run", model=model, max_steps=3), quiet=True).run_dir
    done = sightline("merge", run, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert merged.dtype == torch.bfloat16
    assert (merged.lm_head.weight is merged.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_tied_embeddings_part_where_an_adapter_is_merged_into_one_of_them(tmp_path: Path, layer: str) -> None:
    base = save_tiny("llava", tmp_path / "base", tied=True)
    model = get_peft_model(AutoModelForImageTextToText.from_pretrained(base), LoraConfig(r=2, target_modules=[layer]))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    done = sightline("merge", tmp_path / "adapter", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    moved = torch.equal(merged.lm_head.weight, AutoModelForImageTextToText.from_pretrained(base).lm_head.weight)
    assert moved == (layer == "embed_tokens") and merged.lm_head.weight is not merged.get_input_embeddings().weight


def test_a_merged_reward_model_scores_as_before(tiny: dict[str, Path], tmp_path: Path) -> None:
    options = {"responses": 2, "algorithm": {"name": "reward_model"}, "reference": "none", "max_steps": 3}
    recipe = train_runs.recipe(tiny["llava"], tmp_path / "run", model=train_runs.lora(tiny["llava"]), **options)
    run = train(recipe, quiet=True).run_dir
    assert sightline("merge", run, "-o", tmp_path / "out").code == 0
    rows = list(read_groups(Path(recipe.data.train[0].path)))
    before, after = (load_reward_model(folder).rewards(rows) for folder in (run, tmp_path / "out"))
    scores = [[response.reward for group in groups for response in group.responses] for groups in (before, after)]
    assert len(set(scores[0])) > 1 and scores[0] == pytest.approx(scores[1], abs=1e-5)


def _spoil_tower(save: Any) -> Any:
    def spoiled(policy: Any, model: Any, folder: Path, *, merged: bool) -> None:
        save(policy, model, folder, merged=merged)
        tensors = load_file(folder / "model.safetensors")
        name = next(name for name in tensors if "vision_tower" in name and "layers.1.mlp.fc1.weight" in name)
        tensors[name] = tensors[name] + 1  # of a layer behind the one that is read: no log-probability shows it
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return spoiled


def _spoil_tokenizer(save: Any) -> Any:
    def spoiled(policy: Any, model: Any, folder: Path, *, merged: bool) -> None:
        save(policy, model, folder, merged=merged)
        file = folder / "tokenizer.json"
        values = json.loads(file.read_text())
        values["model"]["merges"] = []
        file.write_text(json.dumps(values))

    return spoiled


def _without_adapter(merge: Any) -> Any:
    return lambda policy, dtype, **_: policy.model.unload()


@pytest.mark.parametrize(
    ("name", "fault", "told"),
    [
        ("_save", _spoil_tower, "1 tensors of what was written are not those of the trained model (first model.vision"),
        ("_save", _spoil_tokenizer, "the processor as written makes other tokens of row 1"),
        ("merge", _without_adapter, "what was written is not the trained model: reloaded in a fresh process"),
    ],
)
def test_what_is_another_model_is_not_kept(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    name: str, fault: Any, told: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(writing, name, fault(getattr(writing, name)))
    done = sightline("merge", runs["adapter"], "-o", tmp_path / "out")
    assert done.code == 1
    assert told in done.err
    assert nothing_left(tmp_path)


def test_a_merge_that_rounds_training_away_is_not_kept() -> None:
    lost = exporting.Verified(rows=1, pictures=1, tokens=9, mean=1e-3, most=1e-2, dtype="bfloat16", moved=1.5e-3)
    with pytest.raises(exporting.VerificationError, match=r"lost what was trained.*--dtype float32"):
        exporting._check_bound(lost)
    not_a_number = exporting.Verified(rows=1, pictures=1, tokens=9, mean=float("nan"), most=0, dtype="float32")
    with pytest.raises(exporting.VerificationError, match="not the trained model"):
        exporting._check_bound(not_a_number)


def test_a_folder_that_does_not_load_is_not_kept(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = SimpleNamespace(returncode=1, stderr="Traceback\nOSError: no file named model.safetensors\n")
    monkeypatch.setattr(reload, "subprocess", SimpleNamespace(run=lambda *_, **__: failed))
    done = sightline("export", runs["adapter"], "-o", tmp_path / "out")
    assert done.code == 1 and nothing_left(tmp_path)
    assert "does not load in a fresh process with plain transformers: OSError: no file named" in done.err


def test_quantised_weights_are_merged_into_only_when_told(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_quantised(*arguments: Any, **options: Any) -> Any:
        trained = open_trained(*arguments, **options)
        trained.policy.base.is_quantized = True
        return trained

    monkeypatch.setattr(writing, "open_trained", as_quantised)
    done = sightline("merge", runs["adapter"], "-o", tmp_path / "out")
    assert done.code == 2 and nothing_left(tmp_path)
    assert "the model is quantised (unknown), and merging would round" in done.err and "--into-quantised" in done.err
    assert sightline("merge", runs["adapter"], "-o", tmp_path / "out", "--into-quantised").code == 0


def test_what_is_trained_on_a_quantised_folder_reloads(
    tiny: dict[str, Path], tmp_path: Path, fresh_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")
    config = LlavaConfig.from_pretrained(tiny["llava"])
    config.text_config.update({"hidden_size": 64, "head_dim": 16, "intermediate_size": 128})  # whole blocks
    skipped = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]
    low = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skipped)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "plain")
    folder = tmp_path / "low"
    AutoModelForImageTextToText.from_pretrained(tmp_path / "plain", quantization_config=low).save_pretrained(folder)
    AutoProcessor.from_pretrained(tiny["llava"], backend="pil").save_pretrained(folder)
    recipe = train_runs.recipe(folder, tmp_path / "run", model=train_runs.lora(folder), save_every=1, max_steps=2)
    run = train(recipe, quiet=True).run_dir
    done = sightline("export", run, "--step", 1, "-o", tmp_path / "one")
    assert done.code == 0 and "(bounds for quantised weights: 0.05 and 0.5)" in done.err, done.err
    done = sightline("merge", run, "-o", tmp_path / "merged")
    assert done.code == 2 and "the model is quantised (bitsandbytes), and merging would round" in done.err
    monkeypatch.undo()
    done = sightline("merge", run, "-o", tmp_path / "merged", "--into-quantised")
    # what two steps trained is less than the bits hold: told, and not kept
    assert done.code == 0 or "lost what was trained" in done.err, done.err


def test_picture_options_of_a_run_go_with_its_adapter_and_with_what_is_merged(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    """Grids of LLaVA-NeXT stand in the model's config as well; the base of an adapter does not know of them."""
    spec = train_runs.lora(tiny["llava_next"])
    model = replace(spec, path=str(tiny["llava_next"]), pictures=PictureSpec(max_tiles=2))
    run = train(train_runs.recipe(tiny["llava_next"], tmp_path / "run", model=model, max_steps=2), quiet=True).run_dir
    for command in ("export", "merge"):
        done = sightline(command, run, "-o", tmp_path / command)
        assert done.code == 0, done.err
    assert "at most 2 tiles" in (tmp_path / "export" / "README.md").read_text()
    merged = load_policy(ModelSpec(path=str(tmp_path / "merge")), trainable=False)
    adapted = load_policy(ModelSpec(path=str(tmp_path / "export")), trainable=False)
    for policy in (merged, adapted):
        assert policy.config.image_grid_pinpoints == [[32, 64], [64, 32]]


@pytest.mark.parametrize(("kind", "ended"), [("nf4", True), ("int8", False)])
def test_a_qlora_run_is_merged_into_the_plain_weights(
    tiny: dict[str, Path], tmp_path: Path, kind: str, ended: bool
) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")
    low = replace(train_runs.lora(tiny["llava"]), quantization=kind)
    recipe = train_runs.recipe(tiny["llava"], tmp_path / "run", model=low, max_steps=3, learning_rate=1e-2)
    run = train(recipe, quiet=True).run_dir
    if ended:
        shutil.rmtree(run / "checkpoints")
    done = sightline("merge", run, "-o", tmp_path / "out", "--into-quantised")
    assert done.code == 2 and "Leave --into-quantised out" in done.err and not (tmp_path / "out").exists()
    done = sightline("merge", run, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    adapter = ModelSpec(path=str(tiny["llava"]), adapter=str(run / "model"), layout="rows")
    plain, trained = (load_policy(replace(adapter, quantization=q), trainable=False) for q in ("none", kind))
    merged = load_policy(ModelSpec(path=str(tmp_path / "out"), layout="rows"), trainable=False)
    for name, value in plain.model.merge_and_unload().state_dict().items():
        torch.testing.assert_close(merged.base.state_dict()[name], value, rtol=0, atol=0)
    rows, _ = writing.probe_rows(open_trained(run), tmp_path)
    apart = torch.cat(read_policy(merged, rows).logprobs) - torch.cat(read_policy(trained, rows).logprobs)
    told = f"as it was trained, on weights in {kind}, they differ from these by {apart.abs().mean():.1e} on average"
    assert told in done.err and f"{apart.abs().max():.1e} at most" in done.err and apart.abs().max() > 1e-4
    assert told in (tmp_path / "out" / "README.md").read_text()


def test_a_merged_reward_model_of_a_qlora_run_says_that_it_is_plain(tiny: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")
    low = replace(train_runs.lora(tiny["llava"]), quantization="nf4")
    options = {"responses": 2, "algorithm": {"name": "reward_model"}, "reference": "none", "max_steps": 2}
    run = train(train_runs.recipe(tiny["llava"], tmp_path / "run", model=low, **options), quiet=True).run_dir
    assert sightline("merge", run, "-o", tmp_path / "out").code == 0
    found = [json.loads((folder / "score_head.json").read_text()) for folder in (run / "model", tmp_path / "out")]
    assert [settings["quantization"] for settings in found] == ["nf4", "none"]
    assert reward_model_spec(run).quantization == "nf4" and reward_model_spec(run, "none").quantization == "none"


def test_wrong_requests_say_what_to_change(runs: dict[str, Path], tiny: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, told in (
        (("export", runs["whole"], "--step", 3), "no whole checkpoint of step 3 (there are: 2, 4)"),
        (("export", runs["adapter"] / "model"), "is no run directory (no recipe.yaml in it)"),
        (("merge", runs["adapter"] / "model", "--step", 2), "(--step is of a run)"),
        (("merge", tiny["llava"]), "neither a run directory nor an adapter"),
        (("merge", runs["whole"]), "there is no adapter to merge: the whole model was trained. Use sightline export"),
    ):
        done = sightline(*arguments, "-o", out)
        assert done.code == 2 and told in done.err, done.err
        assert nothing_left(tmp_path)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert "is there already" in sightline("merge", runs["adapter"], "-o", out).err
    assert (out / "mine.txt").read_text() == "mine"


def test_rows_that_are_gone_are_drawn(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = open_trained(runs["adapter"])
    rows, whose = writing.probe_rows(trained, tmp_path)
    assert whose == "rows of the run" and all(row.images for row in rows)

    unread, read = rows[0].images[0], writing.read_picture

    def damaged(path: str) -> Any:
        """A picture may pass for whole when rows are read."""
        if path == unread:
            raise RowError("broken image", "cannot be decoded")
        return read(path)

    monkeypatch.setattr(writing, "read_picture", damaged)
    left, whose = writing.probe_rows(trained, tmp_path)
    assert whose == "rows of the run" and left and all(row.images != (unread,) for row in left)

    def gone(*_: Any) -> None:
        raise RowError("missing image", "gone")

    monkeypatch.setattr(writing, "load_groups", gone)
    rows, whose = writing.probe_rows(trained, tmp_path)
    assert whose == "drawn pictures" and len(rows) == 3 and all(Path(path).is_file() for r in rows for path in r.images)


def test_a_model_that_is_another_by_now_is_not_merged_into(
    runs: dict[str, Path], tiny: dict[str, Path], tmp_path: Path
) -> None:
    base, run = shutil.copytree(tiny["llava"], tmp_path / "base"), shutil.copytree(runs["adapter"], tmp_path / "run")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(tiny["llava"]), str(base)))
    assert open_trained(run, dtype="bfloat16").step == 4
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"dtype": "bfloat16"}))
    assert open_trained(run).step == 4
    (base / "config.json").write_text(json.dumps(settings | {"vision_feature_layer": -1}))
    with pytest.raises(CheckpointError, match="base holds other weights or settings than when"):
        open_trained(run)
    (base / "config.json").write_text(json.dumps(settings))
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if "vision_tower" in name and name.endswith("fc1.weight"))
    save_file(weights | {name: weights[name] + 0.1}, base / "model.safetensors", metadata={"format": "pt"})
    for arguments in (("merge",), ("export",), ("export", "--quantize", "int8")):
        done = sightline(arguments[0], run, *arguments[1:], "-o", tmp_path / "out")
        assert done.code == 2 and "base holds other weights or settings than when" in " ".join(done.err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


@pytest.mark.parametrize("kind", ["none", "nf4"])
def test_an_adapter_that_training_started_from_must_be_what_it_was(
    runs: dict[str, Path], tiny: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    if kind != "none":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (extra: quantize)")
    start = shutil.copytree(runs["adapter"] / "model", tmp_path / "start")
    spec = ModelSpec(path=str(tiny["llava"]), adapter=str(start), quantization=kind)
    run = train(train_runs.recipe(tiny["llava"], tmp_path, model=spec, max_steps=1), quiet=True).run_dir
    assert open_trained(run).step == 1
    settings = json.loads((start / "adapter_config.json").read_text())
    (start / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 2 * settings["lora_alpha"]}))
    for dtype in (None, "bfloat16"):
        with pytest.raises(CheckpointError, match="start holds other weights or settings than when"):
            open_trained(run, dtype=dtype)
    done = sightline("export", run, "--quantize", "int8", "-o", tmp_path / "out")
    assert done.code == 2 and "start holds other weights or settings than when" in " ".join(done.err.split())


def test_a_model_does_not_take_the_place_of_what_it_is_made_from(runs: dict[str, Path], tiny: dict[str, Path]) -> None:
    run = runs["adapter"]
    for out in (run, run.parent, tiny["llava"]):
        done = sightline("merge", run, "-o", out, "--overwrite")
        assert done.code == 2 and "from which the model is made" in " ".join(done.err.split())
    assert (run / "recipe.yaml").is_file() and (tiny["llava"] / "config.json").is_file()


class FakeHub:
    """Notes what it is asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self.error = error

    def create_repo(self, **options: Any) -> str:
        if self.error is not None:
            raise self.error
        self.asked.append(options)
        return f"https://hub/{options['repo_id']}"

    def upload_folder(self, **options: Any) -> None:
        self.asked.append(options)


def test_pushing_happens_when_told_and_failures_keep_the_folder(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = FakeHub()
    monkeypatch.setattr("sightline.models.hub.HfApi", lambda: hub)
    assert sightline("export", runs["adapter"], "-o", tmp_path / "a").code == 0 and hub.asked == []
    done = sightline("export", runs["adapter"], "-o", tmp_path / "b", "--push", "me/model")
    assert done.code == 0 and "Uploaded: https://hub/me/model" in done.err
    assert hub.asked[0] == {"repo_id": "me/model", "private": True, "exist_ok": True}
    assert hub.asked[1]["folder_path"] == str(tmp_path / "b")
    with pytest.raises(HubError, match="was written, and the hub did not take it as 'me/x' \\(no route\\)"):
        push(tmp_path / "b", "me/x", api=FakeHub(OSError("no route")))
