"""A tiny LLaVA answers a slice of every benchmark in one command, with a judge that answers."""

import json
import shutil
import signal

import pytest
from fake_judge import FakeJudge, body
from slices import Slices

from sightline.evaluation.aggregate import HRI_FIGURES
from sightline.evaluation.answers import read_responses, read_stored
from sightline.evaluation.benches import MODULES, load_bench
from sightline.evaluation.results import read_measured

REPLIES = {
    "llava_bench": ("[Assistant 2]", "8 4\nBecause."),
    "object_halbench": ("JSON list of strings", '["dog", "cat"]'),
    "hallusionbench": ("as a teacher would", "Correct."),
    "reefknot": ("Premise:", "entailment"),
    "mm_instruct": ("a single letter", "A"),
    "mmhal": ("", "Fine.\nRating: 5"),
}
"""What the judge says to the rubric that holds these words; mmhal's is the one that is left."""


def judge(number, asked):
    """Knows the rubrics by their words."""
    text = json.dumps(asked["messages"])
    return 200, {}, body(next(reply for words, reply in REPLIES.values() if words in text)), 0


def test_every_benchmark_from_pictures_to_figures_and_back_from_its_own_format(run, tiny, tmp_path, monkeypatch):
    data, out = tmp_path / "data", tmp_path / "out"
    names = Slices(data).everything()
    assert set(names) == set(MODULES)
    monkeypatch.setenv("MODEL_VERSION", "fake")
    command = ["eval", *names, "--model", tiny["llava"], "--data", data, "-o", out, "--max-tokens", 4]
    with FakeJudge(judge) as fake:
        code, _, err = run(*command, "--judge", fake.url)
        assert code == 0, err
        asked = len(fake.requests)
        assert run(*command, "--judge", fake.url)[0] == 0
        assert len(fake.requests) == asked == 24, "replies come from the cache"

    table = json.loads((out / "results.json").read_text())["results"]
    assert len(table) == len(names)
    page = (out / "report.html").read_text()
    for name in names:
        measured = read_measured(out / name)
        stored = read_stored(out / name / "answers.jsonl")
        assert len(measured.result.graded) == len(stored) > 0
        assert measured.result.metrics and measured.result.failures == 0
        assert f'id="{name}-' in page

        bench = load_bench(name)
        path = tmp_path / "export" / (name + {"mme": "", "pope": "", "mmstar": ".xlsx"}.get(name, ".jsonl"))
        path.parent.mkdir(exist_ok=True)
        bench.export(data / name, [one.answer for one in stored], path)
        again = {answer.id: answer.text for answer in read_responses(bench, path)}
        assert len(again) == len(stored)
    assert table["llava_bench_official"]["score,none"] == table["llava_bench_coco_official"]["score,none"] == 50
    assert table["mmhal_official"]["average_score,none"] == 5
    assert table["hallusionbench_official"]["question_acc,none"] == 100
    assert table["reefknot_ovip"]["perception_vqa,none"] == 3 / 3.0001
    assert table["mm_instruct_official"]["ties,none"] == 3, "the judge says A in both orders"
    judged = read_measured(out / "mmhal").facts["judge"]
    assert (judged["name"], judged["requests"], judged["failed"]) == ("fake", 3, 0)

    code, printed, err = run("eval", "aggregate", out, "--json", tmp_path / "rows.json")
    document = json.loads((tmp_path / "rows.json").read_text())
    row = document["rows"][str(out)]
    assert code == 0 and "general" in printed and "HRI is scaled" in err and "mmhal_score 1.9 to 2.52" in err
    assert (document["reference"]["base"]["object_f1"], document["reference"]["reference"]["object_f1"]) == (72.4, 73.5)
    assert (row["mmhal_score"], row["llava_bench"], row["object_f1"]) == (5, 50, 0)
    assert row["hri"] < 0, "far below LLaVA-1.5 in objects"
    own = {"name": "mine", "base": dict.fromkeys(HRI_FIGURES, 0), "reference": dict.fromkeys(HRI_FIGURES, 100)}
    (tmp_path / "own.json").write_text(json.dumps(own))
    _, _, err = run("eval", "aggregate", out, "--reference", tmp_path / "own.json", "--json", tmp_path / "rows.json")
    mine = json.loads((tmp_path / "rows.json").read_text())
    assert "mine (mmhal_score 0 to 100" in " ".join(err.split()) and mine["reference"] == own
    assert mine["rows"][str(out)]["hri"] == pytest.approx(2 * sum(row[name] for name in HRI_FIGURES) / 100)

    replayed = tmp_path / "replayed.json"
    grade = ["eval", "grade", "mmhal", "--data", data, "--responses", out / "mmhal" / "answers.jsonl"]
    record = out / "mmhal" / "judge.jsonl"
    assert run(*grade, "--judge", f"replay:{record}", "--json", replayed)[0] == 0
    assert json.loads(replayed.read_text())["results"]["mmhal_official"] == table["mmhal_official"]


