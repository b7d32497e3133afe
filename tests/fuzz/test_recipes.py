"""Recipes and overrides full of junk: each is read, or refused in a short message; none is a traceback."""

import dataclasses
import random
import time

import pytest
import yaml
from killing import TIMES

from recipe_files import TRAININGS
from sightline.algorithms.registry import BUILT_IN, build_algorithm
from sightline.errors import RecipeError
from sightline.recipes.load import check_algorithm, dump_recipe, load_recipe

WHOLE = """\
name: whole
output_dir: runs/whole
model: {path: models/tiny, image_size: {shortest_edge: 56}, lora: {alpha: 32.0, dropout: 0.1}}
algorithm: {name: sft}
data:
  train: [{path: a.jsonl, limit: 8, visual: {relation: mdpo, negative: {area: [0.1, 0.2]}, image_weight: 1.0}}]
  segments: {corrected: 5.0}
online: {prompts: {path: p.jsonl}, reward: scenes, min_gap: 0.1, sampling: {n: 4, top_p: 0.9}}
train: {max_steps: 7, vision_learning_rate: 1e-6, projector_learning_rate: 1e-5, eval_every: 3, save_every: 4}
evaluation: {benches: [{bench: scenes, data: scenes, max_new_tokens: 9}]}
seed: 3
"""
"""Has a number wherever a recipe may have one."""
VALUES = [
    "true", "'0.5'", '"1"', ".inf", "-.inf", ".NaN", "1e999", "-1e999", "9" * 30, "9" * 5000, "-" + "8" * 40, "1e-400",
    "null", "~", "", "''", "[]", "{}", "[[]]", "{a: {b: c}}", "-1", "0", "3.7", "word", "'é漢字🙂'", "x" * 100_000,
    "!!float 0.5", "!!str x", "!!python/name:os.system x", "!own x", "&a 1", "*a", "&a [*a]", "<<", "? [a]", "{[a]: b}",
    "[" * 500, "{a: " * 3000, "- " * 500 + "x", '"\\0"', '"\\ud83d"', '"\\U00110000"', '"\\UFFFFFFFF"', "\ud83d", "\0",
    "\x07", "\u2028", "\ufeff", "a: b: c", "@", "`", "%", "|", ">", "'open", '"open', "[1, 2", "{1, 2", "# only", "---",
    "...", "0x10", "0o7", "1_000", "1:30", "2024-01-01", "yes", "=", "!!binary aGk=", "!!set {a}", "..", "/", "a\\b",
    "[" + "1, " * 2_000 + "1]", "{" + ", ".join(f"k{n}: 1" for n in range(300)) + "}",
]  # fmt: skip
BYTES = [b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\0", b"\t", b"\r", b"\xc3", b"\xed\xa0\xbd", b"\x1b[31m"]
BYTES += [b"  ", b": ", b"- ", b"\n"]


def junk_line(rng, text):
    """A line whose value is junk, or is given twice, or is gone, or stands at another depth."""
    lines = text.splitlines()
    at = rng.randrange(len(lines))
    key, colon, _ = lines[at].partition(":")
    kind = rng.randrange(6)
    if kind < 3 and colon:
        lines[at] = f"{key}: {rng.choice(VALUES)}"
    elif kind == 3:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 4:
        del lines[at]
    else:
        lines[at] = rng.choice([" ", "  ", "\t", "- ", ""]) + lines[at].lstrip()
    return "\n".join(lines) + "\n"


def junk_bytes(rng, content):
    """Some bytes put in, taken out, or all from somewhere on gone."""
    at = rng.randrange(len(content) + 1)
    kind = rng.randrange(4)
    if kind == 0:
        return content[:at]
    return content[:at] + (rng.choice(BYTES) if kind < 3 else b"") + content[at + rng.randrange(3) :]


def outcome(path, *overrides):
    """What becomes of a recipe: "read", or its refusal."""
    began = time.process_time()
    try:
        recipe = load_recipe(path, overrides)
        algorithm = build_algorithm(recipe.algorithm)
        check_algorithm(recipe, algorithm)
        found = "read"
        again = path.with_name("again.yaml")
        again.write_text(dump_recipe(recipe))
        assert load_recipe(again) == recipe
    except RecipeError as error:
        found = str(error)
        found.encode()
        assert 10 < len(found) < 8_000 and max(map(len, found.splitlines())) < 2_000
    assert time.process_time() - began < 5
    return found


@pytest.mark.parametrize("part", range(4))
def test_damaged_recipes_are_read_or_refused(tmp_path, part):
    rng, path, read = random.Random(part), tmp_path / "r.yaml", 0
    for _ in range(40 * TIMES):
        text = rng.choice([*(recipe.read_text() for recipe in TRAININGS), WHOLE])
        for _ in range(rng.randrange(1, 4)):
            text = junk_line(rng, text)
        content = text.encode("utf-8", "surrogatepass")
        path.write_bytes(junk_bytes(rng, content) if rng.random() < 0.4 else content)
        found = outcome(path)
        read += found == "read"
        assert found == "read" or str(path) in found or found.startswith(("algorithm", *BUILT_IN)) or ":" in found
    assert read < 40 * TIMES


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_junk_in_the_place_of_a_value(tmp_path, value):
    path = tmp_path / "r.yaml"
    for key in ("seed", "name", "data", "algorithm", "train"):
        path.write_bytes(f"{key}: {value}\n".encode("utf-8", "surrogatepass"))
        assert outcome(path).startswith(f"{path}")
    path.write_text("name: a\noutput_dir: b\nmodel: {path: c}\nalgorithm: {name: sft}\ndata: {train: [{path: d}]}\n")
    for key in ("train.learning_rate", "algorithm", "algorithm.name", "data.train.0", "data.train.0.rename", "seed.x"):
        outcome(path, f"{key}={value}")


def test_junk_as_an_override(tmp_path):
    path, rng = tmp_path / "r.yaml", random.Random(0)
    path.write_text(WHOLE)
    keys = [
        "",
        ".",
        "=",
        "a",
        "data",
        "0",
        "-1",
        "9" * 5000,
        "x" * 100_000,
        "\udcff",
        "\0",
        "é",
        "²",
        "data.train",
        "*",
        "&a",
    ]
    keys += ["train", "lora", "algorithm", ".".join("a" * 500), "seed", "evaluation.benches.0.options", "1"]
    for _ in range(60 * TIMES):
        dotted = ".".join(rng.choice(keys) for _ in range(rng.randrange(1, 4)))
        outcome(path, f"{dotted}{rng.choice(['=', '=', '', ':'])}{rng.choice(VALUES)}")


def numbers(values, path=()):
    """Places of the numbers of a recipe, as overrides name them."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from numbers(value, (*path, str(key)))
        elif type(value) in (int, float):
            yield ".".join((*path, str(key)))


@pytest.mark.parametrize("junk", ["true", "'0.5'", ".inf", "-.inf", ".nan", "1e999", "9" * 40, "{}", "''"])
def test_no_number_of_a_recipe_takes_what_is_none(tmp_path, junk):
    path = tmp_path / "r.yaml"
    path.write_text(WHOLE)
    # data and online in one recipe are refused at the end: what is looked for is the message about the number
    with pytest.raises(RecipeError):
        load_recipe(path)
    part = {"data.train": "[]", "online.visual": "null"}
    recipe = load_recipe(path, [f"{key}={value}" for key, value in part.items()] + ["model.parts.vision=lora"])
    places = [*numbers(yaml.safe_load(dump_recipe(recipe)))]
    places += ["data.train.0.limit", "data.train.0.visual.image_weight", "data.train.0.visual.negative.area.0"]
    assert len(places) > 40
    for place in places:
        with pytest.raises(RecipeError) as caught:
            load_recipe(path, [f"{place}={junk}"])
        assert str(caught.value).startswith(f"override '{place}={junk}': ") and "found" in str(caught.value), place


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("junk", [True, "0.5", float("inf"), float("nan"), 10**400, {}, []])
def test_no_number_of_an_algorithm_takes_what_is_none(name, junk):
    for field in dataclasses.fields(build_algorithm({"name": name})):
        if type(field.default) in (int, float):
            with pytest.raises(RecipeError, match="algorithm"):
                build_algorithm({"name": name, field.name: junk})


@pytest.mark.parametrize(
    "name", [":", "a:", ":b", "..a:B", "a b:C", "os:path", "os:no such", "\0:x", "x" * 99_999, "a..b:C"]
)
def test_no_algorithm_has_such_a_name(name):
    with pytest.raises(RecipeError) as caught:
        build_algorithm({"name": name})
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "r.yaml: found nothing (null), expected keys and values"),
        (b"- a\n- b\n", "r.yaml: found a list of 2, expected keys and values"),
        (b"name: a\nseed: .inf\n", "r.yaml:2: found .inf, expected a finite number."),
        (b"name: a\nseed: &x 1\n", "r.yaml:2: anchors and aliases are not allowed: write the value out."),
        (b"name: a\nseed: !!int '1'\n", "r.yaml:2: found the tag 'tag:yaml.org,2002:int', expected a plain value."),
        (b"name: a\nx: " + b"[" * 99_999, "r.yaml:2: found lists or mappings more than 32 deep in one another."),
        (b"name: a\nseed: " + b"1" * 9999, "(9,999 characters), expected a whole number of 64 bits."),
        (b'name: a\nseed: "\\ud83d"\n', "r.yaml:2: found the character U+D83D in a text, which no file can hold."),
        (b"name: a\n\xff: 1\n", "r.yaml:2: not UTF-8 text (byte 0xff at 8). Store the file as UTF-8."),
        (b"name: a\nb: \0\n", "r.yaml:2: not valid YAML: unacceptable character #x0000."),
        (b"x: 1\n" * 99_999, "r.yaml: found more than 250,000 bytes, expected a recipe. Correct the path."),
        (b"name: a\n\tb: 1\n", "r.yaml:2: not valid YAML"),
    ],
)
def test_the_command_says_what_is_wrong_and_where(tmp_path, run, content, told):
    (tmp_path / "r.yaml").write_bytes(content)
    code, _, err = run("show", tmp_path / "r.yaml")
    assert code == 2 and told in err and len(err) < 2_000


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + TRAININGS[0].read_bytes().replace(b"\n", b"\r\n"))
    assert load_recipe(path) == load_recipe(TRAININGS[0])
