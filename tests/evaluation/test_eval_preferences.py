"""``sightline eval preferences`` and ``eval reward`` through the command line, on tiny models."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import train_runs
from PIL import Image

from command_line import Done, sightline
from sightline.data.schema import read_groups, write_groups
from sightline.recipes.schema import LookingSpec
from sightline.rollouts import hf
from sightline.train.loop import train
from sightline.train.metrics import read_metrics

ANSWERS = ("a red circle next to a blue square", "one green star", "two three", "no, there is not any moon")


def rlaif_v(folder: Path) -> Path:
    """Seven rows as RLAIF-V names its columns."""
    pictures = train_runs.draw(folder / "pictures")
    rows = [
        {
            "ds_name": "own",
            "image": f"pictures/{Path(pictures[index % 4]).name}",
            "question": f"describe image {index}",
            "chosen": f"{ANSWERS[index % 4]} and more" if index % 2 else ANSWERS[index % 4],
            "rejected": ANSWERS[(index + 1) % 4],
            "origin_dataset": "drawn",
            "origin_split": "train",
            "idx": index,
        }
        for index in range(7)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def figures(folder: Path) -> dict[str, float]:
    document = json.loads((folder / "results.json").read_text())["sightline"]
    return {name: figure["value"] for name, figure in document["metrics"].items()}


def ok(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rlaif_v(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def dpo(tiny: dict[str, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DPO run with LoRA that held out the rows of ``rows``."""
    folder = tmp_path_factory.mktemp("dpo")
    recipe = train_runs.recipe(
        tiny["llava"], folder, responses=2, model=train_runs.lora(tiny["llava"]), reference="adapter", epochs=2
    )
    held_out = replace(recipe.data.train[0], path=str(rows))
    data = replace(recipe.data, train=(held_out,), eval=(held_out,))
    return train(
        replace(recipe, data=data, train=replace(recipe.train, looking=LookingSpec(every=100))), quiet=True
    ).run_dir


@pytest.fixture(scope="module")
def evaluated(dpo: Path, rows: Path, tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluated")
    asked = ("--model", dpo, "--data", rows, "--against", tiny["llava"], "-o", out, "--generate", 2, "--max-tokens", 6)
    done = ok(sightline("eval", "preferences", *asked))
    assert "preferences (logprobs), 7 comparisons" in done.out
    assert "accuracy/reference" in done.out and "against (A) and this model (B)" in done.out
    changes = done.out.partition("against (A)")[2]
    named = [line for line in changes.splitlines() if line.startswith((" accuracy/", " looking/", " rewards/"))]
    assert len(named) > 6 and all(set(line) & set("✓✗≈•") for line in named), changes
    return out / "preferences"


def test_figures_are_those_that_training_logs_on_held_out_rows(dpo: Path, evaluated: Path) -> None:
    last, found = read_metrics(dpo / "metrics.jsonl")[-1], figures(evaluated)
    same = {
        "eval/rewards/accuracies": "accuracy/reference",
        "eval/rewards/margins": "rewards/margins",
        "eval/rewards/chosen": "rewards/chosen",
        "eval/logps/chosen": "logps/chosen",
        "eval/logps/rejected": "logps/rejected",
        "eval/length/chosen": "length/chosen",
        "looking/blank": "looking/blank",
        "looking/other": "looking/other",
        "looking/policy/blank": "looking/policy/blank",
        "looking/policy/other": "looking/policy/other",
    }
    for logged, name in same.items():
        assert found[name] == pytest.approx(last[logged], abs=1e-4), name
    assert abs(found["rewards/margins"]) > 1e-2


def test_it_writes_results_scores_answers_and_a_page(evaluated: Path, rows: Path) -> None:
    scored = list(read_groups(evaluated / "scores.jsonl"))
    assert [group.id for group in scored] == [f"rows-{number}" for number in range(1, 8)]
    graded = [json.loads(line) for line in (evaluated / "results.graded.jsonl").read_text().splitlines()]
    said = [row["details"]["generated"] for row in graded if "generated" in row["details"]]
    assert len(said) == 4 and all(set(texts) == {"before", "after"} for texts in said)
    before = json.loads((evaluated / "against" / "results.json").read_text())["sightline"]["facts"]
    assert before["adapter"] is None and before["data"] == str(rows)
    page = (evaluated / "report.html").read_text()
    assert page.count('src="data:image/') == 7 and "before: its own answer" in page
    assert "Worst cases, by margin over the reference" in page and "Best cases" in page


def test_the_base_is_the_reference_and_gains_nothing(evaluated: Path) -> None:
    """It was scored once, and stands without figures relative to itself."""
    assert not (evaluated / "against.jsonl").exists() and (evaluated / "reference.jsonl").exists()
    before, after = figures(evaluated / "against"), figures(evaluated)
    assert not [name for name in before if name.startswith("rewards")]
    gained = after["logps/margin"] - before["logps/margin"]
    assert after["rewards/margins"] == pytest.approx(0.1 * gained, abs=1e-9)


def test_a_stopped_command_goes_on_and_a_finished_one_loads_no_model(
    dpo: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("eval", "preferences", "--model", dpo, "--data", rows, "-o", tmp_path, "--looking", 3)
    ok(sightline(*asked))
    folder = tmp_path / "preferences"
    scores, results = (folder / "scores.jsonl"), (folder / "results.json").read_bytes()
    whole = scores.read_bytes()
    scores.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]) + whole.splitlines()[3][:50])
    done = ok(sightline(*asked))
    assert "3 of 7 are in" in done.err
    assert [g.id for g in read_groups(scores)] == [f"rows-{number}" for number in range(1, 8)]
    assert figures(folder) == pytest.approx(_values(results), abs=1e-5)

    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(hf, "load_engine", refuse)
    ok(sightline(*asked))
    done = sightline(*asked[:-1], 5)
    assert done.code == 2 and "was made with other settings (looked: 3 there, 5 here)" in done.err


