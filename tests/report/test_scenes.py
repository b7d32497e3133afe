import pytest

from sightline.errors import DataError
from sightline.report.scenes import scenes_gallery, scenes_table
from sightline.scenes.world import Scenes
from sightline.types import Response


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    world = Scenes(seed=3)
    folder = tmp_path_factory.mktemp("scenes")
    return [*world.prompts("held_out", 6, folder), *world.prompts("held_out", 6, folder, kind="presence", per_scene=2)]


def graded(prompts, answer):
    """Records of the answers that ``answer(facts)`` gives."""
    from dataclasses import replace

    groups = [replace(group, responses=(Response(text=answer(group.prompts[0].facts)),)) for group in prompts]
    return Scenes(seed=3).grade(groups)


def truthful(facts):
    if facts["kind"] == "presence":
        return facts["truth"]
    return " and ".join(f"a {item['colour']} {item['shape']}" for item in facts["scene"]["objects"])


def hallucinating(facts):
    absent = next(shape for shape in Scenes().shapes if shape not in {i["shape"] for i in facts["scene"]["objects"]})
    return "yes" if facts["kind"] == "presence" else f"A {absent}."


def test_table_of_a_model_that_tells_the_truth_after_it_made_things_up(prompts):
    rows = {row.key: row for row in scenes_table(graded(prompts, hallucinating), graded(prompts, truthful))}
    assert (rows["hal"].before.value, rows["hal"].after.value) == (1.0, 0.0)
    assert (rows["chair"].before.value, rows["chair"].after.value) == (1.0, 0.0)
    assert (rows["cover"].before.value, rows["cover"].after.value) == (0.0, 1.0)
    assert rows["hal"].difference.value == -1.0 and rows["hal"].verdict == "better"
    assert rows["yes_rate"].before.value == 1.0 and rows["recall"].after.value == 1.0
    assert rows["length"].unit == "number" and rows["length"].before.value == 2.0


def test_what_is_not_defined_is_left_out(prompts):
    captions = [group for group in prompts if group.prompts[0].facts["kind"] == "caption"]
    assert "accuracy" not in {row.key for row in scenes_table(graded(captions, truthful))}


def test_gallery_shows_what_was_made_up_and_missed(prompts):
    before, after = graded(prompts, hallucinating), graded(prompts, truthful)
    items = scenes_gallery(prompts, before, after, number=4)
    assert len(items) == 4
    first, second = items[0].answers
    (start, end), *_ = first.wrong
    assert first.title == "before" and first.text[start:end] in Scenes().shapes
    assert set(first.missed) == {i["shape"] for i in prompts[0].prompts[0].facts["scene"]["objects"]}
    assert second.title == "after" and not second.wrong and not second.missed
    assert items[0].caption.startswith("there: ")
    assert scenes_gallery(prompts, after) == []


def test_answers_to_different_prompts_are_not_compared(prompts):
    records = graded(prompts, truthful)
    with pytest.raises(DataError, match="different prompts"):
        scenes_table(records, records[1:])
