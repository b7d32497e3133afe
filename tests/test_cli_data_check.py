"""``sightline data check``: what it finds in rows made for it, what it exits with, what it refuses."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.recipes.load import load_recipe
from sightline.train.session import open_session
from sightline.train.source import OfflineSource

Run = Callable[..., tuple[int, str, str]]
WORDS = ["red", "blue", "green", "yellow", "small", "large", "one", "two", "three", "four", "five", "six", "seven"]


def photo(path: Path, seed: int, size: tuple[int, int] = (48, 36)) -> None:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve preference rows on six pictures of their own folder; the working directory is beside them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        photo(tmp_path / f"pictures/{number}.png", number)
    write(tmp_path / "rows.jsonl", rows())
    return tmp_path


def rows() -> list[dict[str, Any]]:
    """Chosen answers are longer in every second row."""
    made = []
    for number in range(12):
        texts = [f"a {WORDS[number]} circle", f"a {WORDS[number]} circle and a {WORDS[number - 1]} square"]
        chosen, rejected = texts if number % 2 else texts[::-1]
        prompt = f"question {WORDS[number]}?"
        made.append(
            {"prompt": prompt, "chosen": chosen, "rejected": rejected, "images": [f"pictures/{number % 6}.png"]}
        )
    return made


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def found(run: Run, *arguments: object) -> tuple[int, str, dict[str, Any]]:
    """Exit code, terminal and JSON of a check."""
    code, out, err = run("data", "check", *arguments, "--json", "found.json")
    assert Path("found.json").is_file(), err
    return code, out, json.loads(Path("found.json").read_text(encoding="utf-8"))


def recipe(folder: Path, model: Path, *lines: str, algorithm: str = "{name: dpo}", data: str = "rows.jsonl") -> Path:
    text = f"""name: check
output_dir: run
model:
  path: {model}
  parts: {{language: lora, projector: frozen}}
algorithm: {algorithm}
data:
  train:
    - path: {data}
