import dataclasses
import subprocess
import sys

import pytest

from sightline.errors import RecipeError
from sightline.recipes.describe import describe_recipe
from sightline.recipes.field_docs import field_docs
from sightline.recipes.load import check_algorithm, check_spec, dump_recipe, load_recipe, with_reference
from sightline.recipes.schema import DataSpec, SamplingSpec
from sightline.types import Algorithm

GOOD = """\
name: small
output_dir: runs/small
model:
  path: models/tiny
  parts: {language: lora, projector: frozen}
algorithm:
  name: dpo
  beta: 0.1
reference: adapter
data:
  train:
    - path: a.jsonl
      limit: 8
    - path: b.jsonl
train:
  learning_rate: 1e-5
  mixed_precision: no
"""


@pytest.fixture
def write(tmp_path):
    def make(text):
        path = tmp_path / "r.yaml"
        path.write_text(text)
        return path

    return make


def message(path, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_values_and_defaults(write):
    recipe = load_recipe(write(GOOD))
    assert recipe.train.learning_rate == 1e-5
    assert recipe.train.mixed_precision == "no"
    assert recipe.train.epochs == 1.0
    assert [source.path for source in recipe.data.train] == ["a.jsonl", "b.jsonl"]
    assert recipe.model.parts.language == "lora" and recipe.model.parts.vision == "frozen"
    assert recipe.algorithm == {"name": "dpo", "beta": 0.1}


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E3", 1000.0), ("2", 2.0), (".5", 0.5), ("+3.", 3.0), ("1.5e+2", 150.0)],
)
def test_numbers_are_read_as_people_write_them(write, text, value):
    assert load_recipe(write(GOOD), [f"train.max_grad_norm={text}"]).train.max_grad_norm == value


def test_whole_numbers_are_decimal_and_words_stay_words(write):
    recipe = load_recipe(write(GOOD + "seed: 010\n"), ["name=yes", "output_dir=2024-01-01"])
    assert (recipe.seed, recipe.name, recipe.output_dir) == (10, "yes", "2024-01-01")


def test_unknown_key_names_file_line_and_nearest_key(write):
    path = write(GOOD.replace("learning_rate", "learning_rat"))
    text = message(path)
    assert f"{path}:16: unknown key 'learning_rat' in train. Did you mean 'learning_rate'?" in text


def test_unknown_key_in_a_list_item_and_at_the_top(write):
    path = write(GOOD.replace("limit: 8", "limits: 8") + "modell: 3\n")
    first, second = sorted(message(path).splitlines())
    assert first.startswith(f"{path}:13: unknown key 'limits' in data.train.0. Did you mean 'limit'?")
    assert second.startswith(f"{path}:18: unknown key 'modell'. Did you mean 'model'?")


def test_key_that_belongs_elsewhere_is_sent_there(write):
    text = message(write(GOOD), "train.layout=rows")
    assert (
        text
        == "override 'train.layout=rows': unknown key 'layout' in train. 'layout' is a key of model: move it there."
    )


def test_duplicate_key_names_both_lines(write):
    path = write(GOOD + "name: again\n")
    assert message(path) == f"{path}:18: key 'name' is given twice (first at {path}:1). Keep one."


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("1e-5", "fast", ":16: train.learning_rate: found 'fast' (string), expected a number."),
        ("1e-5", "0", ":16: train.learning_rate: found 0 (whole number), expected a value > 0."),
        ("limit: 8", "limit: '8'", ":13: data.train.0.limit: found '8' (string), expected a whole number."),
        ("limit: 8", "limit: true", ":13: data.train.0.limit: found true (true/false), expected a whole number."),
        ("- path: b.jsonl", "- b.jsonl", ":14: data.train.1: found 'b.jsonl' (string), expected a mapping."),
        ("name: small", "name: 3", ":1: name: found 3 (whole number), expected a string"),
        ("language: lora", "language: lore", "Did you mean 'lora'? Valid: full, lora, frozen."),
        ("  path: models/tiny\n", "", ":3: missing key 'model.path'. Add it: Local folder, or hub name."),
        ("beta: 0.1", "beta: [1", "not valid YAML"),
        ("beta: 0.1", "beta: !!python/name:os.system x", "expected a plain value. Remove the tag."),
        ("beta: 0.1", "beta: &b 0.1\n  other: *b", ":8: anchors and aliases are not allowed: write the value out."),
        ("beta: 0.1", "beta: !!float 0.1", ":8: found the tag 'tag:yaml.org,2002:float', expected a plain value."),
        ("1e-5", ".inf", ":16: found .inf, expected a finite number."),
        ("1e-5", "1e999", ":16: found 1e999, expected a finite number."),
        ("1e-5", "2", ":16: train.learning_rate: found 2 (whole number), expected a value <= 1."),
        (
            "limit: 8",
            "limit: 3000000000",
            ":13: data.train.0.limit: found 3000000000 (whole number)",
        ),
        ("learning_rate: 1e-5", "betas: [0.9]", ":16: train.betas: found a list of 1, expected one of at least 2."),
        ("learning_rate: 1e-5", "betas: [0.9, 1.5]", "train.betas.1: found 1.5 (number), expected a value < 1."),
        ("learning_rate: 1e-5", "betas: [0.9, 0.9, 0.9]", "train.betas: found a list of 3, expected at most 2 values."),
        ("name: small", "name: ''", ":1: name: found '' (string), expected a string that is not empty."),
        ("name: small", "name: small\nseed: -1", ":2: seed: found -1 (whole number), expected a value >= 0."),
        ("name: small", "name: sm\0all", "not valid YAML: unacceptable character #x0000"),
    ],
)
def test_wrong_values_say_found_and_expected(write, old, new, expected):
    assert old in GOOD
    path = write(GOOD.replace(old, new))
    text = message(path)
    assert expected in text and text.startswith(str(path))


