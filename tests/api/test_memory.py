"""Rows in memory: what is written of them, what is refused, and that a run on them is a run on files."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image

import sightline as sl
from command_line import sightline
from sightline.api.rows import with_rows
from sightline.data.memory import write_rows
from sightline.errors import CheckpointError, DataError, RecipeError

RECIPES = Path(__file__).parents[2] / "recipes"


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def pair(image: Any, number: int = 0) -> dict[str, Any]:
    return {
        "prompt": f"how many objects, {number}?",
        "chosen": "a small red circle",
        "rejected": "a large blue square",
        "images": [image],
    }


def recipe(tiny: dict[str, Path], out: Path, *more: str) -> sl.Recipe:
    options = ("train.max_steps=4", "train.batch_size=2", "train.save_every=2", "train.warmup=0", "model.dtype=float32")
    return sl.load_recipe(
        RECIPES / "dpo_llava_lora.yaml", f"model.path={tiny['llava']}", f"output_dir={out}", *options, *more
    )


def written(rows: Any, folder: Path) -> list[dict[str, Any]]:
    write_rows(rows, folder / "rows.jsonl", pictures=folder / "images")
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]


def there(image: str, folder: Path) -> Path:
    """The file of a picture that rows name by where it lies beside them."""
    assert image.startswith("file:images/")
    return folder / image.removeprefix("file:")


def test_pictures_in_memory_are_written_once_without_loss(tmp_path: Path) -> None:
    drawn, encoded = picture(0), io.BytesIO()
    picture(1).save(encoded, format="JPEG")
    tall = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    rows = [pair(drawn), pair(drawn), pair(encoded.getvalue()), pair({"bytes": encoded.getvalue(), "path": "x.jpg"})]
    rows += [pair(tall), pair({"bytes": None, "path": "/there.png"}), pair(Path("here.png"))]
    paths = [row["images"][0] for row in written(iter(rows), tmp_path)]
    assert paths[0] == paths[1] and paths[2] == paths[3] and paths[5:] == ["/there.png", "here.png"]
    assert len(list((tmp_path / "images").iterdir())) == 3
    with Image.open(there(paths[0], tmp_path)) as kept:
        assert (np.asarray(kept) == np.asarray(drawn)).all()
    assert there(paths[2], tmp_path).read_bytes() == encoded.getvalue()
    with Image.open(there(paths[4], tmp_path)) as kept:
        assert (np.asarray(kept) == np.asarray(tall)).all()


def test_a_picture_is_written_as_it_is_looked_at(tmp_path: Path) -> None:
    turned = picture(2)
    exif = turned.getexif()
    exif[274] = 6  # a quarter turn
    encoded = io.BytesIO()
    turned.save(encoded, format="PNG", exif=exif)
    (row,) = written([pair(Image.open(encoded))], tmp_path)
    with Image.open(there(row["images"][0], tmp_path)) as kept:
        assert kept.size == (24, 30)


def test_a_dataset_of_datasets_gives_its_pictures_as_they_are_stored(tmp_path: Path) -> None:
    import datasets

    encoded = io.BytesIO()
    picture(3).save(encoded, format="JPEG")
    made = datasets.Dataset.from_list([{**pair(None), "images": [{"bytes": encoded.getvalue(), "path": None}]}])
    made = made.cast_column("images", datasets.List(datasets.Image()))
    (row,) = written(made, tmp_path)
    assert row["images"][0].endswith(".jpeg") and there(row["images"][0], tmp_path).read_bytes() == encoded.getvalue()


def test_groups_and_numbers_of_numpy_are_rows(tmp_path: Path) -> None:
    group = sl.Group(
        prompts=(sl.Prompt(id="a", messages=({"role": "user", "content": "how many?"},)),),
        responses=(sl.Response(text="one", reward=0.5),),
    )
    first, second = written([group, {"prompt": "x", "score": np.float32(0.5), "box": np.arange(2)}], tmp_path)
    assert first["responses"] == [{"text": "one", "reward": 0.5}] and second["score"] == 0.5 and second["box"] == [0, 1]
    assert sl.read_rows([group])[0].responses[0].reward == 0.5
    labelled = [{"prompt": "a", "completion": "b", "label": np.bool_(True)}]
    assert sl.read_rows(labelled)[0].responses[0].label is True
    for drawn in (np.zeros((4, 4, 3), np.uint8), [np.zeros((4, 4, 3), np.uint8)]):
        with pytest.raises(DataError, match=r"^rows, row 1 .*is an array of \(4, 4, 3\).*PIL\.Image\.fromarray"):
            sl.read_rows([{"prompt": "a", "completion": "b", "images": drawn}])
    with pytest.raises(DataError, match=r"found a DataFrame.*to_dict\('records'\)"):
        sl.read_rows(pandas.DataFrame(labelled))
    picture(0).save(tmp_path / "there.png")
    part = {"type": "image", "path": "/other.png"}
    asked = sl.Prompt(id="a", messages=({"role": "user", "content": [part]},), images=(str(tmp_path / "there.png"),))
    with pytest.raises(DataError, match=r"message 1 has the part .*/other.png.*whose picture stands under images"):
        sl.read_rows([sl.Group(prompts=(asked,))], prompts_only=True)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: there are no rows. Give some"),
        ("rows.jsonl", "rows: found a str, expected rows. Give a list of dictionaries"),
        (["text"], r"rows, row 1 \(counted from 1\): is a str, expected an object with named columns"),
        (
            [pair("x"), pair(object())],
            r"rows, row 2 \(counted from 1\): 'images\[0\]' is a object.*Give texts, numbers",
        ),
        ([{"score": float("nan")}], r"row 1 \(counted from 1\): cannot be written as JSON.*Write None"),
        ([pair(np.zeros((4, 4, 3), np.uint8))], r"row 1 .*is an array of \(4, 4, 3\).*PIL\.Image\.fromarray"),
        ([pair(b"no picture")], r"row 1 \(counted from 1\): the 10 bytes of the picture are no image"),
    ],
)
def test_what_is_no_row_is_refused_by_its_number(rows: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        written(rows, tmp_path)
    assert not (tmp_path / "rows.jsonl").exists()


@pytest.fixture(scope="module")
def trained(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> sl.Run:
    """A run on four rows with PIL pictures."""
    folder = tmp_path_factory.mktemp("in_memory")
    rows = [pair(picture(number), number) for number in range(4)]
    run: sl.Run = sl.train(recipe(tiny, folder / "run"), rows, held_out=[pair(picture(9))], quiet=True)
    return run


def test_a_run_on_rows_in_memory_is_one_on_files(trained: sl.Run, tiny: dict[str, Path], tmp_path: Path) -> None:
    named = trained.recipe
    assert [spec.path for spec in named.data.train] == [str(trained.path / "rows/train.jsonl")]
    assert [spec.path for spec in named.data.eval] == [str(trained.path / "rows/eval.jsonl")]
    assert "eval/loss" in trained.metrics[-1]
    again = sl.train(recipe(tiny, tmp_path / "files", f"data.train.0.path={trained.path / 'rows/train.jsonl'}"))
    assert again.metrics[-1]["loss"] == trained.metrics[-1]["loss"]


def test_it_goes_on_without_the_rows_and_refuses_others(trained: sl.Run, tiny: dict[str, Path]) -> None:
    before = [record["step"] for record in trained.metrics]
    assert sl.train(trained.recipe, quiet=True).metrics == trained.metrics
    done = sightline("train", trained.path / "recipe.yaml")
    assert done.code == 0 and "has all its 4 steps" in " ".join(done.err.split())
    rows = [pair(picture(number), number) for number in range(4)]
    held_out = [pair(picture(9))]
    assert sl.train(recipe(tiny, trained.path), rows, held_out=held_out, quiet=True).steps == before[-1]
    with pytest.raises(CheckpointError, match=r"holds a run with other rows than these 3\. Give those that it began"):
        sl.train(recipe(tiny, trained.path), rows[:3], held_out=held_out)
    assert len((trained.path / "rows/train.jsonl").read_text().splitlines()) == 4


def test_to_start_over_keeps_the_rows_that_are_read(trained: sl.Run, tiny: dict[str, Path]) -> None:
    from sightline.train.run_folder import open_run

    other = recipe(tiny, trained.path, "data.train.0.path=elsewhere.jsonl")
    kept = trained.path / "rows/train.jsonl"
    text = kept.read_text()
    copy = trained.path.with_name("copy")
    copy.mkdir()
    (copy / "rows").mkdir()
    (copy / "rows/train.jsonl").write_text(text)
    inside = recipe(tiny, copy, f"data.train.0.path={copy / 'rows/train.jsonl'}")
    open_run(inside, resume=None, overwrite=True)
    assert (copy / "rows/train.jsonl").is_file()
    open_run(recipe(tiny, copy, *(f"data.train.0.path={other.data.train[0].path}",)), resume=None, overwrite=True)
    assert not (copy / "rows").exists()


def test_a_run_that_was_moved_shows_reports_and_goes_on(
    trained: sl.Run, tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    shutil.copytree(trained.path, first)
    rewrite = (first / "recipe.yaml").read_text().replace(str(trained.path), "away")  # where no run is
    (first / "recipe.yaml").write_text(rewrite)
    shown = json.loads((first / "first_rows.json").read_text())
    names = [Path(one["path"]) for row in shown for one in row["pictures"]]
    assert names and not any(name.is_absolute() for name in names), "pictures of the page are in the folder of the run"
    shutil.rmtree(first / "checkpoints/step-00000004")
    run = sl.open_run(first)
    assert run.recipe.output_dir == str(first) and run.recipe.data.train[0].path == str(first / "rows/train.jsonl")
    assert sl.report(run).read_text().count("<img") >= len(names) and "step 4" in repr(run)
    rows = [pair(picture(number), number) for number in range(4)]
    monkeypatch.chdir(tmp_path)
    done = sightline("train", "first/recipe.yaml", "--quiet")
    assert done.code == 0 and sl.open_run(first).metrics[-1]["loss"] == trained.metrics[-1]["loss"], done.err
    assert not (tmp_path / "away").exists()
    second = tmp_path / "second"
    first.rename(second)
    moved = sl.train(recipe(tiny, second), rows, held_out=[pair(picture(9))], quiet=True)
    assert moved.steps == 4 and len(sl.read_rows(second / "rows/train.jsonl")) == 4
    shutil.rmtree(second / "rows/images")
    with pytest.raises(DataError, match=r"picture 'file:images/\w+.png' is missing.*Move rows and pictures together"):
        sl.read_rows(second / "rows/train.jsonl")


def test_rows_of_earlier_versions_are_the_same_rows(tiny: dict[str, Path], tmp_path: Path) -> None:
    asked, folder = recipe(tiny, tmp_path), tmp_path / "rows"
    with_rows(asked, folder, rows=[pair(picture(0))])
    file = folder / "train.jsonl"
    file.write_text(file.read_text().replace("file:images", str(folder / "images")))
    with_rows(asked, folder, rows=[pair(picture(0))], fixed=True)
    assert "file:images" in file.read_text()


def test_several_sources_or_processes_are_refused(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = recipe(tiny, tmp_path / "run", "data.train=[{path: a.jsonl}, {path: b.jsonl}]")
    with pytest.raises(RecipeError, match=r"rows in memory are one source, and data.train has 2\. Leave one"):
        sl.train(two, [pair(picture(0))])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="rows in memory and several processes"):
        sl.train(recipe(tiny, tmp_path / "run"), [pair(picture(0))])
    assert not (tmp_path / "run").exists()


def test_a_check_fails_on_nothing_that_it_does_not_look_at(tiny: dict[str, Path], tmp_path: Path) -> None:
    asked, rows = recipe(tiny, tmp_path / "run"), [pair(picture(n), n) for n in range(4)]
    look = sl.check(asked, rows, device="h100", fail_on="bad", processes=2)
    assert look.figures["forecast"]["processes"] == 2 and not look.problems
    for kind in ("leak", "split"):
        with pytest.raises(RecipeError, match=f"--fail-on {kind} would never fail"):
            sl.check(asked, rows, fail_on=kind)
    with pytest.raises(RecipeError, match="processes is 0, expected 1 or more"):
        sl.check(asked, rows, processes=0)


def test_a_bad_row_is_named_by_its_number(tiny: dict[str, Path], tmp_path: Path) -> None:
    strict = recipe(tiny, tmp_path / "run", "data.on_bad_row=error")
    with pytest.raises(DataError, match=r"train\.jsonl, row 2 \(counted from 1\): answer 1 is empty"):
        sl.train(strict, [pair(picture(0)), {**pair(picture(1)), "chosen": ""}], quiet=True)


def kept(run: Path) -> set[str]:
    return {path.name for path in (run / "rows").rglob("*") if path.is_file()}


def test_a_run_keeps_the_pictures_of_its_own_rows_alone(tiny: dict[str, Path], tmp_path: Path) -> None:
    asked, folder = recipe(tiny, tmp_path), tmp_path / "rows"
    with_rows(asked, folder, rows=[pair(picture(0))], held_out=[pair(picture(1))])
    first = kept(tmp_path)
    assert len(first) == 4
    with pytest.raises(CheckpointError, match="holds a run with other rows"):
        with_rows(asked, folder, rows=[pair(picture(2))], fixed=True)
    with pytest.raises(DataError, match="row 2"):
        with_rows(asked, folder, rows=[pair(picture(3)), pair(object())])
    assert kept(tmp_path) == first, "what was refused left nothing"
    with_rows(asked, folder, rows=[pair(picture(0)), pair(picture(4))])
    assert len(kept(tmp_path)) == 3 and len(kept(tmp_path) & first) == 2, "the first picture and the new one"
    named = str(next((folder / "images").iterdir()))
    with_rows(asked, folder, rows=[pair(named)])
    assert kept(tmp_path) == {"train.jsonl", Path(named).name}, "also where rows name it by its path"
