import json
import math
import re
from dataclasses import replace

import pytest

from sightline.data.schema import write_groups
from sightline.errors import CheckpointError
from sightline.report.gallery import gallery_of
from sightline.report.run_page import not_finite, report_run, training_curves, unchanged
from sightline.report.svg import chart
from sightline.train.clock import PARTS
from sightline.types import Edge, Group, Prompt, Response


def group(number, picture):
    return Group(
        prompts=(
            Prompt(
                id=f"g{number}",
                messages=({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": f"Q{number}?"}]},),
                images=(picture,),
            ),
        ),
        responses=(Response(text="good", reward=0.75), Response(text="bad", reward=-1.0), Response(text="spare")),
        edges=(Edge(winner=0, loser=1),),
    )


RECORDS = [
    {"step": 1, "loss": 0.7, "rewards/margins": 0.0, "custom": 3, "reward": 0.75},
    {"step": 2, "loss": 0.5, "eval/loss": 0.6, "rewards/margins": 1.5, "custom": 4, "text": "x"},
]


def test_curves_of_known_metrics_come_first_then_all_others():
    curves = training_curves(RECORDS, prefix="DPO: ")
    assert [curve.title for curve in curves] == ["DPO: Loss", "DPO: Reward margin", "DPO: custom"]
    loss, held_out = curves[0].lines
    assert (loss.x, loss.y) == ([1, 2], [0.7, 0.5])
    assert (held_out.name, held_out.x, held_out.y) == ("held out", [2], [0.6])


def test_parts_of_a_metric_share_a_chart_and_one_part_alone_has_none():
    parts = {"step": 1, "loss/dpo": 0.6, "loss/sft": 0.2, "rewards/margins/text": 1.0, "seconds": 9.0}
    (curve,) = training_curves([parts, {**parts, "step": 2, "loss/dpo": 0.5}])
    assert curve.title == "Loss by term"
    assert [(line.name, line.y) for line in curve.lines] == [("dpo", [0.6, 0.5]), ("sft", [0.2, 0.2])]


def test_more_parts_than_a_chart_has_colours_are_several_charts():
    curves = training_curves([{"step": step, **{f"rewards/{n}/mean": step for n in "abcdef"}} for step in (1, 2)])
    assert [(curve.title, [line.name for line in curve.lines]) for curve in curves] == [
        ("Terms of the reward, mean (1 of 2)", ["a", "b", "c", "d"]),
        ("Terms of the reward, mean (2 of 2)", ["e", "f"]),
    ]


def test_held_out_rows_stand_beside_the_trained_ones():
    records = [
        {"step": step, "loss": 1 / step, "logps/chosen": -step, "logps/rejected": -9 * step} for step in (1, 2, 3)
    ]
    records[2] |= {"eval/loss": 0.4, "eval/logps/chosen": -2.0, "eval/logps/rejected": -3.0}
    loss, answers = training_curves(records)
    assert [(line.name, line.x) for line in loss.lines] == [("training", [1, 2, 3]), ("held out", [3])]
    assert answers.title == "Log-probability of the answers"
    records[1] |= {"eval/logps/chosen": -2.5, "eval/logps/rejected": -3.0}
    assert training_curves(records)[2].title == "Log-probability of the answers, held out"


def test_what_never_changes_is_told_once_and_what_is_the_same_is_drawn_once():
    records = [
        {"step": step, "loss": 1 / step, "nll": 1 / step + 1e-9, "learning_rate": 2e-4, "kl": 0.0, "new": float("nan")}
        for step in (1, 2)
    ]
    records[1]["reward"] = 0.5
    (curve,) = training_curves(records)
    assert (curve.title, curve.y_label) == ("Loss = Negative log-likelihood of a token", "nats")
    assert {name: value for name, value in unchanged(records).items() if name != "new"} == {
        "kl": 0.0,
        "learning_rate": 2e-4,
        "reward": 0.5,
    }


def test_parts_of_a_step_stand_on_each_other_in_its_order(tmp_path):
    other = {"time/update": 1.0, "time/rest": 0.5}
    spent = [{"step": step, "time/sync": 0.0, "time/sampling": 3.0 * (step % 2), **other} for step in (1, 2, 3)]
    (curve,) = training_curves(spent)
    assert curve.stacked and [line.name for line in curve.lines] == ["sampling", "update", "rest"]
    bands = re.findall(r'<polygon class="(band c\d)" points="([^"]+)"/>', chart(curve))
    corners = [[float(pair.split(",")[1]) for pair in points.split()] for _, points in bands]
    assert [kind for kind, _ in bands] == ["band c1", "band c2", "band c3"]
    # each begins where the one below it ends: along the floor to the right, along the top back
    assert corners[1][:3] == corners[0][:2:-1] and corners[2][:3] == corners[1][:2:-1]
    per_second = (corners[0][0] - corners[0][-1]) / 3
    assert corners[1][0] - corners[1][-1] == pytest.approx(per_second, abs=0.2)
    assert corners[0][1] == corners[0][-2]  # nothing was sampled in the second step
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in spent))
    assert '<rect class="band c2" width="26" height="8"/>' in report_run(tmp_path).read_text()


