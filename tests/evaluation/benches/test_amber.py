"""AMBER: closed forms on a small world, golden values on the real questions."""

import json
import random
import sys
import time
import types
from pathlib import Path

import pytest

from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.amber import BENCH
from sightline.evaluation.formulas import evaluate

DATA = Path(__file__).parents[3] / "../shared/data"
RELATION = {
    "woman": ["person", "lady"],
    "person": [],
    "sky": ["cloud"],
    "dog": ["puppy"],
    "car": ["truck"],
    "tree": ["forest"],
    "orange": [],
    "can": [],
}
ANNOTATIONS = [
    {"id": 1, "type": "generative", "truth": ["woman", "person", "sky", "sky"], "hallu": ["dog", "car"]},
    {"id": 2, "type": "generative", "truth": ["tree"], "hallu": ["car"]},
    {"id": 3, "type": "discriminative-hallucination", "truth": "no"},
    {"id": 4, "type": "discriminative-attribute-state", "truth": "yes"},
    {"id": 5, "type": "discriminative-attribute-number", "truth": "no"},
    {"id": 6, "type": "discriminative-attribute-action", "truth": "yes"},
    {"id": 7, "type": "discriminative-relation", "truth": "yes"},
    {"id": 8, "type": "relation", "truth": "no"},
]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "query").mkdir()
    (tmp_path / "annotations.json").write_text(json.dumps(ANNOTATIONS))
    (tmp_path / "relation.json").write_text(json.dumps(RELATION))
    (tmp_path / "safe_words.txt").write_text("orange\nline")
    queries = [
        {
            "id": row["id"],
            "image": f"AMBER_{1 + row['id'] % 2}.jpg",
            "query": "Describe this image." if row["id"] < 3 else "Is it?",
        }
        for row in ANNOTATIONS
    ]
    (tmp_path / "query/query_all.json").write_text(json.dumps(queries))
    return tmp_path


def described(data, first, second="A tree.", protocol="official", **options):
    answers = [Answer(id="1", text=first), Answer(id="2", text=second)]
    return BENCH.grade(data, answers, protocol, options, None)


def said(*texts):
    return [Answer(id=str(id), text=text) for id, text in enumerate(texts, start=3)]


def counts(result, id="1"):
    return next(row.counts for row in result.graded if row.id == id)


def test_every_noun_is_sorted_as_the_script_sorts_it(data):
    result = described(data, "A person in the sky, a puppy, a truck, two trucks and an orange. No Dog.")
    assert counts(result) == {
        "descriptions": 1,
        "nouns": 6,  # person sky puppy truck truck orange: repetitions and safe words count, "Dog" is not found
        "hallucinated": 3,
        "objects": 4,
        "covered": 2,  # woman (by its association person) and the first sky
        "targets": 2,
        "lured": 2,
        "clean": 0,
    }
    metrics = result.metrics
    assert metrics["chair"] == pytest.approx(100 * 3 / 7.001)
    assert metrics["cover"] == pytest.approx(100 * 3 / 5.001)
    assert metrics["hal"] == pytest.approx(100 - 100 / 2.001)
    assert metrics["cog"] == pytest.approx(100 * 2 / 3.001)
    assert result.metrics_printed == {"chair": "42.9", "cover": "60.0", "hal": "50.0", "cog": "66.6"}


def test_an_association_marks_its_owner_and_comes_first(data):
    missed = {row.id: row.details["missed"] for row in described(data, "A person.").graded}
    assert missed["1"] == ["person", "sky", "sky"], "woman lists person, so the annotated person stays uncovered"


def test_two_equal_truths_can_only_be_covered_once(data):
    assert counts(described(data, "sky sky cloud"))["covered"] == 1


def test_hallucinated_words_are_marked_in_the_answer(data):
    text = "Two dogs, a woman and a car"
    details = described(data, text).graded[0].details
    assert [text[start:end] for start, end in details["wrong"]] == ["dogs", "car"]
    assert details["hallucinated"] == ["dog", "car"] and details["error"] == 2


def test_a_clean_answer_is_not_quite_free_of_hallucination(data):
    result = described(data, "Nothing of the list.", "")
    assert result.metrics["hal"] == pytest.approx(100 - 200 / 2.001)
    assert result.metrics["chair"] == 0