def test_objects_of_a_judge(run, tmp_path):
    """Answers of more words than a model of random weights writes: below four, no judge is asked."""
    Slices(tmp_path).object_halbench()
    answers = ("A dog and a cat sit there.", "There is a dog here.", "Nothing at all.")
    lines = (json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(answers))
    (tmp_path / "answers.jsonl").write_text("".join(lines))
    command = ["eval", "grade", "object_halbench", "--data", tmp_path, "--responses", tmp_path / "answers.jsonl"]
    with FakeJudge(judge) as fake:
        command += ["--judge", fake.url, "--judge-option", "model=fake"]
        for protocol in ("official", "ovip"):
            assert run(*command, "--protocol", protocol, "--json", tmp_path / f"{protocol}.json")[0] == 0
        assert len(fake.requests) == 4, "the last answer is too short, and temperatures of protocols differ"
    metrics = read_measured(tmp_path / "ovip.json").result.metrics
    assert (metrics["object_hall"], metrics["response_hall"]) == (50, 100)
    assert metrics["object_recall"] == pytest.approx(200 / 3)
    assert metrics["f1"] == pytest.approx(2 * 50 * 66.67 / (50 + 66.67)), "of the printed figures"


def test_a_judge_that_is_away_gives_no_figures(run, tmp_path):
    slices = Slices(tmp_path / "data")
    slices.mmhal()
    slices.mm_instruct()
    with FakeJudge(lambda *_: (503, {}, {"error": "busy"}, 0)) as fake:
        options = ["--judge", fake.url, "--judge-option", "model=x", "--judge-option", "tries=1"]
        for name, ids in (("mmhal", ["m0", "m1", "m2"]), ("mm_instruct", ["0", "1", "2"])):
            answers, figures = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.json"
            answers.write_text("".join(json.dumps({"id": id, "text": "It is red."}) + "\n" for id in ids))
            command = ["eval", "grade", name, "--data", slices.root, "--responses", answers, "--json", figures]
            code, out, err = run(*command, *options)
            assert code == 2 and f"{name}: none of 3 answers could be graded" in err and "Check the judge" in err
            assert not out and not figures.exists()


