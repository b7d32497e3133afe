"""Callbacks: when they are told what, and that a run which one stopped goes on as if none had."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_memory import pair, picture, recipe

import sightline as sl
from sightline.errors import DivergenceError, RecipeError


class Told(sl.Callback):
    """Keeps what it is told; ends the run at a step."""

    def __init__(self, until: int = 99) -> None:
        self.until = until
        self.events: list[tuple[str, Any]] = []

    def on_start(self, run_dir: Path, step: int, steps: int) -> None:
        assert (run_dir / "recipe.yaml").is_file()
        self.events.append(("start", (step, steps)))

    def on_step(self, step: int, steps: int) -> None:
        self.events.append(("step", step))
        if step == self.until:
            self.stop("that will do")

    def on_log(self, record: Mapping[str, Any]) -> None:
        self.events.append(("log", record["step"]))

    def on_checkpoint(self, folder: Path, step: int) -> None:
        assert (folder / "manifest.json").is_file() and folder.name.endswith(str(step))
        self.events.append(("checkpoint", step))

    def on_end(self, result: Any) -> None:
        assert (result.model_dir / "trained.json").is_file()
        self.events.append(("end", (result.steps, result.stopped)))


class Blank(sl.Callback):
    """Spoils what it is told: the record is its own."""

    def on_log(self, record: Mapping[str, Any]) -> None:
        record.clear()  # type: ignore[attr-defined]


ROWS = [pair(picture(number), number) for number in range(4)]


@pytest.fixture(scope="module")
def whole(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[sl.Run, Told]:
    told = Told()
    run = sl.train(recipe(tiny, tmp_path_factory.mktemp("whole") / "run"), ROWS, callbacks=[Blank(), told], quiet=True)
    return run, told


def test_a_callback_is_told_everything_in_order(whole: tuple[sl.Run, Told]) -> None:
    events = whole[1].events
    assert events[0] == ("start", (0, 4)) and events[-1] == ("end", (4, None))
    assert events[1:-1] == [
        *(("log", 1), ("step", 1), ("log", 2), ("step", 2), ("checkpoint", 2)),
        *(("log", 3), ("step", 3), ("log", 4), ("step", 4), ("checkpoint", 4)),
    ]


def test_a_run_that_was_stopped_goes_on_to_the_same_numbers(
    whole: tuple[sl.Run, Told], tiny: dict[str, Path], tmp_path: Path
) -> None:
    told = Told(until=3)  # no checkpoint is due there
    asked = recipe(tiny, tmp_path / "run")
    stopped = sl.train(asked, ROWS, callbacks=[told], quiet=True)
    assert stopped.stopped == "that will do" and stopped.steps == 3
    assert told.events[-2:] == [("checkpoint", 3), ("end", (3, "that will do"))]
    assert "stopped: that will do" in repr(stopped) and "stopped: that will do" in stopped._repr_html_().lower()
    told.until = 99
    done = sl.train(asked, ROWS, callbacks=[told], quiet=True)
    assert done.stopped is None and ("start", (3, 4)) in told.events
    ours, theirs = ([record["loss"] for record in run.metrics] for run in (done, whole[0]))
    assert ours == theirs
    weights = "adapter_model.safetensors"
    assert (done.model_dir / weights).read_bytes() == (whole[0].model_dir / weights).read_bytes()


def test_to_stop_at_the_last_step_is_to_end(tiny: dict[str, Path], tmp_path: Path) -> None:
    run = sl.train(recipe(tiny, tmp_path / "run", "train.max_steps=1"), ROWS, callbacks=[Told(until=1)], quiet=True)
    assert run.stopped is None and run.steps == 1


def test_what_a_callback_raises_ends_the_run(tiny: dict[str, Path], tmp_path: Path) -> None:
    class Fails(sl.Callback):
        def on_log(self, record: Mapping[str, Any]) -> None:
            raise DivergenceError("seen enough")

    with pytest.raises(DivergenceError, match="seen enough"):
        sl.train(recipe(tiny, tmp_path / "run"), ROWS, callbacks=[Fails()], quiet=True)
    assert not (tmp_path / "run/model").exists()


def test_what_is_no_callback_or_no_recipe_is_said_before_anything_is_written(
    tiny: dict[str, Path], tmp_path: Path
) -> None:
    asked = recipe(tiny, tmp_path / "run")
    for wrong in ([Told], [print], Told):
        with pytest.raises(
            RecipeError, match=r"callbacks holds .*expected objects of classes that inherit sl\.Callback"
        ):
            sl.train(asked, ROWS, callbacks=wrong)
    with pytest.raises(RecipeError, match=r"found \{'a': 1\}, expected a recipe"):
        sl.train({"a": 1}, ROWS)
    assert not list(tmp_path.iterdir())