def test_all_faults_are_told_at_once(write):
    path = write(GOOD.replace("1e-5", "fast").replace("limit: 8", "limit: 0"))
    assert len(message(path).splitlines()) == 2


def test_file_that_is_missing_or_empty(write, tmp_path):
    assert "no such recipe file" in message(tmp_path / "none.yaml")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    assert "found a file of rows, expected a recipe" in message(tmp_path / "rows.jsonl")
    assert "found nothing" in message(write(""))
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    assert "latin.yaml:1: not UTF-8 text" in message(tmp_path / "latin.yaml")


def test_overrides(write):
    recipe = load_recipe(
        write(GOOD),
        [
            "train.learning_rate=1e-4",
            "data.train.0.path=c.jsonl",
            "data.train.2.path=d.jsonl",
            "train.betas=[0.9, 0.95]",
            "algorithm.links=[hinge]",
            "model.image_size.shortest_edge=3136",
            "data.train.0.rename={question: prompt}",
            "model.chat_template=null",
            "data.eval.0.path=e.jsonl",
        ],
    )
    assert recipe.train.learning_rate == 1e-4 and recipe.train.betas == (0.9, 0.95)
    assert [source.path for source in recipe.data.train] == ["c.jsonl", "b.jsonl", "d.jsonl"]
    assert recipe.data.train[0].limit == 8 and recipe.data.train[0].rename == {"question": "prompt"}
    assert recipe.algorithm["links"] == ["hinge"]
    assert recipe.model.image_size == {"shortest_edge": 3136}
    assert recipe.data.eval[0].path == "e.jsonl"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.learning_rat=1", "override 'train.learning_rat=1': unknown key 'learning_rat' in train. Did you mean"),
        ("trian.seed=1", "override 'trian.seed=1': unknown key 'trian'. Did you mean 'train'?"),
        ("train.epochs=many", "override 'train.epochs=many': train.epochs: found 'many' (string), expected a number."),
        ("data.train.5.path=x", "data.train is a list of 2; expected an index 0 to 2 (2 appends), found '5'"),
        ("data.train.first.path=x", "found 'first'"),
        ("seed.x=1", "it holds no key 'x'"),
        ("seed", "expected key.key=value"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_wrong_overrides(write, override, expected):
    path = write(GOOD + "seed: 1\n")
    assert expected in message(path, override)


def test_override_replaces_a_whole_section(write):
    recipe = load_recipe(write(GOOD), ["data.train=[{path: z.jsonl}]"])
    assert [dataclasses.astuple(source)[0] for source in recipe.data.train] == ["z.jsonl"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data=null"], "found neither data.train nor online"),
        (["online={prompts: {path: p.jsonl}, reward: scenes}"], "found both data.train and online"),
        (["model.parts.language=full", "model.lora={}"], "no part with mode lora and no model.adapter"),
        (["model.parts.language=frozen"], "every part of the model is frozen"),
        (["train.vision_learning_rate=1e-6"], "model.parts.vision is frozen"),
        (["algorithm={beta: 0.1}"], "missing key 'algorithm.name'"),
        (
            ["reference=cache", "data=null", "online={prompts: {path: p.jsonl}, reward: scenes}"],
            "fresh answers have no stored numbers",
        ),
        (["data.segments={corrected: 2.0}", "data.train.1.relation=mismatched"], "relation: mismatched"),
        (["data.segments={}", "data.train.0.relation=none"], "relation: none"),
        (["data.train.0={path: a, relation: mismatched, visual: {relation: mdpo}}"], "relation is mismatched"),
    ],
)
def test_fields_that_contradict_each_other(write, overrides, expected):
    assert expected in message(write(GOOD), *overrides)


