"""Answering: what fails alone, what is said first, limits by protocol, and several commands into one folder."""

import json
from pathlib import Path

import pytest
from slices import Slices
from transformers import GenerationConfig

from sightline.errors import CheckpointError, DataError
from sightline.evaluation.answers import AnswerFile, failed_answers, read_stored
from sightline.evaluation.bench import Question
from sightline.evaluation.benches import load_bench
from sightline.evaluation.formulas import evaluate
from sightline.evaluation.stages import AnswerSpec, GradeSpec, answer_questions, grade_answers, limited
from sightline.types import Group, Prompt, Response


@pytest.fixture
def slices(tmp_path):
    return Slices(tmp_path / "data")


@pytest.fixture
def command(slices, tiny, tmp_path):
    """The beginning of a command line that answers with two tokens."""
    ask = ["--model", tiny["llava"], "--data", slices.root, "--device", "cpu", "-o", tmp_path / "out"]
    return lambda *benches: ["eval", "run", *benches, *ask, "--max-tokens", 2]


class Engine:
    """Refuses batches that hold certain prompts."""

    def __init__(self, *broken):
        self.broken, self.calls = broken, []

    def generate(self, groups, sampling, *, seed, on_progress=None):
        self.calls.append([group.prompts[0].id for group in groups])
        for group in groups:
            if group.prompts[0].id in self.broken:
                raise DataError("the picture is broken", source=group.prompts[0].id)
        return [Group(prompts=group.prompts, responses=(Response(text="a dog", tokens=(1,)),)) for group in groups]


def asked(count):
    prompt = Prompt(id="p", messages=({"role": "user", "content": [{"type": "text", "text": "Q?"}]},))
    return [Question(id=f"q{n}", prompt=prompt) for n in range(count)]


def test_a_question_that_the_model_cannot_take_fails_alone_and_is_asked_again(tmp_path):
    file = AnswerFile(path=tmp_path / "a.jsonl")
    engine = Engine("q1", "q3")
    answers = answer_questions(engine, asked(5), file, AnswerSpec(batch_size=3))
    assert [one.answer.text for one in answers] == ["a dog", "", "a dog", "", "a dog"]
    assert failed_answers(answers) == {"q1": "q1: the picture is broken", "q3": "q3: the picture is broken"}
    assert read_stored(file.path) == answers
    mended = Engine()
    again = answer_questions(mended, asked(5), file, AnswerSpec(batch_size=3))
    assert mended.calls == [["q1", "q3"]] and not failed_answers(again)
    assert [one.answer.text for one in read_stored(file.path)] == ["a dog"] * 5


@pytest.mark.parametrize("name", ["pope", "chair", "mme", "scienceqa", "amber"])
def test_what_was_not_answered_is_in_no_figure(name, slices):
    """An empty description would count as clean, an empty answer as yes."""
    getattr(slices, name)()
    bench, data = load_bench(name), slices.root / name
    questions = bench.questions(data)
    answers = answer_questions(Engine(), questions, AnswerFile(path=slices.root / "a.jsonl"), AnswerSpec())
    texts = [one.answer for one in answers]
    whole = grade_answers(bench, data, texts, GradeSpec())
    failed = {questions[0].id: "the picture is broken"}
    result = grade_answers(bench, data, texts, GradeSpec(unanswered=failed))
    assert [row.id for row in result.graded] == [row.id for row in whole.graded if row.id != questions[0].id]
    assert result.failures == 1 and "1 questions could not be answered (first: " in result.notes[-1]
    for metric, value in result.metrics.items():
        expected = evaluate(result.formulas[metric], result.graded)
        assert value == pytest.approx(expected, nan_ok=True), metric
    every = dict.fromkeys((one.id for one in questions), "the picture is broken")
    with pytest.raises(DataError, match=r"all \d+ questions could not be answered"):
        grade_answers(bench, data, texts, GradeSpec(unanswered=every))


