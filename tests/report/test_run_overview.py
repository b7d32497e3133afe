"""What a run page tells before its curves: model, algorithm, rows, time; and samples before and after."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sightline.data.schema import write_groups
from sightline.data.shown import Part, Piece, ShownPicture, ShownRow, read_rows, write_rows
from sightline.evaluation.bench import Graded, Result
from sightline.evaluation.results import measure, write_measured
from sightline.report.run_overview import clock, facts, samples
from sightline.report.run_page import report_run, training_curves
from sightline.types import Group, Prompt, Response

RECORDS = [
    {
        "step": 2,
        "epoch": 0.5,
        "num_tokens": 1200.0,
        "seconds": 3.0,
        "time/sampling": 2.0,
        "time/rest": 0.5,
        "loss": 1.0,
    },
    {
        "step": 6,
        "epoch": 1.5,
        "num_tokens": 4000.0,
        "seconds": 95.0,
        "time/sampling": 1.0,
        "time/rest": 1.0,
        "loss": 0.5,
    },
]
RECIPE = """\
model:
  {path: models/llava, adapter: runs/sft/model, quantization: nf4,
   parts: {language: lora, vision: frozen}, lora: {r: 64}}
algorithm: {name: dpo, beta: 0.5}
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in RECORDS))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    rows = {"train": "58 of 60 rows kept, 57 with pictures", "eval": "8 of 8 rows kept, 8 with pictures"}
    environment = {"device": "NVIDIA H100", "processes": 8, "rows": rows, "packages": {"torch": "2.13.0"}}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    return tmp_path


def sampled(number: int, run_dir: Path, text: str, reward: float) -> Group:
    content = [{"type": "image"}, {"type": "text", "text": f"Q{number}?"}]
    prompt = Prompt(id=f"p{number}", messages=({"role": "user", "content": content},), images=(str(run_dir / "a.png"),))
    return Group(prompts=(prompt,), responses=(Response(text=text, reward=reward),))


def test_facts_are_those_of_the_run(run_dir: Path) -> None:
    assert dict(facts(RECORDS, run_dir)) == {
        "model": "models/llava; with the adapter runs/sft/model; held in nf4; language lora, vision frozen; "
        "LoRA of rank 64",
        "algorithm": "dpo (beta 0.5)",
        "rows": "58 of 60 rows kept, 57 with pictures; eval: 8 of 8 rows kept, 8 with pictures",
        "steps": "6, 1.5 epochs, 4,000 tokens",
        "duration": "2 min",
        # 2 steps of 2 s and 4 of 1 s; 2 of 0.5 s and 4 of 1 s
        "time by stage": "sampling 8.0 s (62 %), rest 5.0 s (38 %)",
        "machine": "NVIDIA H100, 8 processes, torch 2.13.0",
    }


def test_rows_that_nobody_held_out_are_not_told(run_dir: Path) -> None:
    rows = {"train": "58 of 58 rows kept, 58 with pictures", "eval": "0 of 0 rows kept, 0 with pictures"}
    (run_dir / "environment.json").write_text(json.dumps({"rows": rows}))
    assert dict(facts(RECORDS, run_dir))["rows"] == rows["train"]


def test_what_is_not_known_has_no_line(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("[broken")
    assert facts([{"step": 1}], tmp_path) == [("steps", "1")]


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (52, "52 s"), (725, "12 min"), (11_100, "3 h 05 min")])
def test_a_duration_in_words(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_one_record_has_no_charts_but_its_time_is_told(run_dir: Path) -> None:
    assert training_curves(RECORDS[:1]) == []
    assert ("time by stage", "sampling 4.0 s (80 %), rest 1.0 s (20 %)") in facts(RECORDS[:1], run_dir)


def test_the_same_prompts_stand_beside_each_other(run_dir: Path) -> None:
    early = [sampled(number, run_dir, f"early {number}", -1.0) for number in range(3)]
    late = [sampled(number, run_dir, f"late {number}", 1.0) for number in (2, 1)]
    write_groups(run_dir / "samples.jsonl", [*early, *late])
    (title, paired), (_, last) = samples(run_dir)
    assert title == "Samples of the same prompts, first and last"
    assert [(item.question, [(a.title, a.text, a.note) for a in item.answers]) for item in paired] == [
        ("Q1?", [("first: answer 1", "early 1", "reward -1"), ("last: answer 1", "late 1", "reward 1")]),
        ("Q2?", [("first: answer 1", "early 2", "reward -1"), ("last: answer 1", "late 2", "reward 1")]),
    ]
    assert len(last) == 5
    page = report_run(run_dir).read_text()
    assert page.index("first and last") < page.index(">Training<") < page.index("Samples at the end")
    assert page.count("data:image/png;base64,") == 7


def test_answers_of_an_evaluation_stand_beside_those_of_a_later_one(run_dir: Path) -> None:
    def graded(step: int, answers: dict[str, str]) -> None:
        about = {"images": [str(run_dir / "b.png")]}
        told = {id: {"answer": text, "question": f"Is there {id}?", **about} for id, text in answers.items()}
        rows = [Graded(id=id, cluster=id, details=details) for id, details in told.items()]
        result = Result(bench="pope", protocol="official", metrics={}, metrics_printed={}, graded=rows)
        write_measured(measure(result, {}), run_dir / f"evaluation/step-{step:08d}/pope/results.json")

    graded(10, {"a cat": "Yes.", "a dog": "No."})
    assert samples(run_dir) == []  # of one there is no before and after
    assert "a smaller evaluation.every gives two to compare" in report_run(run_dir).read_text()
    graded(20, {"a cat": "No.", "a dog": "No."})
    ((title, (item,)),) = samples(run_dir)
    assert title == "The same questions before and after" and item.question == "Is there a cat?"
    assert [(a.title, a.text) for a in item.answers] == [("after step 10", "Yes."), ("after step 20", "No.")]


def test_a_run_without_answers_says_how_to_get_some(run_dir: Path) -> None:
    page = report_run(run_dir).read_text()
    assert "This run left no answers. A recipe with evaluation (every, benches)" in page
    assert "eval BENCH --model models/llava --adapter runs/sft/model --data DIR -o eval/before" in page
    assert f"sightline eval BENCH --model {run_dir} --data DIR -o eval/after --against eval/before" in page
    write_groups(run_dir / "samples.jsonl", [sampled(1, run_dir, "Red.", 1.0)])
    assert "left no answers" not in report_run(run_dir).read_text()


def test_first_rows_are_kept_and_shown_with_their_pictures(run_dir: Path) -> None:
    pieces = (Piece(text="<image x4>", tokens=4, picture=0), Piece(text=" a <b>", trained=True, weight=0.5))
    row = ShownRow(
        source="rows.jsonl:1",
        id="x",
        pictures=(ShownPicture(path=str(run_dir / "a.png"), width=8, height=8, tokens=4),),
        parts=(Part(title="answer", note="chosen", pieces=pieces),),
    )
    lost = replace(row, pictures=(replace(row.pictures[0], path="/gone/moved.png"),))
    write_rows(run_dir / "first_rows.json", [row, lost])
    assert read_rows(run_dir / "first_rows.json") == [row, lost]
    page = report_run(run_dir).read_text()
    assert page.count("data:image/png;base64,") == 1 and page.count("no picture") == 1
    assert " a &lt;b&gt;</span>" in page and "5 tokens, 1 trained" in page
