"""What a new user gets wrong, and what the command line says about it: one message, with place and remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from command_line import sightline
from sightline.data.schema import read_groups


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Path]) -> Path:
    """Working directory with two pictures, a broken one, and a recipe."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40), (9, 200, 9)).save("a.png")
    Image.new("RGB", (90, 40), (200, 9, 9)).save("b.jpg")
    Path("broken.jpg").write_bytes(Path("b.jpg").read_bytes()[:500])
    for name, reference in (("sft", "none"), ("dpo", "copy")):
        Path(f"{name}.yaml").write_text(
            f"name: r\noutput_dir: run\nmodel: {{path: {tiny['llava']}}}\nalgorithm: {{name: {name}}}\n"
            f"reference: {reference}\ndata: {{train: [{{path: rows.jsonl}}]}}\n"
            "train: {batch_size: 8, max_steps: 1, warmup: 0}\n"
        )
    return tmp_path


def rows(*records: dict[str, Any], name: str = "rows.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))


def llava(question: str, answer: str = "a red circle", **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **more}


def pair(chosen: str = "a red circle", rejected: str = "a blue square", **more: Any) -> dict[str, Any]:
    return {"prompt": "what is there?", "chosen": chosen, "rejected": rejected, **more}


def error_of(*arguments: object) -> str:
    """The one message of a command that must fail."""
    done = sightline(*arguments)
    assert done.code == 2
    assert done.err.count("error: ") == 1 and "Traceback" not in done.err
    return done.err.partition("error: ")[2].strip()


def test_rows_left_out_are_counted_and_listed(folder: Path) -> None:
    rows(
        pair(image="a.png"),
        pair(image="gone.png"),
        pair(image="broken.jpg"),
        pair(chosen="same", rejected="same"),
        pair(rejected=" "),
        pair(),
    )
    done = sightline("train", "dpo.yaml", "data.on_bad_row=skip", "--quiet")
    assert done.code == 0
    assert "train: 2 of 6 rows kept (" in done.err
    assert "Those left out are listed in run/bad_rows.jsonl" in done.err
    listed = [json.loads(line) for line in Path("run/bad_rows.jsonl").read_text().splitlines()]
    assert [(row["file"], row["row"], row["reason"]) for row in listed] == [
        ("rows.jsonl", 2, "missing image"),
        ("rows.jsonl", 3, "broken image"),
        ("rows.jsonl", 4, "chosen equals rejected"),
        ("rows.jsonl", 5, "empty answer"),
    ]


def test_training_tells_how_many_rows_it_has_and_what_it_guessed(folder: Path) -> None:
    rows(llava("<image>\nq", image="elsewhere/a.png"), llava("no picture"))
    done = sightline("train", "sft.yaml", f"data.train.0.image_dir={folder}")
    assert done.code == 0
    account = "train: 2 of 2 rows kept, 1 with pictures; rows.jsonl: 1 pictures found by their bare name"
    assert f"{account} ('elsewhere/a.png' as" in done.err
    assert "Loading weights" not in done.err and "model shards" not in done.err


def test_pictures_in_parquet_files_are_sampled_about_and_paired(folder: Path, tiny: dict[str, Path]) -> None:
    features = Features({"id": Value("string"), "question": Value("string"), "image": ImageFeature()})
    picture = {"bytes": Path("a.png").read_bytes(), "path": None}
    records = [{"id": "q", "question": "Which colour? (A) red (B) green", "image": picture}]
    Dataset.from_list(records, features=features).to_parquet("rows.parquet")
    done = sightline("sample", tiny["llava"], "rows.parquet", "-o", "out/samples.jsonl", "-n", 2, "--max-tokens", 3)
    assert done.code == 0 and "1 prompts answered, 2 answers" in done.err
    (group,) = read_groups("out/samples.jsonl")
    assert Path(group.prompts[0].images[0]).read_bytes() == Path("a.png").read_bytes()
    assert Path(group.prompts[0].images[0]).parent == folder / "out" / "images"

    features["answer"] = Value("string")
    Dataset.from_list([{**records[0], "answer": "B"}], features=features).to_parquet("rows.parquet")
    assert sightline("pairs", "rows.parquet", "--relation", "options", "-o", "out/pairs.jsonl").code == 0
    (paired,) = read_groups("out/pairs.jsonl")
    assert [response.text for response in paired.responses] == ["B", "A"]
    assert paired.prompts[0].images == group.prompts[0].images


def test_no_command_writes_over_what_it_reads(folder: Path, tiny: dict[str, Path]) -> None:
    rows({"question": "what?", "chosen": "a", "rejected": "b"})
    before = (folder / "rows.jsonl").read_bytes()
    for command in (
        ["sample", tiny["llava"], "rows.jsonl", "--overwrite"],
        ["score", "rows.jsonl", "--reward", "no_end=1", "--overwrite"],
        ["pairs", "rows.jsonl"],
        ["pairs", "*.jsonl"],
        ["select", "rows.jsonl", "--target", "other.jsonl", "--reward", "r", "--keep", 1],
        ["select", "other.jsonl", "--target", "rows.jsonl", "--reward", "r", "--keep", 1],
        ["data", "convert", "rows.jsonl"],
        ["data", "fetch", "r*.jsonl"],
    ):
        assert "which is read here. Choose another file" in error_of(*command, "-o", folder / "rows.jsonl")
    assert (folder / "rows.jsonl").read_bytes() == before


def test_rows_where_a_group_file_is_read_are_told_how_they_become_one(folder: Path) -> None:
    rows({"question": "what?", "chosen": "a", "rejected": "b"})
    told = error_of("score", "rows.jsonl", "--reward", "no_end=1", "-o", "o.jsonl")
    assert "rows.jsonl:1: no Group but a row with question, chosen, rejected" in told
    assert "sightline data convert ROWS -o GROUPS.jsonl" in told


def test_wrong_outputs_and_options_of_a_stage(folder: Path, tiny: dict[str, Path]) -> None:
    rows({"question": "what?", "image": "a.png"})
    assert "is a folder. Give --out the name of a file" in error_of("sample", tiny["llava"], "rows.jsonl", "-o", folder)
    done = sightline("sample", tiny["llava"], "rows.jsonl", "-o", "o.jsonl", "--limit", 0)
    assert done.code == 2 and "Invalid value for '--limit'" in done.err


def test_a_model_an_adapter_and_a_template_that_are_not_there(folder: Path) -> None:
    rows(llava("q"))
    (folder / "empty").mkdir()
    train = ["train", "sft.yaml"]
    assert "no model could be loaded from 'empty' (there is no config.json in this folder)" in error_of(
        *train, "model.path=empty"
    )
    assert "no adapter could be loaded from model.adapter 'empty'" in error_of(*train, "model.adapter=empty")
    assert "model.chat_template 'gone.jinja' cannot be read" in error_of(*train, "model.chat_template=gone.jinja")
    assert "output_dir a.png is a file" in error_of(*train, "output_dir=a.png")


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_picture_size_with_the_wrong_keys(folder: Path, tiny: dict[str, Path], family: str) -> None:
    rows(llava("q"))
    message = error_of("train", "sft.yaml", f"model.path={tiny[family]}", "model.image_size={side: 112}")
    assert "model.image_size {'side': 112} does not suit" in message
    assert "The model's own size is {" in message


def test_dpo_refuses_a_row_without_a_comparison(folder: Path) -> None:
    rows(pair(), {"prompt": "q", "completion": "an answer"})
    message = error_of("train", "dpo.yaml")
    found = "there is no comparison of answers, and dpo learns from nothing else"
    assert message.startswith(f"rows.jsonl, row 2 (counted from 1): {found}")
    assert sightline("train", "dpo.yaml", "data.on_bad_row=skip", "--quiet").code == 0
    (listed,) = map(json.loads, Path("run/bad_rows.jsonl").read_text().splitlines())
    assert (listed["row"], listed["reason"]) == (2, "no comparison") and found in listed["error"]


def test_special_tokens_in_texts_are_found_when_the_rows_are_read(folder: Path, tiny: dict[str, Path]) -> None:
    qwen = f"model.path={tiny['qwen2_5_vl']}"
    rows(llava("<image>\nq", image="a.png"), llava("<image>\nwhat is <|image_pad|>?", image="a.png"))
    message = error_of("train", "sft.yaml", qwen)
    assert message.startswith("rows.jsonl, row 2 (counted from 1): a user message contains the image placeholder")
    rows(llava("q", "first<|im_end|>second"))
    message = error_of("train", "sft.yaml", qwen)
    assert "row 1 (counted from 1): an answer contains '<|im_end|>', which is no text to the tokenizer" in message
    rows(llava("q"), llava("q", "first<|im_end|>second"))
    assert "1 of 2 rows kept" in sightline("train", "sft.yaml", qwen, "data.on_bad_row=skip", "--quiet").err


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_rows_with_no_one_and_two_pictures_train_together(folder: Path, tiny: dict[str, Path], family: str) -> None:
    rows(
        llava("no picture"), llava("<image>\nq", image="a.png"), llava("<image>\n<image>\nq", image=["a.png", "b.jpg"])
    )
    done = sightline("train", "sft.yaml", f"model.path={tiny[family]}", "train.max_steps=2")
    assert done.code == 0 and "train: 3 of 3 rows kept" in done.err
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2]
    assert all(0 < record["loss"] < 20 for record in records)