def test_one_broken_picture_and_one_long_prompt_fail_their_questions(run, slices, command, tmp_path):
    slices.pope()
    slices.realworldqa()
    broken = slices.root / "pope/val2014/COCO_val2014_000000000001.jpg"
    broken.write_bytes(broken.read_bytes()[:100])
    file = slices.root / "realworldqa/llava_test_realworldqa.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["text"] = "How many? " * 5000
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = run(*command("pope", "realworldqa"))
    told = " ".join(err.split())
    assert code == 0 and "pope: 2 of 6 questions could not be answered" in told
    assert "realworldqa: 1 of 3 questions could not be answered" in told and "max_position_embeddings" in told
    results = json.loads((tmp_path / "out/pope/results.json").read_text())
    assert results["sightline"]["failures"] == 2 and results["n-samples"]["pope_official"]["effective"] == 4
    stored = tmp_path / "out/pope/answers.jsonl"
    assert len(failed_answers(read_stored(stored))) == 2
    code, _, err = run(
        "eval", "export", "pope", "--data", slices.root, "--responses", stored, "-o", tmp_path / "x.jsonl"
    )
    assert code == 0 and "2 questions could not be answered: their answers are empty there" in err
    graded = tmp_path / "again.json"
    assert run("eval", "grade", "pope", "--data", slices.root, "--responses", stored, "--json", graded)[0] == 0
    assert json.loads(graded.read_text())["results"] == results["results"]


def test_a_benchmark_whose_answers_are_of_other_settings_does_not_stop_the_others(run, slices, command, tmp_path):
    slices.pope()
    slices.realworldqa()
    assert run(*command("pope"))[0] == 0
    settings = tmp_path / "out/pope/answers.jsonl.settings.json"
    settings.write_text(settings.read_text().replace("float32", "bfloat16"))
    code, _, err = run(*command("pope", "realworldqa"))
    assert code == 2 and "was made with other settings" in err and "1 of 2 benchmarks could not be graded" in err
    assert (tmp_path / "out/realworldqa/results.json").exists()


def test_figures_of_overwritten_answers_go_with_them(run, slices, command, tmp_path):
    """They stood in the summary beside figures of the new answers."""
    slices.pope()
    assert run(*command("pope"), "--protocol", "lmms-eval")[0] == 0
    assert run(*command("pope"))[0] == 0
    summary = tmp_path / "out/results.json"
    assert set(json.loads(summary.read_text())["results"]) == {"pope_official", "pope_lmms_eval"}
    assert run(*command("pope"), "--overwrite")[0] == 0
    assert set(json.loads(summary.read_text())["results"]) == {"pope_official"}


