"""Options of the benchmark commands: none is passed over in silence, and no answers are written over."""

import json
from pathlib import Path

import pytest
from slices import Slices

from command_line import sightline
from sightline.cli.eval_options import options_of
from sightline.evaluation.benches.mmstar import BENCH


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("slices")
    Slices(root).everything()
    answers = [{"id": one.id, "text": one.prompt.facts["answer"]} for one in BENCH.questions(root / "mmstar")]
    (root / "a.graded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return root


@pytest.fixture
def grade(data: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(data)
    return "eval", "grade", "mmstar", "--responses", "a.graded.jsonl"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--data mmstar --data pope", "--data is given several times (mmstar, pope). Give one, as --data mmstar="),
        ("--data mmstar=mmstar --data mmstar=pope", "--data is given several times"),
        ("--data . --protocol ovip --protocol official", "--protocol is given several times (ovip, official)"),
        ("--data . --protocol mmstar=", "--protocol is empty"),
        ("--data . --option llm_base=a --option llm_base=b", "the option llm_base is given twice"),
        ("--data . --option llm_base=a.jsonl", "llm_base is given without without_image"),
        ("--data . --option template=a.txt", "unknown options template"),
        ("--data . --protocol vlmevalkit --option template=a.txt", "template is given, and no judge that reads it"),
        ("--data . --judge http://x/v1 --judge-option model=a --judge-option model=b", "model is given twice"),
        ("--data . --json a.json", "a.graded.jsonl: would be written over the answers"),
        ("--data . --json ./a.graded.jsonl", "would be written over the answers"),
    ],
)
def test_what_would_be_passed_over_is_refused(grade: tuple[str, ...], options: str, message: str) -> None:
    before = Path("a.graded.jsonl").read_text()
    assert message in sightline(*grade, *options.split()).err
    assert Path("a.graded.jsonl").read_text() == before


def test_of_several_folders_the_one_that_holds_the_benchmark_is_taken(grade: tuple[str, ...]) -> None:
    Path("elsewhere").mkdir(exist_ok=True)
    done = sightline(*grade, "--data", "elsewhere", "--data", ".", "--json", "-")
    assert done.code == 0 and json.loads(done.out)["results"]["mmstar_official"]["accuracy,none"] == 1


def test_an_export_over_the_answers_is_refused(grade: tuple[str, ...]) -> None:
    export = ("eval", "export", "mmstar", "--data", "mmstar", "--responses", "a.graded.jsonl", "-o", "a.graded.jsonl")
    assert "would be written over the answers" in sightline(*export).err


def test_a_comparison_is_not_written_over_what_it_compares(grade: tuple[str, ...]) -> None:
    for name in ("one", "two"):
        assert sightline(*grade, "--data", ".", "--json", f"{name}/results.json").code == 0
    before = Path("one/results.json").read_bytes()
    for option, out in (
        ("--json", "one/results.json"),
        ("--page", "two/results.json"),
        ("--json", "./two/results.json"),
    ):
        for given in (("one", "two"), ("one/results.json", "two/results.json")):
            done = sightline("eval", "diff", *given, option, out)
            assert done.code == 2 and "would be written over the results that are read" in done.err
    assert Path("one/results.json").read_bytes() == before
    assert sightline("eval", "diff", "one", "two", "--json", "diff.json").code == 0


def test_a_folder_behind_json_is_what_was_to_be_read(grade: tuple[str, ...]) -> None:
    for folder in ("base", "dpo"):
        Path(folder).mkdir()
    for command in ("diff", "aggregate"):
        done = sightline("eval", command, "--json", "base", "dpo")
        assert (
            done.code == 2 and "base: found a folder behind --json, expected a file to write. Name a file" in done.err
        )


def test_the_option_of_one_benchmark_wins_wherever_it_stands() -> None:
    given = ["mmstar.llm_base=own", "llm_base=all", "pope.files=x"]
    assert options_of("mmstar", given) == {"llm_base": "own"} == options_of("mmstar", given[::-1])
