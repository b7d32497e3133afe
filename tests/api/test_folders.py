"""Model folders and loops from Python: what is written, and what is refused before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_loops import loop_of, world_of
from test_convert import llava15
from transformers import CLIPImageProcessorPil, CLIPVisionModel

import sightline as sl
from sightline.errors import CheckpointError, RecipeError, UnsupportedError
from tiny_models import _vision_config, save_text_model


def test_a_model_is_assembled_and_answers(tmp_path: Path, pictures: list[str]) -> None:
    clip = tmp_path / "clip"
    CLIPVisionModel(_vision_config(32, 8, 32)).save_pretrained(clip)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(clip)
    text = save_text_model(tmp_path / "text")
    made = sl.assemble(text, clip, tmp_path / "made", projector="linear")
    assert sl.load(made).answer(pictures[0], "how many?", max_tokens=2).texts
    with pytest.raises(CheckpointError, match="made is there already"):
        sl.assemble(text, clip, made)
    with pytest.raises(UnsupportedError, match="a resampler was asked for"):
        sl.assemble(text, clip, tmp_path / "other", projector="resampler")  # type: ignore[arg-type]


def test_a_folder_of_llavas_own_code_is_converted(tmp_path: Path) -> None:
    _, source = llava15(tmp_path)
    made = sl.convert(source, tmp_path / "out", vision_tower=tmp_path / "clip")
    assert repr(sl.load(made)).startswith(f"Model({made}: llava, ")
    with pytest.raises(CheckpointError, match="out is there already"):
        sl.convert(source, made, vision_tower=tmp_path / "clip")


def test_what_is_no_run_is_not_exported(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is no run directory \(no recipe\.yaml in it\)"):
        sl.export(tiny["llava"], tmp_path / "out")
    with pytest.raises(RecipeError, match="neither a run directory nor an adapter"):
        sl.merge(tiny["llava"], tmp_path / "out")
    with pytest.raises(CheckpointError, match="holds no run"):
        sl.open_run(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_loop_runs_its_rounds(tmp_path: Path) -> None:
    recipe = loop_of(world_of(tmp_path / "world"), tmp_path / "loop", "rounds=1")
    done = sl.loop(recipe, quiet=True)
    assert done.stages > 3 and done.model.is_dir() and (done.folder / "report.html").is_file()
    assert sl.loop(tmp_path / "loop.yaml", "rounds=1", quiet=True).stages == 0
    assert "rounds" in sl.explain(recipe)
    assert sl.explain(tmp_path / "loop.yaml", "rounds=1") == sl.explain(recipe)
    with pytest.raises(RecipeError, match="found overrides beside a recipe that was read"):
        sl.explain(recipe, "rounds=2")
    with pytest.raises(RecipeError, match="found overrides beside a recipe that was read"):
        sl.loop(recipe, "rounds=2")