train: {{batch_size: 4, epochs: 2}}
"""
    path = folder / "recipe.yaml"
    path.write_text(text + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# --- clean rows ---------------------------------------------------------------------------------


def test_clean_rows_exit_with_0_and_are_counted(run: Run, folder: Path) -> None:
    code, out, all_found = found(run, "--data", "rows.jsonl")
    assert (code, all_found["problems"]) == (0, [])
    assert "12 of 12 rows kept" in out and "No problem found." in out
    (source,) = all_found["sources"]
    assert (source["read"], source["kept"], source["with_pictures"], source["columns"]) == (12, 12, 12, {})
    pictures = all_found["pictures"]
    assert (pictures["files"], pictures["distinct"], pictures["sharing"]["count"], pictures["copied"]) == (6, 6, 12, 0)
    bias = all_found["answers"]["bias"]
    assert (bias["unit"], bias["pairs"], bias["longer"], bias["shorter"]) == ("words", 12, 6, 6)
    assert (bias["share"]["value"], bias["difference"]["value"], bias["certain"]) == (0.5, 0.0, False)
    assert all_found["tokens"] is None and all_found["first"] == [] and all_found["forecast"] is None
    assert not (folder / "run").exists()


def test_with_a_model_tokens_are_counted_and_first_rows_shown(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    code, out, all_found = found(run, "--data", "rows.jsonl", "--model", tiny["llava"], "--rows", 1)
    assert code == 0
    tokens = all_found["tokens"]
    assert tokens["pictures"]["least"] == tokens["pictures"]["most"] == 16
    assert tokens["total"]["count"] == 12 and tokens["answer"]["count"] == 24
    assert all_found["answers"]["bias"]["unit"] == "tokens"
    (row,) = all_found["first"]
    assert [part["title"] for part in row["parts"]] == ["prompt", "chosen", "rejected"]
    assert [piece["text"] for piece in row["parts"][0]["pieces"]] == [
        "USER: ",
        "<image x16>",
        "\nquestion red? ASSISTANT:",
    ]
    assert "USER: <image x16>⏎question red? ASSISTANT:" in out
    assert "« a red circle and a seven square</s>»" in out


def test_a_recipe_gets_a_forecast_and_writes_nothing_into_its_run(
    run: Run, folder: Path, tiny: dict[str, Path]
) -> None:
    code, out, all_found = found(run, recipe(folder, tiny["llava"]), "--device", "h100", "--html", "page.html")
    assert code == 0 and not (folder / "run").exists()
    plan = all_found["forecast"]
    assert (plan["steps"], plan["layout"], plan["speed"]["device"]) == (6, "tree", "h100")
    assert plan["tokens"]["rows"] > plan["tokens"]["tree"]
    trained = {part["part"]: part["trained"] for part in plan["outline"]["parts"]}
    assert trained["language"] == 16384 and trained["vision"] == 0
    assert "6 steps on h100" in out and "a step as tree (the recipe's)" in out
    page = Path("page.html").read_text(encoding="utf-8")
    assert '<span class="seen">&lt;image x16&gt;</span>' in page and "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", "")
    longer = found(run, recipe(folder, tiny["llava"]), "train.epochs=5", "model.layout=rows", "--device", "h100")[2]
    assert (longer["forecast"]["steps"], longer["forecast"]["layout"]) == (15, "rows")


# --- what is wrong with rows --------------------------------------------------------------------


def test_bad_rows_are_counted_by_reason_with_the_first_of_each(run: Run, folder: Path) -> None:
    records = rows()
    records[2]["images"] = ["pictures/gone.png"]
    records[4]["images"] = ["pictures/gone.png"]
    records[5]["chosen"] = records[5]["rejected"]
    records[7]["chosen"] = ""
    write(folder / "rows.jsonl", records)
    code, out, all_found = found(run, "--data", "rows.jsonl")
    assert code == 1
    bad = {one["reason"]: (one["count"], one["first"]["row"]) for one in all_found["sources"][0]["bad"]}
    assert bad == {"missing image": (2, 3), "chosen equals rejected": (1, 6), "empty answer": (1, 8)}
    assert all_found["problems"] == [{"kind": "bad", "text": "4 of 12 rows cannot be used"}]
    assert "first: rows.jsonl, row 3: picture 'pictures/gone.png' is missing" in out
    assert run("data", "check", "--data", "rows.jsonl", "--fail-on", "bad=0.5")[0] == 0
    assert run("data", "check", "--data", "rows.jsonl", "--fail-on", "none")[0] == 0


def test_rows_of_which_none_can_be_used_are_a_finding(run: Run, folder: Path) -> None:
    write(folder / "rows.jsonl", [{**record, "images": ["gone.png"]} for record in rows()])
    code, _, all_found = found(run, "--data", "rows.jsonl")
    assert (code, all_found["sources"][0]["kept"]) == (1, 0)
    assert all_found["sources"][0]["bad"][0]["count"] == 12


def test_a_picture_that_breaks_when_it_is_decoded_is_a_bad_row(run: Run, folder: Path) -> None:
    photo(folder / "pictures/6.jpg", 6)
    whole = (folder / "pictures/6.jpg").read_bytes()
    (folder / "pictures/6.jpg").write_bytes(whole.replace(b"\xff\xdb", b"\xff\xfe"))  # without tables to decode by
    records = rows()
    records[3]["images"] = ["pictures/6.jpg"]
    write(folder / "rows.jsonl", records)
    code, _, all_found = found(run, "--data", "rows.jsonl")
    assert code == 1 and all_found["sources"][0]["kept"] == 12
    assert all_found["pictures"]["broken"]["count"] == 1
    assert all_found["pictures"]["broken"]["rows"][0].startswith("rows.jsonl:4: ")
    assert all_found["problems"][0]["text"] == "1 of 12 rows cannot be used"
    assert run("data", "check", "--data", "rows.jsonl", "--no-pixels")[0] == 0


def test_too_long_rows_are_bad_and_stand_in_the_distribution(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    records = rows()
    records[1]["chosen"] = "red " * 300
    write(folder / "rows.jsonl", records)
    code, out, all_found = found(run, "--data", "rows.jsonl", "--model", tiny["llava"], "--max-length", 200)
    assert code == 1
    tokens = all_found["tokens"]
    assert (tokens["total"]["count"], tokens["max_length"]) == (12, 200)
    assert tokens["total"]["most"] > 300
    assert tokens["too_long"] == {"count": 1, "rows": ["rows.jsonl:2"]}
    assert "more than max_length = 200" in out


def test_always_longer_answers_are_a_bias(run: Run, folder: Path) -> None:
    write(
        folder / "rows.jsonl",
        [{**record, "chosen": record["chosen"] + " and more and more and more and more"} for record in rows()],
    )
    code, out, all_found = found(run, "--data", "rows.jsonl")
    assert code == 1
    assert [problem["kind"] for problem in all_found["problems"]] == ["bias"]
    assert "preferring the longer answer gets 100.0% of 12 pairs right" in out
    assert run("data", "check", "--data", "rows.jsonl", "--fail-on", "bias=1")[0] == 0


def test_columns_copies_scores_and_doubles_are_problems_where_they_are_named(run: Run, folder: Path) -> None:
    photo(folder / "pictures/copy.bmp", 0)
    photo(folder / "pictures/spare.png", 77)
    records: list[dict[str, Any]] = [{**record, "origin": "web"} for record in rows()]
    for record in records[:3]:
        record |= {"score_chosen": 0.1, "score_rejected": 0.2}
    records[6]["images"] = ["pictures/copy.bmp"]
    records[8] |= {"chosen": "A  red circle", "rejected": "a red circle"}
    write(folder / "rows.jsonl", records)
    assert run("data", "check", "--data", "rows.jsonl")[0] == 0
    code, _, all_found = found(run, "--data", "rows.jsonl", "--fail-on", "columns,copies,scores,same")
    assert code == 1
    assert {problem["kind"]: problem["text"] for problem in all_found["problems"]} == {
        "columns": "1 columns are read by nothing",
        "copies": "2 of 7 picture files have the pixels of another",
        "scores": "3 of 12 comparisons prefer the answer with the lower score",
        "same": "1 of 12 comparisons are of the same answer but for white space and case",
    }
    assert all_found["sources"][0]["columns"] == {"origin": 12}
    assert all_found["pictures"]["unused"]["rows"] == [str(folder / "pictures/spare.png")]


# --- leakage ------------------------------------------------------------------------------------


def test_pictures_of_a_benchmark_are_named_with_their_rows(run: Run, folder: Path) -> None:
    (folder / "bench").mkdir()
    photo(folder / "bench/other.png", 50)
    assert run("data", "check", "--data", "rows.jsonl", "--against", "bench")[0] == 0
    photo(folder / "bench/same.bmp", 3)
    photo(folder / "one.png", 4)
    code, _, all_found = found(run, "--data", "rows.jsonl", "--against", "bench", "--against", "one.png")
    assert code == 1
    first, second = all_found["leaks"]
    assert (first["pictures"], first["same"]["count"], second["same"]["count"]) == (2, 2, 2)
    assert first["same"]["rows"][0].startswith("rows.jsonl:4: ") and "bench/same.bmp" in first["same"]["rows"][0]
    # each by itself: a picture that stands in both is no two rows
    assert all_found["problems"] == [
        {"kind": "leak", "text": f"2 of 12 rows have a picture of {name}, by its pixels"}
        for name in ("bench", "one.png")
    ]


def test_rows_and_benchmarks_by_name_bring_their_questions(run: Run, folder: Path) -> None:
    (folder / "bench").mkdir()
    photo(folder / "bench/same.png", 3)
    write(folder / "bench/held.jsonl", [{"prompt": "Question  four?", "images": ["same.png"]}])
    _, _, all_found = found(run, "--data", "rows.jsonl", "--against", "bench/held.jsonl")
    (leak,) = all_found["leaks"]
    assert (leak["questions"], leak["same"]["count"], leak["question"]["count"]) == (1, 2, 1)
    # "question four?" is asked in row 10, about picture 3
    assert leak["both"]["rows"][0].startswith("rows.jsonl:10: ")
    pope = folder / "pope"
    (pope / "val2014").mkdir(parents=True)
    photo(pope / "val2014/COCO_val2014_000000000001.jpg", 1)
    line = {"question_id": 1, "image": "COCO_val2014_000000000001.jpg", "text": "question red?", "label": "yes"}
    write(pope / "coco_pope_random.json", [line])
    _, _, all_found = found(run, "--data", "rows.jsonl", "--against", "pope=pope")
    # asked there with a line on how to answer, and bare by its official script
    (leak,) = all_found["leaks"]
    assert (leak["pictures"], leak["questions"], leak["question"]["rows"]) == (1, 2, ["rows.jsonl:1: 'question red?'"])


def test_a_benchmark_whose_pictures_are_not_there_is_no_clean_check(run: Run, folder: Path) -> None:
    write(folder / "held.jsonl", [{"prompt": "What?", "images": ["gone.png"]}])
    code, _, err = run("data", "check", "--data", "rows.jsonl", "--against", "held.jsonl")
    assert code == 2
    assert "none of its 1 pictures can be read, so nothing can be compared with them" in err


def test_held_out_rows_that_are_trained_on_are_told(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    held = [{**rows()[0], "images": ["pictures/2.png"]}]
    write(folder / "held.jsonl", held)
    path = recipe(folder, tiny["llava"])
    code, out, all_found = found(run, path, "data.eval.0.path=held.jsonl", "--fail-on", "split", "--device", "a100")
    assert code == 1
    assert all_found["problems"] == [{"kind": "split", "text": "2 of 12 rows have a picture that is held out as well"}]
    assert [source["part"] for source in all_found["sources"]] == ["train", "eval"]
    assert "held out: held.jsonl" in out
    code, out, all_found = found(run, path, "data.eval.0.path=held.jsonl", "--no-pixels", "--device", "a100")
    assert (code, all_found["split"]) == (0, None) and "data.eval is not compared" in out


def test_what_is_held_out_and_how_often_sources_are_taken_is_that_of_a_run(
    run: Run, folder: Path, tiny: dict[str, Path]
) -> None:
    """Rows, steps and first row are those that ``load_rows`` gives the loop."""
    shutil.copy(folder / "pictures/0.png", folder / "pictures/copy.png")
    records = rows()
    records[7]["images"] = ["pictures/copy.png"]  # with picture 0 on one side
    write(folder / "rows.jsonl", records)
    write(folder / "more.jsonl", rows()[:6])
    sources = ["data.train.1.path=more.jsonl", "data.train.1.weight=3", "data.train.0.weight=0.5", "train.epochs=4"]
    path = recipe(folder, tiny["llava"])
    held = ["data.validation=0.5", "seed=2"]
    for overrides in (held, sources, [*sources, *held]):
        _, out, all_found = found(run, path, *overrides, "--device", "h100", "--rows", 1, "--fail-on", "none")
        asked = load_recipe(path, overrides)
        with open_session(asked) as session:
            assert isinstance(session.source, OfflineSource)
            groups, steps = session.source._groups, session.source.steps(4 if "train.epochs=4" in overrides else 2)
            assert all_found["held_out"] == len(session.held_out)
        shutil.rmtree(folder / "run")
        assert all_found["answers"]["bias"]["pairs"] == len(groups)
        assert all_found["forecast"]["steps"] == steps
        assert all_found["first"][0]["source"] == groups[0].source
        assert ("data.validation" in out) is bool(all_found["held_out"])
    # 9 long and 3 x 6 short rows an epoch
    long = [{**record, "chosen": "red " * 60, "images": [f"pictures/{n % 6}.png"]} for n, record in enumerate(rows())]
    write(folder / "rows.jsonl", long)
    plan = found(run, path, *sources, "--device", "h100", "--fail-on", "none")[2]["forecast"]
    even = found(run, path, sources[0], "--device", "h100", "--fail-on", "none")[2]["forecast"]
    assert even["tokens"]["tree"] - plan["tokens"]["tree"] == pytest.approx(4 * (12 / 18 - 6 / 24) * 58, rel=0.05)


def test_a_source_that_is_held_out_whole_is_refused_as_by_a_run(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    write(folder / "one.jsonl", rows()[5:6])
    path = recipe(folder, tiny["llava"])
    for seed in range(20):
        overrides = (path, "data.train.1.path=one.jsonl", "data.validation=0.5", f"seed={seed}")
        code, _, err = run("data", "check", *overrides, "--fail-on", "none", "--device", "h100", "--quiet")
        if code:
            break
    assert code == 2 and "one.jsonl: data.validation holds out all rows of this source" in " ".join(err.split())
    assert run("train", *overrides)[2].splitlines()[-1] == err.splitlines()[-1]


# --- other algorithms ---------------------------------------------------------------------------


def test_visual_preferences_show_every_prompt(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    path = recipe(folder, tiny["llava"])
    override = "data.train.0.visual={relation: mdpo, negative: {kind: crop}}"
    code, out, all_found = found(run, path, override, "--device", "h100", "--rows", 1, "--html", "page.html")
    assert code == 0
    (row,) = all_found["first"]
    assert [part["title"] for part in row["parts"]] == ["prompt 1", "prompt 2", "answer 1", "answer 2", "answer 3"]
    assert len(row["pictures"]) == 2 and "negatives/crop" in out
    assert Path("page.html").read_text(encoding="utf-8").count("data:image/png") == 2
    plain = found(run, path, "--device", "h100")[2]
    assert all_found["forecast"]["tokens"]["tree"] > 1.5 * plain["forecast"]["tokens"]["tree"]
    assert all_found["pictures"]["files"] == 6
    # a row without a picture cannot be compared under another one, and what is compared may be too long
    records = rows()
    records[4] |= {"images": []}
    records[6] |= {"chosen": "red " * 20}
    write(folder / "rows.jsonl", records)
    longest = found(run, path, "--device", "h100", "--fail-on", "none")[2]["tokens"]["total"]["most"]
    few = f"data.max_length={longest - 1:.0f}"
    code, _, all_found = found(run, path, override, few, "--device", "h100", "--fail-on", "bad")
    bad = {one["reason"]: (one["count"], one["first"]["row"]) for one in all_found["sources"][0]["bad"]}
    assert (code, bad, all_found["sources"][0]["kept"]) == (1, {"too long": (1, 7), "missing image": (1, 5)}, 10)
    code, _, err = run("train", path, override, few, "data.on_bad_row=skip", "train.max_steps=1")
    assert "10 of 12 rows kept" in err


def test_criteria_are_judged_behind_answers_whose_own_lengths_count(
    run: Run, folder: Path, tiny: dict[str, Path]
) -> None:
    """What follows the criteria is the same for all answers."""
    path = recipe(folder, tiny["llava"], algorithm="{name: reward_model}")
    plain = found(run, path, "--device", "h100")[2]["answers"]["bias"]
    judged = found(run, path, "data.reads.criteria=default", "--device", "h100")[2]["answers"]["bias"]
    assert plain["longer"] == 6 and judged == plain


def test_labelled_rows_are_balanced_or_not_and_reward_models_read_the_last_token(
    run: Run, folder: Path, tiny: dict[str, Path]
) -> None:
    labelled = [
        {"prompt": r["prompt"], "completion": r["chosen"], "label": n % 4 == 0, "images": r["images"]}
        for n, r in enumerate(rows())
    ]
    write(folder / "labelled.jsonl", labelled)
    _, out, all_found = found(run, "--data", "labelled.jsonl")
    assert (all_found["answers"]["desirable"], all_found["answers"]["undesirable"]) == (3, 9)
    assert "25.0% desirable" in out
    path = recipe(folder, tiny["llava"], algorithm="{name: reward_model}")
    _, out, all_found = found(run, path, "--device", "h100", "--rows", 1)
    assert all_found["first"][0]["marks"] == "scored"
    assert "1 scored" in out and "«</s>»" in out


# --- wrong use ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "expected a recipe, or --data with rows"),
        (("recipe.yaml", "--data", "rows.jsonl"), "expected a recipe, or --data with rows"),
        (
            ("recipe.yaml", "--limit", "3"),
            "--limit goes with --data; of a recipe write an override (data.train.0.limit",
        ),
        (("recipe.yaml", "--model", "m"), "write an override (model.path=...)"),
        (("recipe.yaml", "--max-length", "99"), "write an override (data.max_length=...)"),
        (("recipe.yaml", "--device", "h1000"), "--device is 'h1000', expected one of b200"),
        (("--data", "rows.jsonl", "--device", "h100"), "are for the forecast of a recipe"),
        (("--data", "rows.jsonl", "--max-length", "99"), "there is no --model whose they are"),
        (("--data", "rows.jsonl", "--fail-on", "bads"), "--fail-on names 'bads', expected none"),
        (("--data", "rows.jsonl", "--fail-on", "bias=60"), "expected a share from 0 to 1"),
        (("--data", "rows.jsonl", "--format", "llaba"), "found 'llaba'"),
        (("--data", "gone.jsonl"), "gone.jsonl"),
        (("--data", "rows.jsonl", "--against", "nowhere"), "there is no such file or folder"),
        (("--data", "rows.jsonl", "--against", "pop=pictures"), "Did you mean pope?"),
        (("--data", "rows.jsonl", "--against", "pictures", "--no-pixels"), "Leave one of them out"),
        (("--data", "rows.jsonl", "--model", "models/none"), "models/none"),
        (("--data", "rows.jsonl", "--rows", "3"), "Name it with --model"),
        (("--data", "rows.jsonl", "--fail-on", "bad,leak"), "--fail-on leak would never fail"),
        (("--data", "rows.jsonl", "--fail-on", "copies", "--no-pixels"), "Leave --no-pixels out"),
        (("recipe.yaml", "--fail-on", "split"), "Name held-out rows under data.eval"),
        (("--data", "rows.jsonl", "--fail-on", "memory"), "Name a recipe"),
        (("--data", "rows.jsonl", "--json", "rows.jsonl"), "--json is rows.jsonl, which is read here"),
        (("recipe.yaml", "--html", "recipe.yaml"), "--html is recipe.yaml, which is read here"),
        (("--data", "rows.jsonl", "--json", "rows.jsonl/a.json"), "where no file can be written"),
        (("--data", "rows.jsonl", "--html", "pictures"), "where no file can be written"),
        (("recipe.yaml", "--json", "a", "--html", "a"), "Give each a file of its own"),
    ],
)
def test_wrong_use_is_told_with_exit_code_2(
    run: Run, folder: Path, tiny: dict[str, Path], arguments: tuple[str, ...], told: str
) -> None:
    recipe(folder, tiny["llava"])
    code, _, err = run("data", "check", *arguments)
    assert code == 2
    assert told in " ".join(err.split())
    assert (folder / "rows.jsonl").read_text(encoding="utf-8").startswith('{"prompt"')


def test_what_a_run_would_refuse_is_refused(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    """A processor that makes pictures of another size than the tower takes."""
    path = recipe(folder, tiny["llava"])
    code, _, err = run("data", "check", path, "model.image_size={shortest_edge: 64}")
    assert code == 2 and "leave model.image_size out" in err.lower()


# --- other rows ---------------------------------------------------------------------------------


def test_a_model_folder_without_its_weights_is_enough(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    bare = folder / "bare"
    shutil.copytree(tiny["llava"], bare, ignore=shutil.ignore_patterns("*.safetensors"))
    _, _, all_found = found(run, recipe(folder, bare), "--device", "h100")
    assert all_found["forecast"]["outline"]["parts"][0]["trained"] == 16384
    # a measured speed is this machine's
    _, out, all_found = found(run, recipe(folder, bare))
    assert "measured here" in all_found["forecast"]["speed"]["how"] and "assumed" in out


def test_pictures_inside_rows_are_shown_and_leave_nothing_behind(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    records = rows()[:2]
    for record in records:
        content = base64.b64encode((folder / record["images"][0]).read_bytes()).decode()
        record["images"] = [f"data:image/png;base64,{content}"]
    write(folder / "rows.jsonl", records)
    before = {path for path in folder.rglob("*") if path.is_file()}
    options = ("--data", "rows.jsonl", "--model", tiny["llava"], "--html", "page.html")
    code, _, all_found = found(run, *options)
    assert code == 0
    assert (all_found["pictures"]["files"], all_found["pictures"]["unused"]["count"]) == (2, 0)
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert {path.name for path in folder.rglob("*") if path.is_file() and path not in before} == {
        "found.json",
        "page.html",
    }


def test_what_is_no_row_or_asks_for_nothing_is_counted_not_raised(run: Run, folder: Path) -> None:
    lines = [json.dumps(record).encode() for record in rows()]
    lines[1] = b"{not json"
    lines[2] = b'{"prompt": "\xff", "chosen": "a", "rejected": "b"}'
    lines[3] = json.dumps({"prompt": 7, "chosen": "a", "rejected": "b"}).encode()
    lines[4] = json.dumps({"prompt": "what?", "chosen": "a", "rejected": "b", "videos": ["a.mp4"]}).encode()
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))
    code, _, all_found = found(run, "--data", "rows.jsonl")
    bad = {one["reason"]: (one["count"], one["first"]["row"]) for one in all_found["sources"][0]["bad"]}
    assert code == 1
    assert bad == {"malformed": (3, 2), "unread image": (1, 5)}


def test_text_rows_and_prompts_alone_need_no_pictures_and_no_answers(
    run: Run, folder: Path, tiny: dict[str, Path]
) -> None:
    write(folder / "prompts.jsonl", [{"prompt": f"question {n}?"} for n in range(3)])
    code, out, all_found = found(run, "--data", "prompts.jsonl", "--model", tiny["qwen2_5_vl"], "--html", "page.html")
    assert code == 0
    assert (all_found["pictures"]["files"], all_found["answers"]["bias"], all_found["tokens"]["answer"]) == (
        0,
        None,
        None,
    )
    assert [part["title"] for part in all_found["first"][0]["parts"]] == ["prompt"]
    assert "\nPictures\n" not in out and "\nAnswers\n" not in out


def test_online_prompts_are_measured_with_what_may_be_sampled(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    write(folder / "prompts.jsonl", [{"prompt": "red?"}, {"prompt": "red " * 80}])
    text = f"""name: online