@pytest.fixture
def interruptible():
    """A shell's background process begins with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_judge_goes_on_where_it_was(run, tmp_path):
    Slices(tmp_path / "data").mmhal()
    answers = tmp_path / "a.jsonl"
    answers.write_text("".join(json.dumps({"id": f"m{n}", "text": f"It is {n}."}) + "\n" for n in range(3)))
    command = ["eval", "grade", "mmhal", "--data", tmp_path / "data", "--responses", answers, "--judge"]
    options = ["--judge-option", "model=x", "--judge-option", "workers=1"]

    def script(number, asked):
        if len(fake.requests) == 2:
            signal.raise_signal(signal.SIGINT)
        return 200, {}, body("Rating: 4"), 0.1

    with FakeJudge(script) as fake:
        code, _, err = run(*command, fake.url, *options)
        assert code == 130 and "Stopped. The replies so far are in" in err and len(fake.requests) == 2
        code, _, err = run(*command, fake.url, *options)
        assert code == 0 and len(fake.requests) == 3 and "3 requests, 2 from the cache" in err


def test_a_judge_that_makes_no_sense_gives_no_figures(run, tmp_path):
    """Official scripts would print 100 (-1 over -1) and 0."""
    slices = Slices(tmp_path / "data")
    slices.llava_bench()
    slices.mmhal()
    with FakeJudge(lambda *_: (200, {}, body("As a language model I cannot say."), 0)) as fake:
        for name, ids in (("llava_bench", ["0", "1", "2"]), ("mmhal", ["m0", "m1", "m2"])):
            answers = tmp_path / f"{name}.jsonl"
            answers.write_text("".join(json.dumps({"id": id, "text": "It is red."}) + "\n" for id in ids))
            command = ["eval", "grade", name, "--data", slices.root, "--responses", answers, "--judge", fake.url]
            code, out, err = run(*command, "--judge-option", "model=x", "--json", tmp_path / f"{name}.json")
            assert code == 2 and not out and f"{name}: none of 3 answers could be graded" in err
            assert not (tmp_path / f"{name}.json").exists()


def test_one_benchmark_that_cannot_be_graded_keeps_the_others(run, tiny, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    slices = Slices(data)
    slices.mmhal()
    slices.pope()
    command = ["eval", "mmhal", "pope", "--model", tiny["llava"], "--data", data, "-o", out, "--max-tokens", 2]
    code, _, err = run(*command)
    assert code == 2 and "mmhal: its answers are graded by a judge, and none was given" in err
    assert not out.exists(), "said before anything is answered"
    (tmp_path / "judge.jsonl").write_text('{"id": "other", "text": "Rating: 4"}\n')
    code, _, err = run(*command, "--judge", f"replay:{tmp_path / 'judge.jsonl'}")
    assert code == 2 and "mmhal: none of 3 answers could be graded" in err
    assert "1 of 2 benchmarks could not be graded" in err
    assert len(read_stored(out / "mmhal" / "answers.jsonl")) == 3 and (out / "pope" / "results.json").exists()


def test_two_runs_of_several_benchmarks_are_compared_and_say_how_they_asked(run, tiny, tmp_path):
    data, base, other = tmp_path / "data", tmp_path / "base", tmp_path / "other"
    slices = Slices(data)
    for make in (slices.amber, slices.pope, slices.realworldqa):
        make()
    ask = ["--model", tiny["llava"], "--data", data, "--max-tokens", 2, "-o"]
    code, _, err = run("eval", "amber", "pope", "realworldqa", *ask, base, "--protocol", "pope=vlmevalkit")
    assert code == 0 and "pope: asked in its default wording. vlmevalkit has its own: --prompts pope=vlmevalkit" in err
    words = ["--prompts", "amber=vlmevalkit", "--protocol", "pope=vlmevalkit"]
    _, _, err = run("eval", "amber", *ask, other, "--against", tmp_path / "bsae")
    assert "holds no results of amber. Give --against the --out of an earlier run" in err and not other.exists()
    _, _, err = run("eval", "amber", "mme", *ask, other, "--against", base)
    assert f"{base} holds no results of mme: these will stand alone" in err.replace("\n", "")
    code, _, err = run("eval", "amber", "pope", *ask, other, *words)
    assert code == 0 and "Wording of the questions: vlmevalkit" in err
    assert read_measured(other / "amber").facts["prompts"] == "vlmevalkit"
    assert read_measured(other / "pope").facts["prompts"] == "default"

    code, out, err = run("eval", "diff", base, other, "--json", tmp_path / "d.json", "--page", tmp_path / "d.html")
    assert code == 0 and "amber (official): A against B" in out and "pope (vlmevalkit): A against B" in out
    assert "Not compared, because not every run has it: realworldqa" in err
    assert err.count("The questions were worded differently: default, vlmevalkit") == 1
    found = json.loads((tmp_path / "d.json").read_text())["benchmarks"]
    assert [one["bench"] for one in found] == ["amber", "pope"]
    page = (tmp_path / "d.html").read_text()
    assert 'id="amber-' in page and 'id="pope-' in page
    _, _, err = run("eval", "diff", base / "realworldqa", other)
    assert "the runs have no benchmark in common (realworldqa, amber, pope)" in err

    _, _, err = run("eval", "aggregate", base, "--json", tmp_path / "rows.json")
    assert f"{base}: amber official, pope vlmevalkit, realworldqa ovip." in err.replace("\n", " ").replace("  ", " ")
    assert json.loads((tmp_path / "rows.json").read_text())["protocols"][str(base)]["pope"] == "vlmevalkit"


def test_a_part_is_asked_and_graded_and_the_rest_can_follow(run, tiny, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    slices = Slices(data)
    slices.amber()
    slices.pope()
    shutil.copy(data / "pope" / "coco_pope_random.json", data / "pope" / "coco_pope_popular.json")
    command = ["eval", "amber", "--model", tiny["llava"], "--data", data, "-o", out, "--max-tokens", 2]
    stored = out / "amber" / "answers.jsonl"
    code, text, err = run(*command, "--protocol", "lmms-eval")
    assert code == 0 and "amber (lmms-eval), 3 answers" in text, err
    assert [one.answer.id for one in read_stored(stored)] == ["1", "2", "3"]
    code, text, err = run(*command, "--only", "amber=generative,relation")
    assert code == 0 and "amber (official), 6 answers" in text and len(read_stored(stored)) == 6
    assert "answered: generative, relation" in err
    code, text, _ = run(*command)
    assert code == 0 and "amber (official), 12 answers" in text
    for protocol, count in (("lmms-eval", 3), ("vlmevalkit", 9)):
        grade = ["eval", "grade", "amber", "--data", data, "--responses", stored, "--protocol", protocol]
        code, text, err = run(*grade)
        assert code == 0 and f"amber ({protocol}), {count} answers" in text, "answers to the other part do no harm"
    other = [*command[:-3], out / "other", "--max-tokens", 2, "--against", out]
    code, _, err = run(*other, "--only", "generative")
    assert code == 0 and "amber stands alone, not beside" in err and "the two sides grade different questions" in err
    assert "difference" not in (out / "other" / "report.html").read_text()
    code, _, err = run(*command, "--only", "genrative")
    assert code == 2 and "amber: there is no category 'genrative'. It has generative, existence, attribute, rel" in err
    command[1] = "pope"
    code, text, err = run(*command, "--only", "coco_pope_popular", "--option", "files=coco_pope_popular")
    assert code == 0 and "pope (official), 6 answers" in text and "files: coco_pope_popular" in err


def test_missing_pictures_are_named_before_the_model_is_loaded(run, tmp_path):
    data = tmp_path / "data"
    Slices(data).pope()
    next((data / "pope" / "val2014").iterdir()).unlink()
    code, _, err = run("eval", "pope", "--model", "nowhere", "--data", data, "-o", tmp_path / "o")
    assert code == 2 and "1 of 3 pictures are missing" in err and "Needed: the question files" in err


def test_real_pictures_of_scienceqa(run, tiny, shared_data, tmp_path):
    source = shared_data / "vision_llm_alignment"
    rows = json.loads((source / "sci_qa_60.json").read_text())[:6]
    (tmp_path / "sci_qa_test.json").write_text(json.dumps(rows))
    (tmp_path / "sci_qa_images").symlink_to((source / "sci_qa_images").resolve())
    out = tmp_path / "out"
    command = ["eval", "scienceqa", "--model", tiny["llava"], "--data", tmp_path, "-o", out, "--max-tokens", 2]
    assert run(*command)[0] == 0
    answers, exported = out / "scienceqa" / "answers.jsonl", tmp_path / "answers_llava.jsonl"
    own = ["--data", tmp_path, "--responses"]
    assert run("eval", "export", "scienceqa", *own, answers, "-o", exported)[0] == 0
    assert run("eval", "grade", "scienceqa", *own, exported, "--json", tmp_path / "again.json")[0] == 0
    first, again = read_measured(out / "scienceqa").result, read_measured(tmp_path / "again.json").result
    assert [row.id for row in again.graded] == [str(row["id"]) for row in rows]
    assert again.metrics == first.metrics and again.protocol == "official"


def test_real_questions_of_llava_bench_coco(run, tiny, shared_data, tmp_path, monkeypatch):
    """The first pictures' questions, captions, boxes and wording are real, the pictures are drawn."""
    source, data, out = shared_data / "llava_bench_coco", tmp_path / "llava_bench_coco", tmp_path / "out"
    rows = [json.loads(line) for line in (source / "qa90_questions.jsonl").read_text().splitlines()][:9]
    slices = Slices(tmp_path)
    slices.place(*(f"llava_bench_coco/val2014/COCO_val2014_{name}" for name in dict.fromkeys(r["image"] for r in rows)))
    (data / "qa90_questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data / "qa90_gpt4_answer.jsonl").write_text((source / "qa90_gpt4_answer.jsonl").read_text())
    settings = {
        "context": shared_data / "chair/caps_boxes_coco2014_val_80.jsonl",
        "rule": shared_data / "llava_bench_wild/rule.json",
    }
    options = [part for name, path in settings.items() for part in ("--option", f"llava_bench_coco.{name}={path}")]
    monkeypatch.setenv("MODEL_VERSION", "fake")
    command = ["eval", "llava_bench_coco", "--model", tiny["llava"], "--data", tmp_path, "-o", out, "--max-tokens", 3]
    with FakeJudge(lambda number, asked: (200, {}, body("9 3\nBecause."), 0)) as fake:
        code, shown, err = run(*command, *options, "--judge", fake.url)
    assert code == 0, err
    assert "llava_bench_coco (official), 9 answers" in shown
    measured = read_measured(out / "llava_bench_coco")
    assert measured.result.metrics_printed["score"] == "33.3" and measured.result.failures == 0
    assert set(measured.result.by_category) == {"conv", "detail", "complex"}
    messages = [request["messages"][1]["content"] for request in fake.requests]
    first = next(text for text in messages if "What is the color of the two suitcases in the image?" in text)
    assert "suitcase: [" in first and "[End of Assistant 2]" in first
    assert [answer.answer.id for answer in read_stored(out / "llava_bench_coco/answers.jsonl")] == [
        str(row["question_id"]) for row in rows
    ]
