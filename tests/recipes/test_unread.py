"""Options that nothing would read are refused with their place, whatever else is right."""

import pytest

from sightline.algorithms.registry import build_algorithm
from sightline.errors import RecipeError
from sightline.recipes.load import check_algorithm, load_recipe

OFFLINE = """\
name: x
output_dir: out
model: {path: m}
algorithm: {name: reward_model}
data: {train: [{path: rows.jsonl}]}
"""
OVIP = ["online.relation=ovip"]
ONLINE = """\
name: x
output_dir: out
model: {path: m, parts: {language: lora, projector: frozen}}
algorithm: {name: dpo}
reference: adapter
online: {prompts: {path: prompts.jsonl}, reward: scenes}
"""


def load(tmp_path, text, *overrides):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (OFFLINE, ["data.reads={captions: own}"], "captions is read with images: caption alone"),
        (OFFLINE, ["data.reads={lead_in: So}"], "lead_in is read with criteria alone"),
        (OFFLINE, ["data.reads={missing_facts: leave_out}"], "missing_facts is read with facts alone"),
        (OFFLINE, ["data.segments={corrected: 0, shared: 0}"], "no token would weigh anything"),
        (OFFLINE, ["model.lora.rank=4"], "found options of LoRA, but no part has mode lora"),
        (ONLINE, ["online.relation=none", "online.min_gap=0.5"], "Remove min_gap"),
        (ONLINE, ["online.sampling.n=1"], "Sample 2 or more"),
        (
            ONLINE,
            ["online.relation=none", "online.dynamic_sampling=2", "online.sampling.n=1"],
            "found 1 answer per prompt, and dynamic_sampling leaves out",
        ),
        (ONLINE, ["online.sampling.temperature=0"], "all answers to a prompt are the same"),
        (ONLINE, ["online.prompts.relation=options"], "answers of prompts are not read"),
        (
            ONLINE,
            ["online.relation=ovip", "online.min_gap=0.5"],
            "has gaps of its own, under selection. Remove min_gap",
        ),
        (ONLINE, ["online.selection.good=3"], "selection is read by relation: ovip, found best_worst"),
        (
            ONLINE,
            [*OVIP, "online.selection.relaxed_gap=3"],
            "relaxed_gap is read with fallback: relaxed, found reference",
        ),
        (
            ONLINE,
            [*OVIP, "online.selection={fallback: none, reference: caption}"],
            "reference is read with fallback: reference, found none",
        ),
        (ONLINE, ["online.relation=none", "online.buffer={}"], "old ones are no samples for. Remove buffer"),
        (
            ONLINE,
            ["online.max_staleness=1", "online.buffer.fresh=0.5"],
            "with which no round samples what it trains. Remove fresh",
        ),
        (
            ONLINE,
            ["online.max_staleness=2", "online.buffer.max_staleness=1"],
            "samples farther ahead: all would leave. Raise it",
        ),
        (ONLINE, ["online.buffer={}", "online.replay=samples.jsonl"], "replay has no meaning"),
        (ONLINE, ["online.relation=best", "online.buffer.unit=pair"], "relation: best makes none"),
        (ONLINE, ["online.reward={iris: {reference: m}}"], "the same in the first round, and every score is 0"),
        (
            ONLINE,
            ["train.distribution=fsdp", "online.reward={iris: {reference: base}}"],
            "fsdp spreads the policy. Set path, or choose ddp",
        ),
        (ONLINE, ["online.buffer={uses: 2, fresh: 1}"], "nothing is used again"),
        (ONLINE, ["online.relation=best", "online.visual={relation: mdpo}"], "relation is best. Choose another"),
        (ONLINE, ["online.prompts.train_on=last"], "answers of prompts are not read"),
    ],
)
def test_what_nothing_would_read_is_refused(tmp_path, text, overrides, message):
    with pytest.raises(RecipeError, match=message) as error:
        load(tmp_path, text, *overrides)
    assert overrides[-1] in str(error.value)


def test_what_is_read_is_accepted(tmp_path):
    load(tmp_path, OFFLINE)
    load(tmp_path, ONLINE)
    load(tmp_path, ONLINE, "online.relation=none", "online.sampling.n=1", "online.sampling.temperature=0")
    load(tmp_path, ONLINE, "model.lora.rank=4", "online.min_gap=0.5")
    load(tmp_path, OFFLINE, "data.reads={images: caption, captions: own, facts: [f], missing_facts: leave_out}")


def test_turns_of_a_conversation_are_not_trained_by_comparisons(tmp_path):
    recipe = load(tmp_path, OFFLINE, "data.train.0.train_on=last")
    with pytest.raises(RecipeError, match="compares last answers alone"):
        check_algorithm(recipe, build_algorithm(recipe.algorithm))
    recipe = load(tmp_path, OFFLINE, "data.train.0.train_on=last", "algorithm={name: sft}")
    check_algorithm(recipe, build_algorithm(recipe.algorithm))