def test_a_single_clean_response_prints_hal_one_tenth(data, tmp_path):
    (tmp_path / "annotations.json").write_text(json.dumps(ANNOTATIONS[:1]))
    (tmp_path / "query/query_all.json").write_text(json.dumps([{"id": 1, "image": "a.jpg", "query": "Describe"}]))
    result = BENCH.grade(tmp_path, [Answer(id="1", text="A woman.")], "official", {}, None)
    assert result.metrics_printed["hal"] == "0.1"


def test_the_modal_verb_can_is_no_object_without_a_tagger(data):
    assert counts(described(data, "You can see a can."))["nouns"] == 0


def table(data, *pairs, above=0.8):
    path = data / "similarity.json"
    path.write_text(
        json.dumps({"model": "m", "version": "1", "above": above, "pairs": [[*pair, 0.9] for pair in pairs]})
    )
    return str(path)


def test_a_near_synonym_of_the_truth_is_right(data):
    similarity = table(data, ("truck", "lady"))
    one = counts(described(data, "A truck.", similarity=similarity))
    assert one["hallucinated"] == 0 and one["covered"] == 1
    assert one["lured"] == 1, "it also marks the likely hallucination that it equals"


def test_the_near_scan_also_runs_after_an_exact_hit_and_marks_an_earlier_target(data):
    similarity = table(data, ("truck", "puppy"))
    assert counts(described(data, "A truck.", similarity=similarity))["lured"] == 2
    assert counts(described(data, "A truck."))["lured"] == 1


def test_lmms_adds_the_bias_for_every_answer(data):
    metrics = described(data, "A car and a sky.", protocol="lmms-eval").metrics
    assert metrics["chair"] == pytest.approx(100 / 3.002)
    assert metrics["hal"] == pytest.approx(100 - 100 / 2.002)


def test_lmms_prints_four_decimals(data):
    printed = described(data, "A car and a sky.", protocol="lmms-eval").metrics_printed
    assert printed == {"chair": "33.3111", "cover": "39.9840", "hal": "50.0500", "cog": "33.3111"}


def test_ovip_adds_the_harmonic_mean_of_precision_and_cover(data):
    result = described(data, "A car and a sky.", protocol="ovip")
    metrics = result.metrics
    assert metrics["chair"] == pytest.approx(100 / 3.001) and metrics["cover"] == pytest.approx(200 / 5.001)
    # from the printed 33.3 and 40.0, as its lookup.py takes it
    assert metrics["generative_f1"] == 2 * (100 - 33.3) * 40 / (40 + (100 - 33.3))
    assert result.metrics_printed["generative_f1"] == "50.01"


def test_only_the_exact_words_are_answers(data):
    result = BENCH.grade(data, said("No", "Yes", "No.", "yes", " Yes", "NO"), "official", {}, None)
    assert result.metrics["accuracy"] == pytest.approx(100 * 2 / 6.001)
    assert result.metrics["precision"] == pytest.approx(100 * 1 / 1.001)
    assert result.metrics["recall"] == pytest.approx(100 * 1 / 3.001)
    assert any("4 yes/no answers count as wrong" in note for note in result.notes)


def test_f1_is_made_of_rounded_figures_with_its_own_bias_for_existence(data):
    result = BENCH.grade(data, said("No", "No", "No", "Yes", "Yes", "Yes"), "official", {}, None)
    # 2 of 3 answered No are right, 2 of 3 labels no are found: 66.6 each
    assert result.metrics["f1"] == pytest.approx(100 * 2 * 0.666 * 0.666 / (1.332 + 0.0001))
    existence = result.by_category["existence"]
    assert existence["precision"] == pytest.approx(100 / 1.001)
    assert existence["f1"] == pytest.approx(100 * 2 * 0.999 * 0.999 / (1.998 + 0.001))
    # attribute adds up three counters, each with its own 0.001; relation holds both of its types
    assert result.by_category["attribute"]["accuracy"] == pytest.approx(100 * 2 / 3.003)
    assert result.by_category["relation"]["accuracy"] == pytest.approx(100 * 1 / 2.001)
    assert set(result.by_category) == {"existence", "attribute", "relation", "state", "number", "action"}


def test_a_dimension_alone_is_a_figure_of_its_own(data):
    result = BENCH.grade(data, said("No", "No", "No", "Yes", "Yes", "Yes")[:1], "official", {}, None)
    assert {name: result.metrics[f"existence_{name}"] for name in result.by_category["existence"]} == pytest.approx(
        result.by_category["existence"]
    )
    assert result.metrics_printed["existence_f1"] == str(round(100 * 2 * 0.999 * 0.999 / (1.998 + 0.001), 1))
    for name, formula in result.formulas.items():
        assert evaluate(formula, result.graded) == pytest.approx(result.metrics[name], abs=0.1), name
    assert "existence_f1" not in BENCH.grade(data, said(*["No"] * 6), "official", {}, None).metrics