output_dir: run
model: {{path: {tiny["llava"]}, parts: {{language: lora, projector: frozen}}}}
algorithm: {{name: dpo}}
data: {{max_length: 120}}
online:
  prompts: {{path: prompts.jsonl}}
  reward: scenes
  sampling: {{n: 2, max_new_tokens: 100}}
"""
    (folder / "online.yaml").write_text(text, encoding="utf-8")
    code, out, all_found = found(run, "online.yaml")
    assert code == 1 and all_found["forecast"] is None
    assert all_found["tokens"]["too_long"] == {"count": 1, "rows": ["prompts.jsonl:2"]}
    assert "No forecast" in out


def test_a_file_that_is_named_twice_counts_twice(run: Run, folder: Path, tiny: dict[str, Path]) -> None:
    path = recipe(folder, tiny["llava"])
    _, _, once = found(run, path, "--device", "h100")
    _, _, twice = found(run, path, "data.train.1.path=rows.jsonl", "data.train.1.limit=5", "--device", "h100")
    assert [all_found["tokens"]["total"]["count"] for all_found in (once, twice)] == [12, 17]
    assert [all_found["answers"]["bias"]["pairs"] for all_found in (once, twice)] == [12, 17]
    assert [all_found["forecast"]["steps"] for all_found in (once, twice)] == [6, 10]
