"""The first row of a run: told once, kept in the run directory, not told again when the run goes on."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import train_runs

from command_line import sightline
from sightline.data.render import Renderer
from sightline.errors import DataError
from sightline.recipes.load import dump_recipe
from sightline.report.run_page import report_run
from sightline.train.loop import train


def test_a_run_tells_its_first_row_once_and_keeps_it(
    tiny: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = train_runs.recipe(tiny["llava"], tmp_path, responses=2, max_steps=1, save_every=1)
    with caplog.at_level(logging.INFO, logger="sightline"):
        result = train(recipe, quiet=True)
    told = [record.getMessage() for record in caplog.records if "First row" in record.getMessage()]
    kept = (result.run_dir / "first_row.txt").read_text(encoding="utf-8")
    assert [f"{text}\n" for text in told] == [kept]
    assert "(« » trained)" in kept and "pictures/0.png, 30 x 40, 16 tokens" in kept
    assert "USER: <image x16>⏎describe the image" in kept and "a red circle next to a blue square" in kept
    assert "First row as the model sees it (first_row.txt)" in report_run(result.run_dir).read_text(encoding="utf-8")

    caplog.clear()
    with caplog.at_level(logging.INFO, logger="sightline"):
        train(recipe, quiet=True)
    assert not [record for record in caplog.records if "First row" in record.getMessage()]


def test_a_damaged_first_picture_is_left_to_training(
    tiny: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = train_runs.recipe(tiny["llava"], tmp_path, responses=1, max_steps=1)
    picture = next(Path(tmp_path).rglob("0.png"))
    render = Renderer.render
    with pytest.MonkeyPatch.context() as patch:

        def damaged(self: Renderer, group: object) -> object:
            if group.prompts[0].images == (str(picture),):  # type: ignore[attr-defined]
                raise DataError("the picture is cut off")
            return render(self, group)  # type: ignore[arg-type]

        patch.setattr(Renderer, "render", damaged)
        with caplog.at_level(logging.INFO, logger="sightline"), pytest.raises(DataError, match="cut off"):
            train(recipe, quiet=True)
    assert "7-1.jsonl:2\n  picture 1: pictures/1.png" in (Path(recipe.output_dir) / "first_row.txt").read_text(
        encoding="utf-8"
    )


def test_the_command_shows_the_row_unless_it_is_quiet(tiny: dict[str, Path], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_recipe(train_runs.recipe(tiny["llava"], tmp_path, responses=1, max_steps=1)))
    told, quiet = sightline("train", recipe), sightline("train", recipe, "--overwrite", "--quiet")
    assert (told.code, quiet.code) == (0, 0)
    assert "First row as the model sees it (« » trained): " in told.err
    assert "First row" not in quiet.err
    assert (tmp_path / "run/first_row.txt").is_file()
