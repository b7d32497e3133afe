"""Objects of a description against those of the picture: three worlds, numbers by hand."""

import json

import pytest
from answers import asked

from sightline.errors import DataError
from sightline.recipes.terms import ObjectsSpec
from sightline.rewards.build import build_term
from sightline.rewards.objects import Named, measure
from sightline.scenes.world import Scenes


def values(spec, group):
    term = build_term(spec)
    term.check([group])
    return term.values([group])[0]


def test_the_measures():
    """Four mentions, one wrong, two of five objects."""
    named = Named(4, 1, 5, 2)
    found = {m: measure(ObjectsSpec(world="scenes", measure=m), named) for m in ("precision", "coverage", "f1")}
    assert found == pytest.approx({"precision": 0.75, "coverage": 0.4, "f1": 2 * 0.75 * 0.4 / 1.15})
    f1 = ObjectsSpec(world="scenes")
    assert measure(f1, Named(0, 0, 5, 0)) == 0  # nothing named: precise, and covers nothing
    assert measure(f1, Named(0, 0, 0, 0)) == 1  # nothing to name
    assert measure(f1, Named(2, 2, 0, 0)) == 0


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A caption prompt about a scene with two kinds of shapes at least."""
    groups = Scenes().prompts("train", 20, tmp_path_factory.mktemp("scenes"), kind="caption")
    return next(g for g in groups if len({o["shape"] for o in g.prompts[0].facts["scene"]["objects"]}) >= 2)


def test_scenes(scene):
    shapes = sorted({one["shape"] for one in scene.prompts[0].facts["scene"]["objects"]})
    absent = next(shape for shape in ("star", "moon", "ring", "circle", "square") if shape not in shapes)
    group = asked(f"There is a {shapes[0]}.", f"A {shapes[0]} and a {absent}.", "Nothing.", **scene.prompts[0].facts)
    share = 1 / len(shapes)
    assert values(ObjectsSpec(world="scenes", measure="precision"), group) == [1, 0.5, 1]
    assert values(ObjectsSpec(world="scenes", measure="coverage"), group) == pytest.approx([share, share, 0])
    with pytest.raises(DataError, match=r"f\.jsonl:3: prompt 'p' has no scene"):
        values(ObjectsSpec(world="scenes"), asked("a", kind="caption"))


@pytest.fixture
def coco(tmp_path):
    """A folder with synonyms of four categories, and annotations of two pictures."""
    (tmp_path / "synonyms.txt").write_text("person, man, woman\ndog, puppy\ncat, kitten\nbus, coach\n")
    images = [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg"}, {"id": 8, "file_name": "000000000008.jpg"}]
    names = ["person", "dog", "cat", "bus"]
    boxes = {"images": images, "categories": [{"id": i, "name": n} for i, n in enumerate(names)]}
    boxes["annotations"] = [{"image_id": 7, "category_id": 1}, {"image_id": 7, "category_id": 3}]
    captions = [{"image_id": 7, "caption": "A woman walks."}, {"image_id": 8, "caption": "An empty street."}]
    (tmp_path / "instances_val2014.json").write_text(json.dumps(boxes))
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return str(tmp_path)


TEXTS = ("A puppy and a cat near a man.", "Buses.", "A kitten.")


def test_coco_by_facts(coco):
    """In the picture: dog, bus, and a person by its caption. Named: dog, cat, person; bus; cat."""
    spec = ObjectsSpec(world="coco", data=coco, fact="objects", captions="captions", measure="precision")
    group = asked(*TEXTS, objects=["dog", {"category": "bus", "bbox": [0, 0, 1, 1]}], captions=["A woman walks."])
    assert values(spec, group) == pytest.approx([2 / 3, 1, 0])
    coverage = ObjectsSpec(world="coco", data=coco, fact="objects", measure="coverage")
    assert values(coverage, group) == [0.5, 0.5, 0]


def test_coco_by_the_annotations_of_its_picture(coco):
    spec = ObjectsSpec(world="coco", data=coco, measure="coverage")
    group = asked(*TEXTS, images=["elsewhere/COCO_val2014_000000000007.jpg"])
    assert values(spec, group) == pytest.approx([2 / 3, 1 / 3, 0])
    assert values(spec, asked("A street.", "A dog.", images=["000000000008.jpg"])) == [1, 1]  # nothing to cover
    precision = ObjectsSpec(world="coco", data=coco, measure="precision")
    assert values(precision, asked("A street.", "A dog.", images=["000000000008.jpg"])) == [1, 0]


def test_coco_refuses_what_it_does_not_know(coco):
    spec = ObjectsSpec(world="coco", data=coco, fact="objects")
    with pytest.raises(DataError, match=r"f\.jsonl:3: prompt 'p' has no fact 'objects'"):
        values(spec, asked("a"))
    with pytest.raises(DataError, match="fact 'objects' of prompt 'p' names 'unicorn'"):
        values(spec, asked("a", objects=["unicorn"]))
    for wrong in ("dog", [3], [{"name": "dog"}]):
        with pytest.raises(DataError, match=r"a list of names, or of \{category: name\}"):
            values(spec, asked("a", objects=wrong))
    by_name = ObjectsSpec(world="coco", data=coco)
    with pytest.raises(DataError, match=r"f\.jsonl:3: prompt 'p' has the pictures"):
        values(by_name, asked("a", images=["dog.jpg"]))
    with pytest.raises(DataError, match="1 pictures have no annotation"):
        values(by_name, asked("a", images=["9.jpg"]))
    with pytest.raises(DataError, match=r"synonyms\.txt"):
        build_term(ObjectsSpec(world="coco", data=f"{coco}/none", fact="objects"))


@pytest.fixture
def amber(tmp_path):
    relation = {"sky": ["cloud"], "tree": [], "person": ["man"], "dog": [], "lake": []}
    (tmp_path / "relation.json").write_text(json.dumps(relation))
    (tmp_path / "safe_words.txt").write_text("lake\n")
    return str(tmp_path)


def test_amber(amber):
    """Truth: sky, tree. Named: cloud (goes with sky), dog (wrong), lake (safe); trees; none."""
    group = asked("A cloud, a dog and a lake.", "Two trees.", "Hm.", truth=["sky", "tree"])
    spec = ObjectsSpec(world="amber", data=amber, measure="precision")
    assert values(spec, group) == pytest.approx([2 / 3, 1, 1])
    assert values(ObjectsSpec(world="amber", data=amber, measure="coverage"), group) == [0.5, 0.5, 0]
    with pytest.raises(DataError, match=r"f\.jsonl:3: the annotated word 'moon' is not in the relation table"):
        values(spec, asked("a", truth=["moon"]))
    with pytest.raises(DataError, match="has no fact 'truth'"):
        values(spec, asked("a"))
