"""One convention for every judged benchmark: a judge without a verdict is a failure and never a score."""

import json
from pathlib import Path

import pytest
from slices import Slices

from command_line import sightline
from sightline.errors import DataError
from sightline.evaluation.bench import Answer, JudgeReply
from sightline.evaluation.benches import load_bench
from sightline.evaluation.stages import GradeSpec, grade_answers
from sightline.evaluation.verdicts import conclusion

CASES = Path(__file__).parents[2] / "../shared/cases/evaluation"
VERDICTS = {
    "mmhal": "Rating: 4",
    "object_halbench": '["dog"]',
    "hallusionbench": "Correct.",
    "llava_bench": "8 7\nBecause.",
    "llava_bench_coco": "8 7\nBecause.",
    "reefknot": "entailment",
    "mm_instruct": "A",
    "mmstar": "A",
    "scienceqa": "A",
    "cvbench": "A",
}
PROTOCOLS = dict.fromkeys(("mmstar", "scienceqa", "cvbench"), "vlmevalkit")
"""Of those that ask a judge about answers alone that name no option."""
CUT = JudgeReply(text="<think>\nOkay, let me see what is correct, or 8 7 or Rating: 4", cut=True)
UNREAD = JudgeReply(text="who knows")
SILENT = JudgeReply(text=None, error="HTTP 403: filtered")


class Judge:
    name = "told"

    def __init__(self, reply):
        self.reply, self.requests = reply, []

    def ask(self, requests):
        first = len(self.requests)
        self.requests += requests
        return [self.reply(first + number) for number in range(len(requests))]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("slices")
    Slices(root).everything()
    return root


def grade(name, data, reply):
    bench = load_bench(name)
    protocol = PROTOCOLS.get(name)
    answers = [
        Answer(id=one.id, text="Something that names no option of them")
        for one in bench.questions(data / name)
        if protocol is None or protocol in one.meta.get("protocols", [protocol])
    ]
    judge = Judge(reply)
    return grade_answers(bench, data / name, answers, GradeSpec(protocol=protocol, judge=judge)), judge


@pytest.mark.parametrize("reply", [CUT, UNREAD, SILENT], ids=["cut", "unread", "silent"])
@pytest.mark.parametrize("name", VERDICTS)
def test_without_any_verdict_there_is_no_figure(name, data, reply):
    with pytest.raises(DataError, match=r"none of \d+ answers could be graded.*Check the judge"):
        grade(name, data, lambda number: reply)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_silent_request_is_one_failure_in_no_figure(name, data):
    """Each question's first request is to a judge that is away, of the first question alone."""
    whole, _ = grade(name, data, lambda number: JudgeReply(text=VERDICTS[name]))
    id = None

    class Away(Judge):
        def ask(self, requests):
            nonlocal id
            id = id or requests[0].id
            return [SILENT if one.id == id else JudgeReply(text=VERDICTS[name]) for one in requests]

    judge = Away(None)
    bench, protocol = load_bench(name), PROTOCOLS.get(name)
    answers = [Answer(id=row.id, text="Something that names no option of them") for row in whole.graded]
    if name == "cvbench":
        return  # three questions, each of its own source: without one there is no figure
    result = grade_answers(bench, data / name, answers, GradeSpec(protocol=protocol, judge=judge))
    assert result.failures == 1 and whole.failures == 0
    assert sum(bool(row.counts) for row in result.graded) == len(whole.graded) - 1
    assert any("got no reply and are in no figure" in note for note in result.notes)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_judge_that_thinks_aloud_gives_the_same_figures_and_is_not_cut_by_us(name, data):
    plain, judge = grade(name, data, lambda number: JudgeReply(text=VERDICTS[name]))
    thought = f"<think>\nIncorrect? Rating: 1, neutral, B, 1 9 ...</think>\n\n{VERDICTS[name]}"
    aloud, _ = grade(name, data, lambda number: JudgeReply(text=thought))
    assert aloud.metrics == plain.metrics and aloud.failures == 0
    limits = {request.max_tokens for request in judge.requests}
    assert limits == ({1024} if name.startswith("llava_bench") else {None}), "LLaVA-Bench's script has a limit"


@pytest.mark.parametrize("name", VERDICTS)
def test_replies_that_were_cut_are_counted_and_shown(name, data):
    result, judge = grade(name, data, lambda number: JudgeReply(text=VERDICTS[name], cut=number == 0))
    assert any(f"1 of {len(judge.requests)} replies were cut" in note for note in result.notes) or (
        name == "hallusionbench" and any("replies were cut" in note for note in result.notes)
    )


def test_two_texts_that_say_nothing_are_no_tie(data):
    texts = [*["A", "B"] * 1, *["I cannot judge"] * 4]
    result, _ = grade("mm_instruct", data, lambda number: JudgeReply(text=texts[number]))
    assert (result.metrics["wins"], result.metrics["ties"], result.failures) == (1, 0, 2)


def test_a_comparison_without_a_verdict_is_not_taken_for_different(data):
    def reply(number):
        return JudgeReply(text=["correct", "incorrect", "correct", "hm"][number])

    result, judge = grade("hallusionbench", data, reply)
    assert judge.requests[3].id.endswith("/same")
    assert [row.details.get("fault") for row in result.graded] == [None, "unknown", None]


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("<think>", "</think>"),
        ("<thinking>", "</thinking>"),
        ("<seed:think>", "</seed:think>"),
        ("[THINK]", "[/THINK]"),
        ("◁think▷", "◁/think▷"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_thoughts_of_all_kinds_are_left_out(begin, end):
    assert conclusion(f"{begin}Is it incorrect? No.{end}\ncorrect") == "correct"
    assert conclusion(f"{begin}Is it incorrect?") == "", "cut"
    assert conclusion(f"correct\n{begin}not incorrect{end}") == "correct\n", "said first, explained afterwards"


def test_conclusions():
    assert conclusion("so it is incorrect</think> correct") == "correct", "templates open the thoughts themselves"
    assert conclusion("  <think>incorrect") == "" and conclusion("plain\ntext ") == "plain\ntext "


@pytest.mark.real
def test_a_cut_judge_of_hallusionbench_gives_no_figure(tmp_path):
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases/evaluation")
    rows = []
    for row in (json.loads(line) for line in (CASES / "hallu.jsonl").read_text().splitlines()):
        kind, topic, *numbers = row["id"].split("_")
        names = dict(zip(("set_id", "figure_id", "question_id"), numbers, strict=True))
        figure = "0" if kind == "VS" and names["figure_id"] == "0" else "1"
        told = {"visual_input": figure, "question": "Q?", "gt_answer": "1", "gt_answer_details": "Yes."}
        rows.append({"category": kind, "subcategory": topic, **names, **told})
    (tmp_path / "HallusionBench.json").write_text(json.dumps(rows))
    shared = ["--responses", CASES / "hallu.jsonl", "--data", tmp_path, "--json", tmp_path / "out.json"]
    for protocol, asked in (("lmms-eval", 18), ("official", 24)):
        judge = f"replay:{CASES / 'hallu_cut_judge.jsonl'}"
        done = sightline("eval", "grade", "hallusionbench", "--judge", judge, "--protocol", protocol, *shared)
        assert done.code == 2 and f"none of {asked} answers could be graded" in " ".join(done.err.split())
        assert not (tmp_path / "out.json").exists()