def test_online_recipe_may_keep_evaluation_rows(write):
    online = "online={prompts: {path: p.jsonl}, reward: scenes}"
    recipe = load_recipe(write(GOOD), ["data={eval: [{path: e.jsonl}]}", online])
    assert recipe.data.train == () and recipe.online.sampling.n == 8


def test_dump_is_read_back_unchanged(write, tmp_path):
    recipe = load_recipe(write(GOOD), ["name='1e5'", "output_dir='no'", "algorithm.odd=[null, 'true', '7', 0.3]"])
    again = tmp_path / "resolved.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe


def test_description_explains_every_key_and_is_read_back_unchanged(write, tmp_path):
    recipe = load_recipe(write(GOOD), ["model.image_size={shortest_edge: 56}", "data.train.0.rename={a: b}"])
    text = describe_recipe(recipe, {"beta": "Strength of the pull."})
    assert "  # Strength of the pull.\n  beta: 0.1\n" in text
    assert "      # First rows only.\n      limit: 8\n" in text
    again = tmp_path / "described.yaml"
    again.write_text(text)
    assert load_recipe(again) == recipe


def test_field_docs_are_the_docstrings_under_the_fields():
    docs = field_docs(DataSpec)
    assert docs["limit"] == "First rows only."
    assert docs["rename"] == "Column renames, old to new (``question: prompt``)."


def test_options_are_checked_like_recipes():
    assert check_spec(SamplingSpec, "sampling options", n=3, top_p=0.5) == SamplingSpec(n=3, top_p=0.5)
    with pytest.raises(RecipeError, match=r"^sampling options: top_p: found 0.0 \(number\), expected a value > 0.$"):
        check_spec(SamplingSpec, "sampling options", top_p=0.0)


def test_reference_must_match_the_algorithm(write):
    class Comparing(Algorithm):
        needs = frozenset({"ref_logprobs"})

    with_reference = load_recipe(write(GOOD))
    without = load_recipe(write(GOOD), ["reference=none"])
    check_algorithm(with_reference, Comparing())
    check_algorithm(without, Algorithm())
    with pytest.raises(RecipeError, match="found reference: none"):
        check_algorithm(without, Comparing())
    with pytest.raises(RecipeError, match="reads no reference"):
        check_algorithm(with_reference, Algorithm())


def test_a_reference_that_is_not_named_is_what_the_model_allows(write):
    class Comparing(Algorithm):
        needs = frozenset({"ref_logprobs"})

    def decided(algorithm, *overrides):
        recipe = load_recipe(write(GOOD), ["reference=auto", *overrides])
        return with_reference(recipe, algorithm).reference

    full = ["model.parts.language=full", "model.lora={}"]
    assert decided(Comparing()) == "adapter"
    assert decided(Comparing(), *full) == "copy"
    assert decided(Comparing(), *full, "model.adapter=runs/sft/model") == "adapter"
    assert decided(Algorithm()) == "none"
    kept = load_recipe(write(GOOD), ["reference=cache"])
    assert with_reference(kept, Comparing()) is kept


def test_labelled_answers_and_token_weights_need_an_algorithm_that_reads_them(write):
    class Labels(Algorithm):
        needs = frozenset({"labels"})

    class Score(Algorithm):
        heads = frozenset({"reward"})

    single = load_recipe(write(GOOD), ["reference=none", "data.train.0.relation=mismatched"])
    check_algorithm(single, Labels())
    online = load_recipe(
        write(GOOD), ["reference=none", "data=null", "online={prompts: {path: p.jsonl}, reward: scenes}"]
    )
    with pytest.raises(RecipeError, match="sampled answers rewards and comparisons, no labels"):
        check_algorithm(online, Labels())
    with pytest.raises(RecipeError, match=r"relation: mismatched .* algorithm\.name: kto"):
        check_algorithm(single, Algorithm())
    dense = load_recipe(write(GOOD), ["reference=none", "data.segments={corrected: 2.0}"])
    check_algorithm(dense, Algorithm())
    with pytest.raises(RecipeError, match=r"data\.segments weighs tokens"):
        check_algorithm(dense, Score())


def test_loading_a_recipe_imports_no_torch(write):
    code = (
        "import sys; from sightline.recipes.load import load_recipe; "
        f"load_recipe({str(write(GOOD))!r}); "
        "sys.exit(', '.join({'torch', 'transformers', 'numpy'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
