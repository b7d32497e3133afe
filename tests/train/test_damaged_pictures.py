"""A picture that passes the check of rows and cannot be decoded later: a bad row as well, under the same policy."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import train_runs
from PIL import Image

from sightline.data.picture import read_picture
from sightline.data.schema import read_groups, write_groups
from sightline.data.validate import BAD_ROWS, PictureFiles
from sightline.errors import DataError
from sightline.train.checkpoint import latest
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from sightline.types import Prompt


def seemingly_whole(path: Path) -> Path:
    """A JPEG with its end marker, whose quantization tables are marked as a comment: it opens, and is not decoded."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 90)).save(out, "JPEG")
    path.write_bytes(out.getvalue().replace(b"\xff\xdb", b"\xff\xfe"))
    PictureFiles().check(str(path))
    with pytest.raises(DataError, match="cannot be read"):
        read_picture(str(path))
    return path


def damaged(recipe, folder, which):
    """The recipe with the pictures of some training rows damaged."""
    source = recipe.data.train[0]
    groups = list(read_groups(source.path))
    for index in which:
        picture = str(seemingly_whole(folder / f"damaged-{index}.jpg"))
        old = groups[index].prompts[0]
        messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},)
        prompt = Prompt(id=old.id, messages=messages, images=(picture,))
        groups[index] = replace(groups[index], prompts=(prompt, *groups[index].prompts[1:]))
    path = folder / "damaged.jsonl"
    write_groups(path, groups)
    return replace(recipe, data=replace(recipe.data, train=(replace(source, path=str(path)),))), path


def skipping(recipe):
    return replace(recipe, data=replace(recipe.data, on_bad_row="skip"))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_row_is_left_out_counted_and_named(tiny, tmp_path, caplog, workers):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, max_steps=6, batch_size=2, log_every=1, workers=workers)
    recipe, path = damaged(skipping(recipe), tmp_path, [2, 4])
    result = train(recipe, quiet=True)
    assert result.steps == 6
    lines = [json.loads(line) for line in (result.run_dir / BAD_ROWS).read_text().splitlines()]
    assert {(line["part"], line["file"], line["row"], line["reason"]) for line in lines} == {
        ("training", str(path), 3, "broken image"),
        ("training", str(path), 5, "broken image"),
    } and len(lines) == 2
    told = [record.message for record in caplog.records if "left out while training" in record.message]
    assert len(told) == 2 and any(f"{path}:3 left out while training" in message for message in told)
    assert all(record["loss"] == record["loss"] for record in read_metrics(result.run_dir / "metrics.jsonl"))


def test_what_is_left_trains_as_if_the_row_were_not_there(tiny, tmp_path):
    """One step over all rows: the loss is the mean over the tokens of those that are left."""
    recipe = train_runs.recipe(tiny["llava"], tmp_path / "a", max_steps=1, batch_size=7, log_every=1)
    recipe, path = damaged(skipping(recipe), tmp_path, [1])
    groups = [group for index, group in enumerate(read_groups(path)) if index != 1]
    write_groups(tmp_path / "whole.jsonl", groups)
    source = replace(recipe.data.train[0], path=str(tmp_path / "whole.jsonl"))
    fewer = replace(recipe, output_dir=str(tmp_path / "b"), data=replace(recipe.data, train=(source,)))
    losses = [train(one, quiet=True).last["loss"] for one in (recipe, fewer)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_step_of_nothing_but_damaged_rows_moves_nothing(tiny, tmp_path):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, max_steps=7, batch_size=1, log_every=1, shuffle=False)
    recipe, _ = damaged(skipping(recipe), tmp_path, [3])
    result = train(recipe, quiet=True)
    records = {record["step"]: record for record in read_metrics(result.run_dir / "metrics.jsonl")}
    assert len(records) == 7 and records[4]["grad_norm"] == 0 and records[4]["num_tokens"] == records[3]["num_tokens"]
    assert records[5]["grad_norm"] > 0


def test_an_error_names_the_row_and_the_checkpoint_stays_usable(tiny, tmp_path):
    options = {"batch_size": 1, "save_every": 1, "shuffle": False}
    recipe = train_runs.recipe(tiny["llava"], tmp_path, max_steps=7, **options)
    recipe, path = damaged(recipe, tmp_path, [3])
    with pytest.raises(DataError, match="cannot be read") as caught:
        train(recipe, quiet=True)
    assert str(caught.value).startswith(f"{path}:4: ") and "data.on_bad_row: skip" in str(caught.value)
    assert latest(Path(recipe.output_dir)).name == "step-00000003"
    result = train(skipping(recipe), quiet=True)
    assert result.resumed_from == 3 and result.steps == 7
    picture = tmp_path / "damaged-3.jpg"
    Image.new("RGB", (20, 20)).save(picture)  # restored: the same rows
    again = train(replace(recipe, train=replace(recipe.train, max_steps=7)), quiet=True)
    assert again.resumed_from == 7


@pytest.mark.parametrize("reference", ["cache", "copy"])
def test_references_and_held_out_rows_leave_it_out_too(tiny, tmp_path, reference):
    recipe = train_runs.recipe(
        tiny["llava"], tmp_path, responses=2, reference=reference, max_steps=2, batch_size=4, eval_every=1
    )
    recipe, path = damaged(skipping(recipe), tmp_path, [0, 3])
    held_out = replace(recipe.data.train[0], path=str(path))
    result = train(replace(recipe, data=replace(recipe.data, eval=(held_out,))), quiet=True)
    assert result.steps == 2 and result.last["eval/loss"] > 0


def test_prompts_that_are_sampled_for_leave_it_out_too(tiny, tmp_path):
    recipe = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE")
    groups = list(read_groups(recipe.online.prompts.path))
    picture = str(seemingly_whole(tmp_path / "damaged.jpg"))
    messages = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},)
    groups[0] = replace(groups[0], prompts=(Prompt(id=groups[0].id, messages=messages, images=(picture,)),))
    write_groups(tmp_path / "prompts.jsonl", groups)
    online = replace(recipe.online, prompts=replace(recipe.online.prompts, path=str(tmp_path / "prompts.jsonl")))
    with pytest.raises(DataError, match=r"prompts.jsonl:1: .*cannot be read"):
        train(replace(recipe, online=online), quiet=True)