def test_files_without_rows_and_with_rows_of_two_layouts(folder: Path) -> None:
    rows()
    assert error_of("train", "sft.yaml").startswith("rows.jsonl: there are no rows. Name a file or a split that has")
    rows(llava("q"), {"prompt": "q", "completion": "an answer"})
    message = error_of("train", "sft.yaml")
    assert (
        "row 2 (counted from 1): the row has the layout trl, the rows before it llava. Put rows of another" in message
    )
    message = error_of("train", "sft.yaml", "data.train.0.format=trl")
    assert "row 1 (counted from 1): missing column 'prompt'. Found conversations; use rename" in message
    rows({"prompt": "q", "completion": "an answer"})
    message = error_of("train", "sft.yaml", "data.train.0.format=llava")
    assert "row 1 (counted from 1): missing column 'conversations'. Found prompt, completion; use rename" in message


def test_a_folder_of_pictures_that_is_not_there(folder: Path) -> None:
    rows(llava("<image>\nq", image="a.png"))
    message = error_of("train", "sft.yaml", "data.train.0.image_dir=nowhere")
    looked = folder / "nowhere" / "a.png"
    assert f"picture 'a.png' is missing: looked for {looked}; image_dir nowhere is no folder. Put the file" in message


def test_files_that_are_no_text_and_pictures_that_no_processor_takes(folder: Path, tiny: dict[str, Path]) -> None:
    Path("rows.jsonl").write_bytes(json.dumps(llava("q")).encode() + b"\n\xff\xfe\n")
    assert "rows.jsonl, row 2 (counted from 1): not UTF-8 text (byte 0xff)" in error_of("train", "sft.yaml")
    Image.new("RGB", (9000, 30)).save("long.png")
    rows(llava("q"), llava("<image>\nq", image="long.png"))
    qwen = f"model.path={tiny['qwen2_5_vl']}"
    message = error_of("train", "sft.yaml", qwen)
    assert "row 2 (counted from 1): the image processor refuses picture" in message
    assert "of 9000x30 pixels (absolute aspect ratio must be smaller than 200, got 300.0). Resize" in message


def test_an_adapter_goes_with_its_model(folder: Path, tiny: dict[str, Path]) -> None:
    rows(llava("<image>\nq", image="a.png"))
    lora = ["model.parts={language: lora, projector: frozen, vision: frozen}", "model.lora.rank=2"]
    assert sightline("train", "sft.yaml", *lora).code == 0
    sample = ["sample", "rows.jsonl", "--max-tokens", 2, "-o"]
    message = error_of("train", "sft.yaml", "model.path=run/model", "output_dir=other")
    assert f"Set model.path to {tiny['llava']} and model.adapter to run/model, to train it on; or merge" in message
    done = sightline(sample[0], tiny["llava"], *sample[1:], "o.jsonl", "--adapter", "run/model")
    assert done.code == 0 and "Warning" not in done.err


def test_a_tracker_that_cannot_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ConnectionError("no api key")

    monkeypatch.setattr("accelerate.Accelerator.init_trackers", refuse)
    rows(llava("q"))
    message = error_of("train", "sft.yaml", "train.trackers=[tensorboard]")
    assert message.startswith("train.trackers: tensorboard cannot start (no api key). Log in")