def test_the_amber_score_takes_the_printed_figures(data):
    answers = [Answer(id="1", text="A car and a sky."), Answer(id="2", text="A tree."), *said(*["No"] * 6)]
    result = BENCH.grade(data, answers, "official", {}, None)
    chair, f1 = float(result.metrics_printed["chair"]), float(result.metrics_printed["f1"])
    assert result.metrics["amber_score"] == (100 - chair + f1) / 2
    assert round((100 - 7.8 + 74.7) / 2, 1) == 83.5, "LLaVA-1.5-7B as published"


def test_vlmevalkit_averages_three_accuracies(data):
    result = BENCH.grade(data, said("No.", "Yes!", "yes", "It is not", "yes", "no, sir"), "vlmevalkit", {}, None)
    assert result.metrics == pytest.approx(
        {"existence": 100, "attribute": 100 / 3, "relation": 100, "avg_acc": 700 / 9}
    )


def test_vlmevalkit_prints_all_digits_so_the_order_of_operations_counts(tmp_path):
    (tmp_path / "query").mkdir()
    rows = [{"id": id, "type": "relation", "truth": "no"} for id in range(1, 8)]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    queries = [{"id": row["id"], "image": "a.jpg", "query": "Is it?"} for row in rows]
    (tmp_path / "query/query_all.json").write_text(json.dumps(queries))
    answers = [Answer(id=str(row["id"]), text="no" if row["id"] <= 2 else "yes") for row in rows]
    result = BENCH.grade(tmp_path, answers, "vlmevalkit", {}, None)
    assert result.metrics_printed["relation"] == str(2 / 7 * 100) != str(100 * 2 / 7)


def test_each_part_must_be_complete_and_an_unanswered_part_is_left_out(data):
    result = described(data, "A sky.")
    assert "accuracy" not in result.metrics and result.notes[0] == "answered: generative"
    with pytest.raises(DataError, match=r"1 of 2 questions have no answer \(2\)"):
        BENCH.grade(data, [Answer(id="1", text="A sky.")], "official", {}, None)
    with pytest.raises(DataError, match=r"1 id stands twice \(1\)"):
        BENCH.grade(data, [Answer(id="1", text="")] * 2, "official", {}, None)
    with pytest.raises(DataError, match="none of it is answered"):
        BENCH.grade(data, said("No"), "lmms-eval", {}, None)
    with pytest.raises(DataError, match="99"):
        BENCH.grade(data, [Answer(id=id, text="") for id in ("1", "2", "99")], "official", {}, None)


def test_the_result_says_what_was_used(data):
    assert "extractor table; similarity none (association lists only)" in described(data, "").notes
    exact = described(data, "", similarity=table(data))
    assert "extractor table; similarity table of m 1, above 0.8" in exact.notes
    with pytest.raises(DataError, match=r"amber: extractor is 'punkt'. Choose table or nltk"):
        described(data, "", extractor="punkt")
    with pytest.raises(DataError, match="threshold is given, and similarity none does not read it"):
        described(data, "", threshold=0.9)
    with pytest.raises(DataError, match="spacy_model is given"):
        described(data, "", similarity=table(data), spacy_model="en_core_web_lg")
    with pytest.raises(DataError, match="unknown options nouns"):
        described(data, "", nouns="x")


def test_the_tagger_of_nltk_tells_the_can_from_the_verb(data, monkeypatch):
    nltk = types.ModuleType("nltk")
    nltk.word_tokenize = str.split
    nltk.pos_tag = lambda tokens: [(token, "MD" if at == 1 else "NN") for at, token in enumerate(tokens)]
    nltk.stem = types.SimpleNamespace(WordNetLemmatizer=lambda: types.SimpleNamespace(lemmatize=lambda word: word))
    monkeypatch.setitem(sys.modules, "nltk", nltk)
    result = described(data, "dogs can see the can", extractor="nltk", similarity=table(data))
    details = result.graded[0].details
    assert details["hallucinated"] == ["can"] and details["wrong"] == [[17, 20]]
    assert not any("offline variant" in note for note in result.notes)