def _values(results: bytes) -> dict[str, Any]:
    return {name: figure["value"] for name, figure in json.loads(results)["sightline"]["metrics"].items()}


def test_an_earlier_result_stands_beside_and_in_eval_diff(
    evaluated: Path, tiny: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    asked = ("eval", "preferences", "--model", tiny["llava"], "--data", rows, "--looking", 0, "-o", tmp_path)
    done = ok(sightline(*asked, "--against", evaluated.parent))
    assert "against (A) and this model (B)" in done.out
    assert not [name for name in figures(tmp_path / "preferences") if name.startswith(("rewards", "looking"))]
    diff = ok(sightline("eval", "diff", tmp_path, evaluated.parent))
    assert "preferences (logprobs): A against B" in diff.out and "logps/margin" in diff.out
    few = ok(sightline(*asked[:-1], tmp_path / "few", "--limit", 4))
    assert "4/4" in few.err
    done = sightline(*asked[:-1], tmp_path / "few", "--limit", 4, "--against", evaluated.parent)
    assert done.code == 2 and "grade different questions (7 and 4, 4 in common)" in done.err


def test_scores_of_other_pictures_of_the_same_names_are_not_taken(
    rows: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    """A folder of pictures may move; what its files hold is what was scored."""
    for name in ("moved", "changed"):
        shutil.copytree(rows.parent / "pictures", tmp_path / name / "pictures")
    Image.new("RGB", (44, 33)).save(tmp_path / "changed" / "pictures" / "1.png")
    options = ("--model", tiny["llava"], "--data", rows, "-o", tmp_path / "out", "--looking", 0)
    asked = ("eval", "preferences", *options, "--image-dir")
    ok(sightline(*asked, rows.parent))
    assert "7 of 7 are in" in ok(sightline(*asked, tmp_path / "moved")).err
    done = sightline(*asked, tmp_path / "changed")
    assert done.code == 2 and "was made with other settings (rows:" in done.err


def test_what_cannot_be_evaluated_is_said(
    dpo: Path, tiny: dict[str, Path], rows: Path, reward_model: Path, tmp_path: Path
) -> None:
    base = ("eval", "preferences", "--data", rows, "-o", tmp_path)
    assert "is a reward model" in sightline(*base, "--model", reward_model).err
    assert "holds no adapter_config.json" in sightline(*base, "--model", tiny["llava"], "--adapter", tiny["llava"]).err
    two = sightline(*base, "--model", dpo, "--adapter", dpo)
    assert two.code == 2 and "is an adapter for" in two.err and "a model has one" in two.err
    missing = sightline(*base, "--model", tiny["llava"], "--against", tmp_path / "nowhere")
    assert missing.code == 2 and "--against" in missing.err and "does not exist" in missing.err
    alone = train_runs.data(tmp_path / "alone", 3, 1)
    nothing = sightline("eval", "preferences", "--data", alone, "-o", tmp_path, "--model", tiny["llava"])
    assert nothing.code == 2 and "none of 3 rows compares two answers" in nothing.err
    broken = tmp_path / "broken.jsonl"
    broken.write_text(rows.read_text().replace("pictures/1.png", "pictures/9.png"))
    asked = (
        "eval",
        "preferences",
        "--data",
        broken,
        "--image-dir",
        rows.parent,
        "--model",
        tiny["llava"],
        "-o",
        tmp_path,
    )
    assert "broken.jsonl, row 2 (counted from 1): picture" in sightline(*asked).err
    done = ok(sightline(*asked, "--on-bad-row", "skip", "--looking", 0))
    assert "5 of 7 rows kept (missing image: 2)" in done.err
    assert figures(tmp_path / "preferences").keys() >= {"accuracy/sum", "sft_loss/token"}


@pytest.mark.parametrize("command", ["preferences", "reward"])
def test_help_has_an_example(command: str) -> None:
    assert f"Example: sightline eval {command} --model" in " ".join(
        ok(sightline("eval", command, "--help")).out.split()
    )


# --- reward models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reward_model(tiny: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward_model")
    recipe = train_runs.recipe(
        tiny["llava"],
        folder,
        responses=2,
        model=train_runs.lora(tiny["llava"]),
        algorithm={"name": "reward_model"},
        reference="none",
        epochs=4,
    )
    data = replace(recipe.data, eval=recipe.data.train)
    return train(replace(recipe, data=data), quiet=True).run_dir


def test_a_reward_model_is_as_right_as_training_said(reward_model: Path, tmp_path: Path) -> None:
    held_out = reward_model.parent / "data" / "7-2.jsonl"
    done = ok(sightline("eval", "reward", "--model", reward_model, "--data", held_out, "-o", tmp_path))
    assert "calibration/ece" in done.out
    last, found = read_metrics(reward_model / "metrics.jsonl")[-1], figures(tmp_path / "reward")
    for name in ("accuracy", "margin", "loss"):
        assert found[name] == pytest.approx(last[f"eval/{name}"], abs=1e-5), name
    page = (tmp_path / "reward" / "report.html").read_text()
    assert "Reliability" in page and "Best of n" in page and "Worst cases, by score" in page


def test_best_of_n_and_another_reward(reward_model: Path, tmp_path: Path) -> None:
    """Gold counts letters e: as a reward of its own it chooses as well as can be, on answers without comparisons."""
    path = train_runs.data(tmp_path / "data", 4, 3)
    groups = [train_runs.CountsE().reward(group) for group in read_groups(path)]
    write_groups(path, groups)
    asked = ("eval", "reward", "--data", path, "-o", tmp_path, "--against", reward_model)
    done = ok(sightline(*asked, "--model", "train_runs:CountsE"))
    assert "against (A) and this model (B)" in done.out
    found = figures(tmp_path / "reward")
    best = [max(r.reward for r in group.responses) for group in groups]
    assert found["best_of_n/3"] == pytest.approx(sum(best) / 4) and found["accuracy"] == 1.0
    again = ok(sightline(*asked, "--model", "train_runs:CountsE"))
    assert "4 of 4 are in" in again.err
    worse = figures(tmp_path / "reward" / "against")
    assert worse["best_of_n/1"] == pytest.approx(found["best_of_n/1"]) and worse["best_of_n/3"] <= found["best_of_n/3"]
    done = sightline("eval", "reward", "--data", path, "-o", tmp_path / "x", "--model", tmp_path)
    assert done.code == 2 and "holds no reward model" in done.err