def test_every_part_of_a_step_has_a_look_of_its_own():
    every = {f"time/{part}": 1.0 for part in (*PARTS, "rest")}
    (curve,) = training_curves([{"step": step, **every} for step in (1, 2)])
    assert len({curve.band(index) for index in range(len(curve.lines))}) == len(curve.lines) == len(PARTS) + 1


def test_optimizer_steps_are_whole_numbers():
    (curve,) = training_curves([{"step": step, "val/error": 1.0 * step} for step in (1, 2)])
    assert curve.title == "Error of the critic"
    assert re.findall(r'text-anchor="middle">([\d.]+)<', chart(curve)) == ["1", "2"]


def test_readings_of_the_meter_share_a_chart():
    reading = {"looking/margin": 9.0, "looking/blank": 5.0, "looking/other": 4.0, "looking/other/low": 3.0}
    (curve,) = training_curves(
        [{"step": step, **reading, "looking/margin": 9.0 * step, "looking/other/high": 5.0 * step} for step in (1, 2)]
    )
    assert [(line.name, line.y) for line in curve.lines] == [
        ("margin", [9.0, 18.0]),
        ("another picture", [4.0, 4.0]),
        ("a white one", [5.0, 5.0]),
    ]


def test_what_is_not_finite_is_told_and_not_left_out_in_silence(tmp_path):
    lines = [{"step": n, "loss": 1 / n if n < 3 else math.nan, "reward": None if n == 1 else n} for n in (1, 2, 3, 4)]
    assert not_finite(lines) == "Not a finite number: Loss in 2 of 4 records, first at step 3."
    assert not_finite(lines[:2]) == "" and [line.y for line in training_curves(lines)[1].lines] == [[2, 3, 4]]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Loss in 2 of 4 records, first at step 3" in report_run(tmp_path).read_text()


def test_gallery_names_the_place_of_each_answer(pictures):
    (item,) = gallery_of([group(1, pictures[0])])
    assert item.question == "Q1?" and item.images == [pictures[0]]
    assert [(a.title, a.text, a.note) for a in item.answers] == [
        ("chosen", "good", "reward 0.75"),
        ("rejected", "bad", "reward -1"),
        ("answer 3", "spare", ""),
    ]


def test_answers_that_are_alike_stand_once(pictures):
    one = group(1, pictures[0])
    many = replace(one, responses=(*one.responses, *one.responses[:1], Response(text="spare"), Response(text="other")))
    (item,) = gallery_of([replace(many, edges=(*many.edges, Edge(winner=3, loser=1)))])
    assert [(a.title, a.text) for a in item.answers] == [
        ("chosen, 2 times", "good"),
        ("rejected", "bad"),
        ("answers 3, 5", "spare"),
        ("answer 6", "other"),
    ]


def test_report_of_a_run_directory(tmp_path, pictures):
    lines = [json.dumps(record) + "\n" for record in RECORDS]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    (tmp_path / "recipe.yaml").write_text("name: my_run\n")
    (tmp_path / "bad_rows.jsonl").touch()
    write_groups(tmp_path / "samples.jsonl", [group(number, pictures[0]) for number in range(20)])
    text = report_run(tmp_path).read_text(encoding="utf-8")
    assert "2 optimizer steps. Last logged: loss 0.5, eval/loss 0.6, reward 0.75. From" in text
    assert "name: my_run" in text and "bad_rows.jsonl" not in text
    assert (
        text.index(">Training<")
        < text.index(">Samples at the end<")
        < text.index("Figures with one value throughout (1)")
    )
    start, _, end = text.partition(">Training<")
    assert "Q0?" in start and "Q5?" in start and "Q6?" not in start  # the first six
    assert "Q19?" in end and "Q8?" in end and "Q7?" not in end  # the last twelve
    assert "by stage" not in text and "<dt>steps</dt><dd>2</dd>" in text  # what was not logged has no line


def test_report_of_a_run_that_goes_on_or_was_killed(tmp_path, pictures):
    lines = [json.dumps(record) for record in RECORDS]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "lo']))
    write_groups(tmp_path / "samples.jsonl", [group(0, pictures[0]), group(1, pictures[1])])
    samples = (tmp_path / "samples.jsonl").read_text()
    (tmp_path / "samples.jsonl").write_text(samples[:-20])
    page = report_run(tmp_path).read_text()
    assert "Q0?" in page and "Q1?" not in page


def test_the_folder_of_a_loop_names_its_own_page_and_a_run_below(tmp_path):
    run = tmp_path / "round-1/train"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    (tmp_path / "report.html").touch()
    with pytest.raises(CheckpointError, match=r"one below it: .*round-1/train\. The page of this folder itself"):
        report_run(tmp_path)


def test_folder_that_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"found no metrics\.jsonl"):
        report_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="found no logged step"):
        report_run(tmp_path)
