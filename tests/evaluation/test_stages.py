"""Answering and grading a benchmark, step by step and from end to end on the command line."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killing import killed
from safetensors.torch import load_file, save_file

from command_line import sightline
from sightline.errors import CheckpointError, DataError
from sightline.evaluation import weights as weights_of_files
from sightline.evaluation.answers import AnswerFile, StoredAnswer, read_responses, read_stored, write_answers
from sightline.evaluation.bench import Answer, Question, match_ids
from sightline.evaluation.benches import MODULES, load_bench
from sightline.evaluation.benches.scenes import BENCH
from sightline.evaluation.run import data_folder, default_out
from sightline.evaluation.stages import (
    AnswerSpec,
    GradeSpec,
    answer_questions,
    grade_answers,
    plan_batches,
    reword,
    wordings,
)
from sightline.evaluation.weights import fingerprint_files
from sightline.types import Group, Prompt, Response


def question(number, image="a.png", **meta):
    parts = [{"type": "image"}] * bool(image) + [{"type": "text", "text": f"question {number}"}]
    messages = ({"role": "user", "content": parts},)
    prompt = Prompt(id="same for all", messages=messages, images=(image,) if image else ())
    return Question(id=f"q{number}", prompt=prompt, meta=meta)


class Engine:
    """Answers with the id of the prompt; dies after some calls where told to."""

    def __init__(self, dies_after=None):
        self.calls, self.dies_after = [], dies_after

    def generate(self, groups, sampling, *, seed, on_progress=None):
        if len(self.calls) == self.dies_after:
            raise KeyboardInterrupt
        self.calls.append(([group.id for group in groups], sampling))
        said = [Response(text=f"about {group.id}", tokens=(5, 6), finish_reason="length") for group in groups]
        return [Group(prompts=group.prompts, responses=(one,)) for group, one in zip(groups, said, strict=True)]


_FEW = {"seed": 0, "scenes": 2, "questions": 1}


def ids(batches):
    return [[one.id for one in batch] for batch in batches]


def test_questions_about_one_picture_stand_in_one_batch():
    asked = [question(n, image=f"{n % 3}.png") for n in range(9)]
    assert ids(plan_batches(asked, AnswerSpec(batch_size=4))) == [
        ["q0", "q3", "q6"],
        ["q1", "q4", "q7"],
        ["q2", "q5", "q8"],
    ]
    assert [len(batch) for batch in plan_batches(asked, AnswerSpec(batch_size=6))] == [6, 3]
    assert [len(batch) for batch in plan_batches(asked[:1] * 5, AnswerSpec(batch_size=2))] == [2, 2, 1]


def test_text_questions_share_batches_and_limits_do_not_mix():
    asked = [question(n, image="") for n in range(3)] + [question(3, max_new_tokens=10), question(4, max_new_tokens=10)]
    assert ids(plan_batches(asked, AnswerSpec(batch_size=4))) == [["q3", "q4"], ["q0", "q1", "q2"]]
    assert [len(batch) for batch in plan_batches(asked, AnswerSpec(batch_size=8, max_new_tokens=7))] == [5]


def test_answers_come_in_the_order_of_the_questions_with_the_benchmarks_limit(tmp_path):
    asked = [question(n, image=f"{n % 2}.png", max_new_tokens=9) for n in range(4)]
    engine, told = Engine(), []
    file = AnswerFile(path=tmp_path / "a.jsonl")
    spec = AnswerSpec(batch_size=2)
    answers = answer_questions(engine, asked, file, spec, on_progress=lambda done, total: told.append((done, total)))
    assert [one.answer for one in answers] == [Answer(id=f"q{n}", text=f"about q{n}") for n in range(4)]
    assert (answers[0].tokens, answers[0].cut) == (2, True)
    assert [(names, how.max_new_tokens, how.temperature) for names, how in engine.calls] == [
        (["q0", "q2"], 9, 0.0),
        (["q1", "q3"], 9, 0.0),
    ]
    assert told == [(2, 4), (4, 4)]


def test_a_stopped_evaluation_answers_only_what_is_left(tmp_path):
    asked = [question(n, image=f"{n}.png") for n in range(5)]
    file = AnswerFile(path=tmp_path / "a.jsonl", settings={"model": "m"})
    with pytest.raises(KeyboardInterrupt):
        answer_questions(Engine(dies_after=2), asked, file, AnswerSpec(batch_size=1))
    with file.path.open("a") as half:
        half.write('{"id": "q2", "te')
    engine = Engine()
    answers = answer_questions(engine, asked, file, AnswerSpec(batch_size=1))
    assert [one.answer.id for one in answers] == [f"q{n}" for n in range(5)]
    assert [names for names, _ in engine.calls] == [["q2"], ["q3"], ["q4"]]
    assert read_stored(file.path) == answers

    other = replace(file, settings={"model": "n"})
    with pytest.raises(CheckpointError, match="model: m there, n here"):
        answer_questions(engine, asked, other, AnswerSpec())
    assert len(answer_questions(engine, asked, other, AnswerSpec(), overwrite=True)) == 5
    with pytest.raises(DataError, match="1 answers are to no question of this benchmark"):
        answer_questions(engine, asked[:4], other, AnswerSpec())
    with pytest.raises(DataError, match="the id 'q0' stands twice"):
        answer_questions(engine, [asked[0], asked[0]], other, AnswerSpec())


def test_decoding_that_changes_no_answer_is_no_setting():
    assert AnswerSpec(batch_size=2, seed=1).settings() == AnswerSpec(batch_size=8, seed=2).settings()
    warm = AnswerSpec(temperature=0.5)
    assert warm.settings() != replace(warm, seed=1).settings()


def test_missing_double_and_unknown_ids_are_named():
    answers = [Answer(id=str(n), text="") for n in range(7)]
    assert match_ids(["2", "0"], [answers[0], answers[2]]) == [answers[2], answers[0]]
    with pytest.raises(DataError, match=r"7 of 14 questions have no answer \(7, 8, 9, 10, 11, \.\.\.\)"):
        match_ids([str(n) for n in range(14)], answers)
    with pytest.raises(DataError, match=r"answers: 1 id stands twice \(3\)\. Keep one"):
        match_ids([str(n) for n in range(7)], [*answers, answers[3]])
    with pytest.raises(DataError, match=r"2 of \d+ ids are not of this benchmark \(5, 6\)"):
        match_ids([str(n) for n in range(5)], answers)
    with pytest.raises(DataError, match=r"1 of 7 questions have no answer \(x\), and 1 of 7 ids are not of this"):
        match_ids([*(str(n) for n in range(6)), "x"], answers)


def test_questions_can_be_worded_as_another_protocol_does():
    asked = [question(0, prompts={"bare": "Q?"}), question(1)]
    first, second = reword(asked, "bare")
    assert first.prompt.messages[-1]["content"] == [{"type": "image"}, {"type": "text", "text": "Q?"}]
    assert second == asked[1]
    assert wordings(asked) == {"bare": 1} and not wordings([first])["bare"]
    with pytest.raises(DataError, match=r"no question has the wording 'x'. Known are bare"):
        reword(asked, "x")


def test_files_of_other_shapes_are_refused_with_their_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": "a"}\n{"id": 2, "answer": "b"}\n')
    with pytest.raises(DataError, match=r"a.jsonl:2: found keys id, answer. Write"):
        read_responses(BENCH, path)
    path.write_text('{"id": 1, "text": 5}\n')
    with pytest.raises(DataError, match=r"a.jsonl:1: the text is 5. Write"):
        read_responses(BENCH, path)
    path.write_text('{"id": 1, "te')
    with pytest.raises(DataError, match=r"a.jsonl.*xpected lines .* or the submission file of scenes"):
        read_responses(BENCH, path)
    with pytest.raises(DataError, match=r"the file does not exist. Correct the path"):
        read_responses(BENCH, tmp_path / "none.jsonl")
    write_answers(path, [Answer(id="x", text="ü\n")])
    assert read_stored(path) == [StoredAnswer(answer=Answer(id="x", text="ü\n"))]


def test_unknown_benchmarks_and_protocols_are_named():
    with pytest.raises(DataError, match=r"there is no benchmark 'ambre'. Did you mean amber\?"):
        load_bench("ambre")
    assert load_bench("sightline.evaluation.benches.scenes:BENCH") is BENCH
    for name, message in (
        ("nowhere.at.all:BENCH", "nowhere.at.all:BENCH: 'nowhere' cannot be imported. Install it, or set PYTHONPATH"),
        ("json:BENCH", "json:BENCH: json defines no BENCH"),
        ("json:JSONEncoder", "json:JSONEncoder: is no benchmark but type. Give it name, protocols"),
        (":BENCH", "the benchmark is ':BENCH'. Write package.module:INSTANCE"),
    ):
        with pytest.raises(DataError, match=message):
            load_bench(name)
    with pytest.raises(DataError, match=r"there is no protocol 'x'. Choose one of official"):
        grade_answers(BENCH, Path(), [Answer(id="a", text="")], GradeSpec(protocol="x"))


# --- the built-in world as a benchmark ---------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of data: 4 scenes, one caption and two questions about each."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    folder.mkdir()
    (folder / "scenes.json").write_text('{"scenes": 4, "questions": 2, "seed": 3}')
    return folder


def truthful(data):
    """Right answers: every thing named, every question answered."""
    answers = []
    for asked in BENCH.questions(data):
        facts = asked.prompt.facts
        things = [f"a {thing['colour']} {thing['shape']}" for thing in facts["scene"]["objects"]]
        answers.append(Answer(id=asked.id, text=" and ".join(things) if facts["kind"] == "caption" else facts["truth"]))
    return answers


def test_scenes_grades_the_truth_as_such_and_an_invention_as_one(world):
    answers = truthful(world)
    result = grade_answers(BENCH, world, answers, GradeSpec())
    figures = {name: result.metrics[name] for name in ("hal", "chair", "cover", "accuracy", "f1")}
    assert figures == {"hal": 0, "chair": 0, "cover": 100, "accuracy": 100, "f1": 100}

    there = {thing["shape"] for thing in BENCH.questions(world)[0].prompt.facts["scene"]["objects"]}
    absent = next(shape for shape in ("star", "heart", "moon", "cross", "ring", "circle") if shape not in there)
    invented = [replace(answers[0], text=f"{answers[0].text} and a red {absent}"), *answers[1:]]
    worse = grade_answers(BENCH, world, invented, GradeSpec())
    assert worse.metrics["hal"] == 25
    mentions = sum(row.counts.get("mentions", 0) for row in worse.graded)
    assert worse.metrics["chair"] == pytest.approx(100 / mentions)
    (start, end) = worse.graded[0].details["wrong"][0]
    assert absent in invented[0].text[start:end] and worse.graded[0].details["error"] == 1
    with pytest.raises(DataError, match="1 of 12 questions have no answer"):
        grade_answers(BENCH, world, answers[1:], GradeSpec())


def test_answers_survive_the_submission_format(world, tmp_path):
    answers = truthful(world)
    BENCH.export(world, answers, tmp_path / "s.json")
    assert read_responses(BENCH, tmp_path / "s.json") == answers


# --- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "grade", "diff", "list", "export", "similarity", "aggregate"])
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run("eval", command, "--help")
    assert code == 0 and f"Example: sightline eval {command}" in " ".join(out.split())


def test_a_look_at_the_first_answers_is_not_graded(run, tiny, world, tmp_path):
    command = ["eval", "run", "scenes", "--model", tiny["llava"], "--data", world, "--max-tokens", 2, "-o", tmp_path]
    code, out, _ = run(*command, "--limit", 2)
    assert code == 0 and "scenes, the first 2 questions answered, not graded" in out
    assert [p.name for p in sorted(tmp_path.rglob("*.json*"))] == ["answers.jsonl", "answers.jsonl.settings.json"]
    first = read_stored(tmp_path / "scenes" / "answers.jsonl")
    assert len(first) == 2 and all(one.answer.text in out for one in first)
    code, out, _ = run(*command)
    assert code == 0 and "scenes (official), 12 answers" in out, "the look is part of the whole"
    assert read_stored(tmp_path / "scenes" / "answers.jsonl")[:2] == first
    code, out, _ = run(*command, "--limit", 3)
    assert code == 0 and "the first 3 questions answered" in out


def test_the_shortest_command_needs_no_folder_and_no_order(run, tiny, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "runs" / "dpo"
    model.parent.mkdir()
    model.symlink_to(tiny["llava"])
    asked = ["--model", model, "--data", world, "--max-tokens", 2, "--limit", 1, "--device", "cpu"]
    code, _, err = run("eval", "scenes", *asked)
    assert code == 0 and "Answers and figures: eval/runs_dpo" in err
    assert len(read_stored(tmp_path / "eval" / "runs_dpo" / "scenes" / "answers.jsonl")) == 1
    assert run("eval", *asked, "scenes", "-o", "other")[0] == 0 and (tmp_path / "other").is_dir()
    code, _, err = run("eval", "scenes", *asked[:-1], "gpu")
    assert code == 2 and "device 'gpu' cannot be used" in err and "Write cpu, cuda or cuda:NUMBER" in err


@pytest.mark.parametrize(
    ("model", "adapter", "folder"),
    [
        ("llava-hf/llava-1.5-7b-hf", None, "eval/llava-hf_llava-1.5-7b-hf"),
        ("m", "/a/runs/x/model", "eval/x_model"),
        ("./m", None, "eval/m"),
    ],
)
def test_runs_without_a_folder_are_named_after_the_adapter_or_the_model(model, adapter, folder):
    assert default_out(model, adapter) == Path(folder)


def test_a_model_that_was_trained_anew_does_not_go_on_where_the_old_one_was(run, tiny, world, tmp_path):
    model, out = tmp_path / "model", tmp_path / "out"
    shutil.copytree(tiny["llava"], model)
    command = ["eval", "scenes", "--model", model, "--data", world, "--max-tokens", 2, "-o", out, "--limit", 1]
    assert run(*command)[0] == 0 and run(*command)[0] == 0
    weights = load_file(model / "model.safetensors")
    name = sorted(weights)[len(weights) // 2]
    save_file({**weights, name: weights[name] + 1e-4}, model / "model.safetensors", metadata={"format": "pt"})
    code, _, err = run(*command)
    assert code == 2 and "was made with other settings (weights: " in err and "pass --overwrite" in err
    assert run(*command, "--overwrite")[0] == 0
    (model / "chat_template.jinja").write_text((model / "chat_template.jinja").read_text() + " ")
    assert "made with other settings (weights: " in run(*command)[2]


def test_the_fingerprint_of_a_small_model_sees_every_number_and_every_file_of_its_tokenizer(tmp_path):
    weights, seen = torch.zeros(3000), set()
    for _ in range(3):
        save_file({"layer": weights}, tmp_path / "model.safetensors")
        seen.add(fingerprint_files(tmp_path))
        weights[-1] += 1
    for name in ("vocab.json", "merges.txt", "tokenizer.model", "tokenizer.json"):
        (tmp_path / name).write_text("a")
        seen.add(fingerprint_files(tmp_path))
    (tmp_path / "vocab.json").write_text("b")  # nobody reads it where tokenizer.json is
    assert fingerprint_files(tmp_path) in seen and len(seen) == 7


def test_the_fingerprint_of_weights_sees_every_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_of_files, "_WHOLE", 0)
    tensors = {f"layer.{n}": torch.zeros(3000) for n in range(20)}
    seen = set()
    for changed in (None, *tensors):
        kept = {name: tensor + (name == changed) for name, tensor in tensors.items()}
        save_file(kept, tmp_path / "model.safetensors")
        seen.add(fingerprint_files(tmp_path))
    assert len(seen) == 21
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(100_000))
    plain = fingerprint_files(tmp_path)
    assert plain not in seen
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(50_000) + b"x" + bytes(49_999))
    assert fingerprint_files(tmp_path) != plain
    assert fingerprint_files("llava-hf/llava-1.5-7b-hf") == "llava-hf/llava-1.5-7b-hf"


def test_answers_written_by_two_commands_at_once_are_refused(tmp_path):
    asked = [question(n, image=f"{n}.png") for n in range(2)]
    file = AnswerFile(path=tmp_path / "a.jsonl", settings={"model": "m"})
    answer_questions(Engine(), asked, file, AnswerSpec())
    file.path.write_text(file.path.read_text() * 2)
    with pytest.raises(DataError, match=r"a.jsonl: 2 answers stand twice \(q0\): two commands wrote at once. Run one"):
        answer_questions(Engine(), asked, file, AnswerSpec())


def test_errors_about_answers_name_their_file(run, world, tmp_path):
    right = _right(world, tmp_path)
    lines = right.read_text().splitlines(keepends=True)
    cases = {
        "short.jsonl": ("".join(lines[1:]), "1 of 12 questions have no answer"),
        "double.jsonl": ("".join([*lines, lines[0]]), "1 id stands twice"),
        "empty.jsonl": ("", "the file is empty. Answer the benchmark first"),
        "other.txt": ("hello", "xpected lines"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_text(content)
        code, _, err = run("eval", "grade", "scenes", "--data", world, "--responses", path)
        assert code == 2 and str(path) in err and message in err and "answers:" not in err
    marked = tmp_path / "marked.txt"
    marked.write_text("\ufeff\n" + right.read_text())
    assert run("eval", "grade", "scenes", "--data", world, "--responses", marked)[0] == 0


@pytest.mark.parametrize("bench", sorted(set(MODULES) - {"chair", "mme", "scenes"}))
def test_a_file_of_unknown_kind_is_not_looked_for_on_the_hub(bench, tmp_path, monkeypatch):
    monkeypatch.setattr("sightline.data.readers.sources._hub_dataset", lambda *_: pytest.fail("asked the hub"))
    path = tmp_path / "answers.out"
    path.write_text("1. A cat.\n")
    with pytest.raises(
        DataError, match=r"answers.out: is named as none of .json, .*xpected lines \{.*or the submission file of"
    ):
        read_responses(load_bench(bench), path)


def test_scenes_are_not_drawn_among_the_data_of_other_benchmarks(tmp_path):
    shared, own, out = tmp_path / "benchmarks", tmp_path / "own", tmp_path / "out" / "data"
    for folder in (shared / "pope", own):
        folder.mkdir(parents=True)
    assert data_folder(BENCH, [str(shared)], out) == out and out.is_dir()
    assert data_folder(BENCH, [], out) == out
    assert data_folder(BENCH, [str(shared), f"scenes={own}"], out) == own
    (own / "scenes.json").write_text("{}")
    assert data_folder(BENCH, [str(own)], out) == own
    (shared / "scenes").mkdir()
    assert data_folder(BENCH, [str(shared)], out) == shared / "scenes"


def test_answers_to_scenes_are_graded_and_exported_where_they_were_asked(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("sightline.evaluation.benches.scenes._settings", lambda data: dict(_FEW))
    out = tmp_path / "out"
    assert run("eval", "scenes", "--model", tiny["llava"], "-o", out, "--max-tokens", 2)[0] == 0
    there = sorted(path.relative_to(out) for path in out.rglob("*.png"))
    assert len(there) == 2 and all(path.parts[:2] == ("scenes", "data") for path in there)
    answers = out / "scenes" / "answers.jsonl"
    assert run("eval", "grade", "scenes", "--responses", answers)[0] == 0
    assert run("eval", "export", "scenes", "--responses", answers, "-o", tmp_path / "s.json")[0] == 0
    assert sorted(path.relative_to(out) for path in out.rglob("*.png")) == there


def test_an_interrupt_says_how_to_go_on(run, tiny, world, tmp_path, monkeypatch):
    def interrupted(engine, questions, file, *_, **__):
        if written:
            file.append([StoredAnswer(answer=Answer(id="a", text="b"))])
        raise KeyboardInterrupt

    monkeypatch.setattr("sightline.evaluation.run.answer_questions", interrupted)
    written = []
    for told in ("No answer was written yet", "The answers so far are in"):
        code, _, err = run("eval", "run", "scenes", "--model", tiny["llava"], "--data", world, "-o", tmp_path / "out")
        assert code == 130 and f"Stopped. {told}" in err
        (tmp_path / "out/scenes").mkdir(parents=True, exist_ok=True)
        written.append(True)
    assert "goes on from there" in " ".join(err.split())


def test_from_a_model_to_figures_a_page_and_a_comparison(run, tiny, world, tmp_path):
    evaluate = ["eval", "run", "scenes", "--model", tiny["llava"], "--data", world.parent, "--max-tokens", 6]
    base, again = tmp_path / "base", tmp_path / "again"
    code, out, err = run(*evaluate, "-o", base, "--batch-size", 5)
    assert code == 0 and "scenes (official), 12 answers" in out and "Length of answers: captions " in err
    assert "difference" not in (base / "report.html").read_text()

    code, _, err = run(*evaluate, "-o", again, "--batch-size", 2, "--against", base)
    assert code == 0
    stored = [read_stored(folder / "scenes" / "answers.jsonl") for folder in (base, again)]
    assert sorted(stored[0], key=lambda s: s.answer.id) == sorted(stored[1], key=lambda s: s.answer.id)
    page = (again / "report.html").read_text()
    assert "After:" in page and "no clear change" in page and "data:image/png;base64" in page

    figures = tmp_path / "figures.json"
    answers = base / "scenes" / "answers.jsonl"
    assert run("eval", "grade", "scenes", "--data", world, "--responses", answers, "--json", figures)[0] == 0
    table = json.loads(figures.read_text())["results"]["scenes_official"]
    assert table == json.loads((base / "results.json").read_text())["results"]["scenes_official"]
    assert table["alias"] == "scenes_official" and "accuracy,none" in table and "accuracy_stderr,none" in table

    grade = ["eval", "grade", "scenes", "--data", world, "--responses", answers, "--json"]
    assert json.loads(run(*grade, "-")[1]) == json.loads(run(*grade)[1]) == json.loads(figures.read_text())

    right = tmp_path / "right.jsonl"
    write_answers(right, truthful(world))
    assert run("eval", "grade", "scenes", "--data", world, "--responses", right, "--json", tmp_path / "r.json")[0] == 0
    code, out, err = run("eval", "diff", base / "scenes", tmp_path / "r.json", "--json", tmp_path / "d.json")
    assert (
        code == 0
        and re.search(r"\+100\.0 +\[\+100\.0, \+100\.0\] +✓", out)  # with the word where the terminal has room
        and "scenes: B is better in cover, accuracy" in err
        and "worse in nothing" in err
    )
    assert json.loads((tmp_path / "d.json").read_text())["metrics"]["cover"]["verdict"] == "better"
    assert "Length of answers of A: captions " in err and "Length of answers of B: captions 1" in err
    assert json.loads(run("eval", "diff", base / "scenes", tmp_path / "r.json", "--json", "-")[1]) == json.loads(
        (tmp_path / "d.json").read_text()
    )


def test_what_is_wrong_is_said_before_the_model_is_loaded(run, world, tmp_path):
    start = ["eval", "run", "scenes", "--model", "nowhere", "-o", tmp_path / "o"]
    assert "the data folder does not exist" in run(*start, "--data", tmp_path / "none")[2]
    assert "there is no protocol 'x'" in run(*start, "--data", world, "--protocol", "x")[2]
    assert "there is no judge 'gpt'" in run(*start, "--judge", "gpt")[2]
    assert "unknown options trys" in run(*start, "--judge", "http://x", "--judge-option", "trys=1")[2]
    assert (
        "the value of --judge-option model cannot be read"
        in run(*start, "--judge", "http://x", "--judge-option", "model=[")[2]
    )
    assert "none.jsonl: cannot be read" in run(*start, "--judge", f"replay:{tmp_path}/none.jsonl")[2]
    code, _, err = run("eval", "scens", "--model", "m", "-o", tmp_path)
    assert code == 2 and "Did you mean scenes?" in err
    assert (
        "--judge-option is given without --judge"
        in run(
            "eval",
            "grade",
            "scenes",
            "--data",
            world,
            "--responses",
            _right(world, tmp_path),
            "--judge-option",
            "tries=1",
        )[2]
    )
    assert "found 1 results. Give A and B" in run("eval", "diff", tmp_path)[2]
    assert "results.json: the file does not exist. Give a results file" in run("eval", "diff", tmp_path, tmp_path)[2]


def _right(world, folder):
    path = folder / "right.jsonl"
    write_answers(path, truthful(world))
    return path


def test_grading_needs_no_torch(world, tmp_path):
    code = (
        "import sys; sys.argv = sys.argv[:1] + ['eval', 'grade', 'scenes', '--data', sys.argv[1], '--responses', "
        "sys.argv[2]]\nfrom sightline import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as stopped:\n    assert not stopped.code\n"
        "assert not {'torch', 'transformers', 'datasets', 'jinja2'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(world), str(_right(world, tmp_path))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.processes
def test_a_killed_evaluation_goes_on_where_it_was(run, tiny, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "scenes.json").write_text('{"scenes": 12, "questions": 0}')
    command = ["eval", "run", "scenes", "--model", str(tiny["llava"]), "--data", str(data), "--batch-size", "1"]
    command += ["--max-tokens", "24", "-o"]
    path = tmp_path / "cut" / "scenes" / "answers.jsonl"
    assert not killed(lambda: sightline(*command, tmp_path / "cut"), path, at=12)
    before = path.read_text()
    assert 0 < before.count("\n") < 12
    path.write_text(before + before.splitlines()[0][:-9])  # in the middle of a line
    assert run(*command, tmp_path / "cut")[0] == 0
    assert path.read_text().startswith(before)
    assert run(*command, tmp_path / "whole")[0] == 0
    assert path.read_text() == (tmp_path / "whole" / "scenes" / "answers.jsonl").read_text()