@pytest.mark.parametrize("content", ["", "[", "[1]", "null", "[" * 5000])
def test_broken_settings_beside_answers_are_refused(content, tmp_path):
    file = AnswerFile(path=tmp_path / "a.jsonl")
    answer_questions(Engine(), asked(1), file, AnswerSpec())
    (tmp_path / "a.jsonl.settings.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"a\.jsonl\.settings\.json is no .*pass --overwrite"):
        answer_questions(Engine(), asked(1), file, AnswerSpec())


# --- what is said before anything is answered --------------------------------------------------


@pytest.mark.parametrize(
    ("bench", "more", "message"),
    [
        ("mmhal", [], "graded by a judge, and none was given"),
        ("hallusionbench", [], "graded by a judge, and none was given"),
        ("reefknot", [], "Pass a judge, or the option open=relation"),
        ("pope", ["--option", "colour=red"], "unknown options colour"),
        ("mmhal", ["--judge", "replay:JUDGE", "--option", "template=nowhere.txt"], "nowhere.txt: cannot be read"),
        ("mm_instruct", ["--judge", "replay:JUDGE", "--option", "baseline=gpt9"], "there is no baseline 'gpt9'"),
        ("amber", ["--option", "similarity=nowhere.json"], "nowhere.json: cannot be read"),
        ("object_halbench", ["--judge", "replay:JUDGE", "--option", "attempts=many"], "attempts is 'many'"),
        ("pope", ["--option", "poppe.files=x"], "there is no benchmark 'poppe'. Did you mean pope?"),
        ("pope", ["--protocol", "ambre=lmms-eval"], "there is no benchmark 'ambre'. Did you mean amber?"),
        ("pope", ["--only", "poppe=x"], "there is no benchmark 'poppe'"),
    ],
)
def test_missing_judges_and_wrong_options_are_said_first(bench, more, message, run, slices, tmp_path):
    getattr(slices, bench)()
    (tmp_path / "judge.jsonl").write_text('{"id": "x", "text": "x"}\n')
    more = [one.replace("JUDGE", str(tmp_path / "judge.jsonl")) for one in more]
    ask = ["--model", "nowhere", "--data", slices.root, "-o", tmp_path / "out"]
    code, _, err = run("eval", "run", bench, *ask, *more)
    assert code == 2 and message in " ".join(err.split()) and not (tmp_path / "out").exists()


def test_options_of_another_benchmark_that_exists_are_no_error(run, slices, command):
    slices.pope()
    assert run(*command("pope"), "--option", "amber.extractor=table", "--protocol", "amber=ovip")[0] == 0


# --- limits and the model's own settings -------------------------------------------------------


def test_limits_are_those_of_the_protocol(slices):
    slices.everything()

    def limit(name, protocol):
        questions = limited(load_bench(name).questions(slices.root / name), protocol)
        return AnswerSpec().limits(questions)

    assert limit("mmhal", None) == limit("mmhal", "official") == limit("mmhal", "rlaif-v") == 1024
    assert limit("mmhal", "ovip") == limit("object_halbench", "ovip") == 384
    assert limit("object_halbench", None) == 1024 and limit("realworldqa", "lmms-eval") == 16
    assert limit("chair", None) == 512 and limit("chair", "lmms-eval") == 2048
    assert limit("amber", None)["generative"] == 512 and limit("amber", "ovip")["generative"] == 384
    assert limit("amber", "ovip")["existence"] == 10


def test_results_say_what_was_used_and_what_was_not_applied(run, slices, tiny, tmp_path, monkeypatch):
    slices.mmhal()
    model = tmp_path / "model"
    model.mkdir()
    for one in Path(tiny["llava"]).iterdir():
        (model / one.name).symlink_to(one)
    (model / "generation_config.json").unlink(missing_ok=True)
    config = GenerationConfig.from_pretrained(tiny["llava"])
    config.update(repetition_penalty=1.05, temperature=0.1, do_sample=True)
    config.save_pretrained(model)
    (tmp_path / "judge.jsonl").write_text("".join(f'{{"id": "m{n}", "text": "Rating: 4"}}\n' for n in range(3)))
    monkeypatch.setattr("sightline.evaluation.benches.mmhal._MAX_NEW_TOKENS", 3)
    ask = [
        "--model",
        model,
        "--data",
        slices.root,
        "-o",
        tmp_path / "out",
        "--judge",
        f"replay:{tmp_path / 'judge.jsonl'}",
    ]
    code, _, err = run("eval", "run", "mmhal", *ask)
    assert code == 0 and "Not applied of the model's generation_config: " in err and "repetition_penalty 1.05" in err
    facts = json.loads((tmp_path / "out/mmhal/results.json").read_text())["sightline"]["facts"]
    assert facts["max_new_tokens"] == 3 and facts["batch_size"] == 32
    assert facts["generation_config_not_applied"]["repetition_penalty"] == 1.05
    assert facts["generation_config_not_applied"]["temperature"] == 0.1
    monkeypatch.setattr("sightline.evaluation.benches.mmhal._MAX_NEW_TOKENS", 4)
    code, _, err = run("eval", "run", "mmhal", *ask)
    assert code == 2 and "max_new_tokens: 3 there, 4 here" in err, "answers of two limits are not mixed"


# --- several commands, one folder --------------------------------------------------------------


def test_a_second_command_adds_to_the_summary(run, slices, command, tmp_path):
    slices.pope()
    slices.realworldqa()
    assert run(*command("pope"))[0] == 0
    assert run(*command("realworldqa"))[0] == 0
    summary = json.loads((tmp_path / "out/results.json").read_text())
    assert set(summary["results"]) == {"pope_official", "realworldqa_ovip"}
    page = (tmp_path / "out/report.html").read_text()
    assert "pope" in page and "realworldqa" in page


def test_another_protocol_does_not_overwrite_the_first(run, slices, command, tmp_path):
    slices.pope()
    out = tmp_path / "out/pope"
    assert run(*command("pope"))[0] == 0
    first = (out / "results.json").read_text()
    assert run(*command("pope"), "--protocol", "lmms-eval")[0] == 0
    assert (out / "results.json").read_text() == first
    other = json.loads((out / "results.lmms-eval.json").read_text())
    assert other["sightline"]["protocol"] == "lmms-eval" and (out / "results.lmms-eval.graded.jsonl").exists()
    summary = json.loads((tmp_path / "out/results.json").read_text())
    assert set(summary["results"]) == {"pope_official", "pope_lmms_eval"}
    assert run(*command("pope"), "--protocol", "lmms-eval")[0] == 0
    assert sorted(path.name for path in out.glob("results*.json")) == ["results.json", "results.lmms-eval.json"]
    ask = [*command("pope")[:-2], "--max-tokens", 2, "--protocol", "lmms-eval", "--against", tmp_path / "out"]
    ask[ask.index("-o") + 1] = tmp_path / "second"
    code, _, err = run(*ask)
    assert code == 0 and "stands alone" not in err, "beside what was measured under the same protocol"
