"""Every benchmark reads submissions in one way: what is wrong is refused with file and row, in every kind of file."""

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from slices import Slices

from command_line import sightline
from sightline.errors import DataError
from sightline.evaluation.answers import read_responses
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches import MODULES, load_bench
from sightline.evaluation.stages import GradeSpec, grade_answers

CASES = Path(__file__).parents[2] / "../shared/cases/evaluation"
TEXT = {
    "amber": "response",
    "pope": "answer",
    "chair": "caption",
    "object_halbench": "answer",
    "scenes": "response",
    "mmhal": "model_answer",
    "hallusionbench": "model_prediction",
    "mmstar": "prediction",
    "mm_instruct": "text",
    "realworldqa": "response",
    "textvqa": "text",
    "cvbench": "response",
    "reefknot": "text",
    "scienceqa": "text",
    "llava_bench": "text",
    "llava_bench_coco": "text",
}
"""Column of the answer; MME has files of its own kind."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("slices")
    Slices(root).everything()
    return root


@pytest.fixture(scope="module")
def submitted(data, tmp_path_factory):
    """By benchmark: the answers, and the rows of their official file."""
    folder, made = tmp_path_factory.mktemp("submitted"), {}
    for name in TEXT:
        bench = load_bench(name)
        answers = [Answer(id=one.id, text=f"answer {n}") for n, one in enumerate(bench.questions(data / name))]
        bench.export(data / name, answers, folder / f"{name}.jsonl")
        text = (folder / f"{name}.jsonl").read_text()
        try:
            rows = json.loads(text)
        except json.JSONDecodeError:
            rows = [json.loads(line) for line in text.splitlines()]
        made[name] = answers, list(rows["imgToEval"].values()) if "imgToEval" in rows else rows
    return made


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(name, path):
    return sorted(read_responses(load_bench(name), path), key=lambda one: one.id)


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "is nan"),
        (float("inf"), "is inf"),
        (None, "is null"),
        (["Yes"], r"is \['Yes'\]"),
        ({"a": 1}, "is {'a': 1}"),
        (True, "is True"),
        (..., "has no '"),
    ],
)
def test_what_is_no_answer_is_refused_with_file_and_row(name, value, message, submitted, tmp_path):
    _, rows = submitted[name]
    wrong = {**rows[1], TEXT[name]: value}
    if value is ...:
        del wrong[TEXT[name]]
    path = tmp_path / "wrong.jsonl"
    path.write_text(lines([rows[0], wrong, *rows[2:]]))
    with pytest.raises(DataError, match=rf"wrong\.jsonl:2: .*{message}") as told:
        read(name, path)
    assert len(str(told.value)) < 1000
    path.write_text(json.dumps([rows[0], wrong, *rows[2:]]))
    with pytest.raises(DataError, match=rf"wrong\.jsonl:2: .*{message}"):
        read(name, path)


@pytest.mark.parametrize("name", TEXT)
def test_an_id_that_stands_twice_is_named_with_both_rows(name, submitted, tmp_path):
    _, rows = submitted[name]
    path = tmp_path / "twice.jsonl"
    path.write_text(lines([*rows, rows[0]]))
    if name == "textvqa":
        rows = [{**row, "prompt": "what?\nAnswer"} for row in rows]
    with pytest.raises(DataError, match=rf"twice\.jsonl:{len(rows) + 1}: the id .* stands in .*twice\.jsonl:1 as well"):
        read(name, path)


@pytest.mark.parametrize("name", [name for name in TEXT if name != "pope"])
def test_rows_in_every_kind_of_file_and_in_shards_are_the_same_answers(name, submitted, tmp_path):
    """An empty cell of a table is an empty answer."""
    answers, rows = submitted[name]
    rows = [{key: value for key, value in row.items() if isinstance(value, str | int)} for row in rows]
    rows[1] = {**rows[1], TEXT[name]: ""}
    expected = sorted([answers[0], Answer(id=answers[1].id, text=""), *answers[2:]], key=lambda one: one.id)
    names = list(dict.fromkeys(key for row in rows for key in row))
    by_order = [one.id for one in answers]
    for kind, sign in ((".tsv", "\t"), (".csv", ",")):
        path = tmp_path / f"a{kind}"
        body = [
            [json.dumps(str(row.get(key, ""))).replace('\\"', '""').replace("\\n", "\n") for key in names]
            for row in rows
        ]
        path.write_text("\n".join(sign.join(cells) for cells in [names, *body]) + "\n")
        assert read(name, path) == expected, kind
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read(name, tmp_path / "a.parquet") == expected
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "part-1.jsonl").write_text(lines(rows[:1]))
    (folder / "part-2.json").write_text(json.dumps(rows[1:]))
    assert read(name, folder) == expected
    assert len(by_order) == len(expected)


def test_a_table_without_the_column_of_answers_is_no_table_of_empty_ones(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("index\tanswer\n0\tA\n")
    with pytest.raises(DataError, match=r"a\.tsv:2: has no 'prediction'\. Found index, answer"):
        read("mmstar", path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"the folder holds no answers \(\.json, "):
        read("amber", tmp_path)


def test_shards_of_questions_are_named_with_their_own_row(tmp_path):
    row = {"index": 0, "question": "Q?\nOptions: A: a, B: b", "answer": "A", "category": "c", "l2_category": "d"}
    for shard, answer in enumerate(("A", "Q")):
        rows = [{**row, "index": 2 * shard + n, "answer": answer if n else "A"} for n in range(2)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"val-{shard}.parquet")
    with pytest.raises(DataError, match=r"val-1\.parquet:2: answer 'Q' is no letter"):
        load_bench("mmstar").questions(tmp_path)


# --- POPE --------------------------------------------------------------------------------------


@pytest.fixture
def pope(tmp_path):
    """Three questions in each of two files; the numbers of both begin with 1."""
    for name in ("random", "popular"):
        rows = [
            {"question_id": n, "image": f"{n}.jpg", "text": f"Is there a {name} {n}?", "label": ("no", "yes")[n % 2]}
            for n in (1, 2, 3)
        ]
        (tmp_path / f"coco_pope_{name}.json").write_text(lines(rows))
    return tmp_path


def graded(pope, path, **options):
    return grade_answers(load_bench("pope"), pope, read("pope", path), GradeSpec(options=options, source=str(path)))


def test_popes_own_answers_are_read_in_the_order_of_their_question_file(pope):
    folder = pope / "answers"
    folder.mkdir()
    for name in ("random", "popular"):
        rows = [{"question": f"Is there a {name} {n}?", "answer": ("no", "yes")[n % 2]} for n in (1, 2, 3)]
        (folder / f"coco_pope_{name}.json").write_text(lines(rows))
    assert graded(pope, folder).metrics["accuracy"] == 1
    one = folder / "coco_pope_random.json"
    assert graded(pope, one, files="coco_pope_random").metrics["accuracy"] == 1
    rows = [json.loads(line) for line in one.read_text().splitlines()]
    one.write_text(lines([rows[1], rows[0], rows[2]]))
    with pytest.raises(
        DataError, match=r"row 1 of coco_pope_random asks 'Is there a random 2\?', and the question file"
    ):
        graded(pope, one, files="coco_pope_random")
    other = pope / "mine.jsonl"
    other.write_text(lines(rows))
    with pytest.raises(DataError, match=r"mine.*no question file is called so\. Name it as .*coco_pope_popular, coco_"):
        graded(pope, other)
    one.write_text(lines([*rows, rows[0]]))
    with pytest.raises(DataError, match="has 3 questions, and more answers"):
        graded(pope, one)


def test_llavas_answers_are_found_through_its_question_file(pope, tmp_path):
    asked, said = [], []
    for number, (name, n) in enumerate([(name, n) for name in ("popular", "random") for n in (1, 2, 3)]):
        text = f"Is there a {name} {n}?\nAnswer the question using a single word or phrase."
        asked.append({"question_id": 100 + number, "image": f"{n}.jpg", "text": text, "category": name})
        said.append({"question_id": 100 + number, "prompt": text, "text": ("No", "Yes")[n % 2], "answer_id": "x"})
    (pope / "merge.jsonl").write_text(lines(random.Random(0).sample(said, 6)))
    with pytest.raises(DataError, match="ids are not of this benchmark"):
        graded(pope, pope / "merge.jsonl")
    (pope / "llava_pope_test.jsonl").write_text(lines(asked))
    assert graded(pope, pope / "merge.jsonl").metrics["accuracy"] == 1
    (pope / "llava_pope_test.jsonl").write_text(lines(asked[::-1]))
    with pytest.raises(DataError, match=r"llava_pope_test\.jsonl:1: row 1 of category random is not the question"):
        graded(pope, pope / "merge.jsonl")
    # one file for each question file, as LLaVA's script is called on
    for name in ("random", "popular"):
        rows = [{"question_id": n, "text": ("No", "Yes")[n % 2]} for n in (1, 2, 3)]
        (tmp_path / "answers").mkdir(exist_ok=True)
        (tmp_path / f"answers/coco_pope_{name}.jsonl").write_text(lines(rows))
    assert graded(pope, tmp_path / "answers").metrics["accuracy"] == 1


# --- the cases of people -----------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize(
    ("bench", "file", "message"),
    [
        ("amber", "a_nan.json", r"a_nan\.json:1: 'response' is nan\. An answer is a text"),
        ("scenes", "s_null.json", r"s_null\.json:1: 'response' is null"),
        ("hallusionbench", "h_list.json", r"h_list\.json:1: 'model_prediction' is \['Yes'\]"),
    ],
)
def test_files_of_people_are_refused_with_their_row(bench, file, message):
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases/evaluation")
    with pytest.raises(DataError, match=message):
        read(bench, CASES / file)


@pytest.mark.real
def test_tables_of_people_are_read():
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases/evaluation")
    sheet = read("mmstar", CASES / "response.xlsx")
    assert sheet and all(one.text for one in sheet), "the column is called response"
    table = {one.id: one.text for one in read("mmstar", CASES / "empty.tsv")}
    assert table["2"] == "" and table["3"] == "C" and len(table) == 12


@pytest.mark.real
def test_a_pope_in_another_language_has_its_figures_and_a_note(tmp_path):
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases/evaluation")
    answers = [json.loads(line) for line in (CASES / "pope_german.jsonl").read_text().splitlines()]
    asked = [json.loads(line)["question"] for line in (CASES / "coco_pope_random.jsonl").read_text().splitlines()]
    rows = [
        {"question_id": int(row["id"].split("/")[1]), "image": "x.jpg", "text": text, "label": ("yes", "no")[n % 2]}
        for n, (row, text) in enumerate(zip(answers, asked, strict=True))
    ]
    (tmp_path / "coco_pope_random.json").write_text(lines(rows))
    done = sightline("eval", "grade", "pope", "--data", tmp_path, "--responses", CASES / "pope_german.jsonl")
    assert done.code == 0 and "no answer holds yes or no" in done.err
    own = sightline("eval", "grade", "pope", "--data", tmp_path, "--responses", CASES / "coco_pope_random.jsonl")
    assert own.code == 0 and "no answer holds yes or no" not in own.err


def test_every_benchmark_has_a_reader():
    assert set(TEXT) | {"mme"} == set(MODULES)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("index\tprediction\n0\tThe\tA\n", ":2: has 3 cells, and the first row 2"),
        ("index\tprediction\n0\tA\n1\n", ":3: has 1 cells"),
        ("index\tprediction\tprediction\n0\tA\tB\n", "two columns are named 'prediction'"),
    ],
)
def test_a_table_whose_cells_have_no_column_of_their_own_is_refused(tmp_path, table, message):
    """An unquoted tab cut answers in silence, and a cut file had empty ones."""
    (tmp_path / "a.tsv").write_text(table)
    with pytest.raises(DataError, match=message):
        read("mmstar", tmp_path / "a.tsv")


@pytest.mark.parametrize("other", ["response", "prediction", "text", "pred"])
def test_true_answers_beside_those_of_the_model_are_not_graded(tmp_path, other):
    """POPE's own column is ``answer``; tools write the true one there, and what was said beside it."""
    row = {"question_id": 1, "question": "Is there a dog?", "answer": "yes", other: "no"}
    (tmp_path / "coco_pope_random.jsonl").write_text(lines([row]))
    with pytest.raises(DataError, match=f"'answer' is 'yes' and '{other}' is 'no'"):
        read("pope", tmp_path / "coco_pope_random.jsonl")
    (tmp_path / "coco_pope_random.jsonl").write_text(lines([{**row, other: "yes"}]))
    assert [one.text for one in read("pope", tmp_path / "coco_pope_random.jsonl")] == ["yes"]
