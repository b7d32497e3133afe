"""Near synonyms: from a table, from a (fake) spaCy model, and from the table that the model was written to."""

import json
import sys
import types

import pytest

from sightline.errors import DataError
from sightline.evaluation.similarity import export_similarity, load_similarity

VECTORS = {"car": (1, 0), "truck": (0.8, 0.6), "van": (0.9, 0.19), "sky": (0, 1)}
"""car-truck 0.8 exactly (not above it), car-van 0.978, truck-van 0.907, truck-sky 0.6."""


class FakeDocument:
    def __init__(self, word):
        self.word = word

    def similarity(self, other):
        left, right = VECTORS[self.word], VECTORS[other.word]
        lengths = [sum(value * value for value in vector) ** 0.5 for vector in (left, right)]
        return sum(a * b for a, b in zip(left, right, strict=True)) / (lengths[0] * lengths[1])


class FakeModel:
    meta = {"lang": "en", "name": "core_web_lg", "version": "3.7.1"}

    def __init__(self, vectors=4):
        self.vocab = types.SimpleNamespace(vectors_length=vectors)
        self.calls = 0

    def __call__(self, word):
        self.calls += 1
        return FakeDocument(word)


@pytest.fixture
def spacy(monkeypatch):
    module = types.ModuleType("spacy")
    module.model = FakeModel()
    module.load = lambda name: module.model
    monkeypatch.setitem(sys.modules, "spacy", module)
    return module


@pytest.fixture
def relation(tmp_path):
    path = tmp_path / "relation.json"
    path.write_text(json.dumps({"car": ["truck", "van"], "sky": []}))
    return path


def test_none_knows_only_equality():
    none = load_similarity("none")
    assert none.near("car", "car") and not none.near("car", "van")
    assert none.name.startswith("none")


def test_a_word_is_near_strictly_above_the_threshold(spacy):
    near = load_similarity("spacy").near
    assert near("car", "van") and near("van", "car") and near("sky", "sky")
    assert not near("car", "truck"), "0.8 is not above 0.8"
    assert load_similarity("spacy", threshold=0.79).near("car", "truck")
    assert "3.7.1" in load_similarity("spacy").name


def test_each_pair_is_computed_once(spacy):
    similarity = load_similarity("spacy")
    for _ in range(3):
        similarity.near("car", "van")
        similarity.near("van", "car")
    assert spacy.model.calls == 2


def test_the_exported_table_says_what_the_model_says(spacy, relation, tmp_path):
    path = tmp_path / "tables/similarity.json"
    assert export_similarity(relation, path) == 2
    table, model = load_similarity(str(path)), load_similarity("spacy")
    assert all(table.near(a, b) == model.near(a, b) for a in VECTORS for b in VECTORS)
    assert json.loads(path.read_text())["model"] == "en_core_web_lg"
    assert table.name == "table of en_core_web_lg 3.7.1, above 0.8"


def test_a_table_serves_no_lower_threshold_than_it_was_made_for(spacy, relation, tmp_path):
    export_similarity(relation, tmp_path / "t.json")
    assert not load_similarity(str(tmp_path / "t.json"), threshold=0.95).near("truck", "van")
    with pytest.raises(DataError, match=r"above 0\.8, but the threshold is 0\.7"):
        load_similarity(str(tmp_path / "t.json"), threshold=0.7)


def test_models_without_vectors_are_refused(spacy):
    spacy.model = FakeModel(vectors=0)
    with pytest.raises(DataError, match="no word vectors"):
        load_similarity("spacy")


def test_without_spacy_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(DataError, match="pip install spacy"):
        load_similarity("spacy")


def test_another_json_file_is_no_table(relation):
    with pytest.raises(DataError, match="no similarity table"):
        load_similarity(str(relation))


@pytest.mark.parametrize(
    "broken", [{"above": "x"}, {"pairs": 3}, {"pairs": [["a", "b"]]}, {"pairs": [["a", "b", "c"]]}]
)
def test_a_broken_table_is_an_error(tmp_path, broken):
    table = {"model": "m", "version": "1", "above": 0.8, "pairs": [["a", "b", 0.9]]}
    (tmp_path / "t.json").write_text("\ufeff" + json.dumps(table))
    assert load_similarity(str(tmp_path / "t.json")).near("b", "a")
    (tmp_path / "t.json").write_text(json.dumps({**table, **broken}))
    with pytest.raises(DataError, match="broken similarity table"):
        load_similarity(str(tmp_path / "t.json"))
