"""What a recipe may not ask of visual preferences: every option is read, or refused with its line."""

import pytest

from sightline.errors import RecipeError
from sightline.recipes.load import dump_recipe, load_recipe

RECIPE = """\
name: x
output_dir: out
model: {{path: m, parts: {{language: lora, projector: frozen}}}}
algorithm: {{name: dpo}}
reference: adapter
data:
  train:
    - path: rows.jsonl
      {source}
"""


def load(tmp_path, source):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.format(source=source))
    return load_recipe(path)


def test_a_visual_section_is_read_and_written(tmp_path):
    recipe = load(tmp_path, "visual: {relation: ovip, between: blank, negative: {kind: noise, step: 300}}")
    visual = recipe.data.train[0].visual
    assert (visual.relation, visual.between, visual.symmetric, visual.image_weight) == ("ovip", "blank", False, 1.0)
    assert (visual.negative.kind, visual.negative.step) == ("noise", 300)
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("visual: {relation: mdpo, negative: {kind: blank, area: [0.5, 0.8]}}", "area is an option of kind crop"),
        ("visual: {relation: mdpo, negative: {step: 10}}", "step is an option of kind noise, found kind: crop"),
        ("visual: {relation: mdpo, negative: {size: same}}", "size is an option of kind blank"),
        ("visual: {relation: mdpo, between: blank}", "relation mdpo has no picture in between"),
        ("visual: {relation: svco, negative: {kind: none}}", "are the same (none)"),
        ("visual: {relation: ovip, between: blank, negative: {kind: blank}}", "are the same (blank)"),
        ("visual: {relation: mdpo, negative: {kind: column, replace: last}}", "Remove replace"),
        ("visual: {relation: mdpo, negative: {area: [0.5, 0.2]}}", "0 < least <= most <= 1"),
        ("visual: {relation: mdpo, negative: {area: [0.0, 0.2]}}", "0 < least <= most <= 1"),
        ("visual: {relation: mdpo, negative: {area: [1.0, 1.0]}}", "least below 1"),
        ("relation: none\n      visual: {relation: mdpo}", "relation is none"),
        ("relation: mismatched\n      visual: {relation: mdpo}", "relation is mismatched"),
        ("visual: {relation: mpdo}", "Did you mean 'mdpo'?"),
        ("visual: {relation: mdpo, negativ: {}}", "Did you mean 'negative'?"),
    ],
)
def test_what_nothing_would_read_is_refused(tmp_path, source, message):
    with pytest.raises(RecipeError) as error:
        load(tmp_path, source)
    assert message in str(error.value)
    assert "r.yaml:" in str(error.value)


def test_a_white_picture_in_between_may_have_a_size(tmp_path):
    recipe = load(tmp_path, "visual: {relation: svco, between: blank, negative: {size: same}}")
    assert recipe.data.train[0].visual.negative.size == "same"


ONLINE = """\
name: x
output_dir: out
model: {{path: m, parts: {{language: lora, projector: frozen}}}}
algorithm: {{name: dpo}}
reference: adapter
online:
  reward: scenes
  {online}
"""


@pytest.mark.parametrize(
    ("online", "message"),
    [
        ("prompts: {path: p.jsonl}\n  visual: {relation: ovip, negative: {kind: column}}", "bring prompts alone"),
        ("prompts: {path: p.jsonl, visual: {relation: ovip}}", "Write visual under online itself"),
        ("prompts: {path: p.jsonl}\n  relation: none\n  visual: {relation: ovip}", "relation is none"),
    ],
)
def test_online(tmp_path, online, message):
    path = tmp_path / "r.yaml"
    path.write_text(ONLINE.format(online=online))
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert message in str(error.value)