def test_figures_follow_from_the_counts(data):
    answers = [
        Answer(id="1", text="A car, a dog and a sky."),
        Answer(id="2", text="A tree."),
        *said("No", "Yes", "Yes", "No", "No", "No"),
    ]
    result = BENCH.grade(data, answers, "ovip", {}, None)
    assert set(result.formulas) == set(result.metrics)
    for name, formula in result.formulas.items():  # f1 is made of rounded figures
        assert evaluate(formula, result.graded) == pytest.approx(result.metrics[name], abs=0.1), name


def test_answers_survive_the_official_format(data, tmp_path):
    answers = [Answer(id="1", text='A "sky"\n'), Answer(id="2", text="No")]
    BENCH.export(data, answers, tmp_path / "out/responses.json")
    assert json.loads((tmp_path / "out/responses.json").read_text()) == [
        {"id": 1, "response": 'A "sky"\n'},
        {"id": 2, "response": "No"},
    ]
    assert BENCH.read_export(tmp_path / "out/responses.json") == answers


def test_questions_carry_picture_and_the_wording_of_other_protocols(data):
    questions = BENCH.questions(data)
    assert [question.id for question in questions] == [str(id) for id in range(1, 9)]
    assert questions[0].prompt.images == (str(data / "image/AMBER_2.jpg"),)
    assert questions[0].meta["prompts"] == {"lmms-eval": "Describe this image"}
    assert questions[2].meta["prompts"] == {"vlmevalkit": "Is it?\nPlease answer yes or no."}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("annotations.json", lambda rows: rows[0].pop("hallu"), r"annotations\.json:1: has no 'hallu'"),
        ("annotations.json", lambda rows: rows[4].pop("truth"), r"annotations\.json:5: has no 'truth'"),
        ("annotations.json", lambda rows: rows[4].pop("type"), r"annotations\.json:5: has no 'type'"),
        ("annotations.json", lambda rows: rows.pop(), r"annotations\.json: id 8 has no annotation"),
        ("query/query_all.json", lambda rows: rows.pop(), r"annotations\.json: id 8 has no question"),
        ("query/query_all.json", lambda rows: rows[1].pop("image"), r"query_all\.json:2: has no 'image'"),
    ],
)
def test_files_that_lack_something_are_named(data, name, change, message):
    rows = json.loads((data / name).read_text())
    change(rows)
    (data / name).write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        described(data, "A sky.")


# --- the real questions -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def real():
    if not (DATA / "amber/annotations.json").is_file():
        pytest.skip("needs ../shared/data/amber")
    return DATA / "amber"


@pytest.mark.real
@pytest.mark.parametrize(("word", "accuracy", "f1"), [("No", "66.3", "79.7"), ("Yes", "33.7", "0.0")])
def test_constant_answers_score_as_the_script_scores_them(real, word, accuracy, f1):
    answers = [Answer(id=str(id), text=word) for id in range(1005, 15221)]
    result = BENCH.grade(real, answers, "official", {}, None)
    assert (result.metrics_printed["accuracy"], result.metrics_printed["f1"]) == (accuracy, f1)
    existence = result.by_category["existence"]
    assert round(existence["precision"], 1) == (100.0 if word == "No" else 0.0)


@pytest.mark.real
def test_all_answers_are_graded_in_seconds_in_any_order_and_back_from_the_official_format(real, tmp_path):
    questions = BENCH.questions(real)
    assert len(questions) == 15220 and len({question.id for question in questions}) == 15220
    draw = random.Random(0)
    words = sorted(json.loads((real / "relation.json").read_text()))
    answers = [
        Answer(
            id=one.id, text=" ".join(draw.choices(words, k=12)) if int(one.id) <= 1004 else draw.choice(["Yes", "No"])
        )
        for one in questions
    ]
    start = time.process_time()
    first = BENCH.grade(real, answers, "official", {}, None)
    assert time.process_time() - start < 10
    BENCH.export(real, answers, tmp_path / "responses.json")
    shuffled = BENCH.read_export(tmp_path / "responses.json")
    draw.shuffle(shuffled)
    second = BENCH.grade(real, shuffled, "official", {}, None)
    assert second.metrics == first.metrics and second.by_category == first.by_category
    sums = {
        name: sum(row.counts.get(name, 0) for row in first.graded) for name in ("objects", "targets", "descriptions")
    }
    assert sums == {"objects": 5599, "targets": 4924, "descriptions": 1004}
    asked = {
        kind: sum(row.counts.get(f"{kind}_asked", 0) for row in first.graded)
        for kind in ("existence", "state", "number", "action", "relation")
    }
    assert asked == {"existence": 4924, "state": 4764, "number": 2072, "action": 792, "relation": 1664}
