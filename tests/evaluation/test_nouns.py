"""Tables of forms against the derived tables in the shared data, quirk by quirk; the exact extractor against a fake."""

import json
import sys
import types
from pathlib import Path

import pytest

from sightline.errors import DataError
from sightline.evaluation.coco import CHAIR_PAIRS, read_synonyms, tokens_of, word_pairs
from sightline.evaluation.nouns import chair_forms, nltk_extractor, place, table_extractor, wordnet_forms
from sightline.evaluation.similarity import read_relation, vocabulary

DATA = Path(__file__).parents[2] / "../shared/data"


@pytest.mark.real
def test_amber_forms_are_those_that_wordnet_gives():
    if not (DATA / "amber_derived").is_dir():
        pytest.skip("needs ../shared/data/amber_derived")
    expected = json.loads((DATA / "amber_derived/surface_forms.json").read_text())
    for nonsense in ("sunglasseses", "sunglassess"):  # the rules reach them, no text holds them
        del expected[nonsense]
    forms = wordnet_forms(vocabulary(read_relation(DATA / "amber/relation.json")))
    assert forms == expected
    assert len(set(forms.values())) == 414  # 415 in the table, where nonsense reaches "sunglasses"


@pytest.mark.real
def test_chair_forms_are_those_of_the_original_singulariser():
    if not (DATA / "chair").is_dir():
        pytest.skip("needs ../shared/data/chair")
    expected = json.loads((DATA / "chair/singular_forms_official.json").read_text())
    tokens = tokens_of([*read_synonyms(DATA / "chair/synonyms.txt", strip=False), *word_pairs(CHAIR_PAIRS)])
    forms = chair_forms(tokens)
    assert set(expected) - set(forms) == {"iphone", "iphones"}  # the list has iPhone, which no lower-case text reaches
    assert all(forms[form] == word for form, word in expected.items() if form in forms)
    assert set(forms) - set(expected) == {"iPhone", "iPhones", "grandchildren", "kine"}  # no regular plurals


def test_quirks_of_wordnet_are_kept():
    words = ["man", "woman", "vase", "leave", "leaf", "sunglasses", "bus", "knife", "child", "potato", "TV", "ebook"]
    forms = wordnet_forms(words)
    assert {"men", "vases", "sunglasses", "TVs", "ebooks", "Bus"}.isdisjoint(forms)
    reached = {"women": "woman", "leaves": "leaf", "buses": "bus", "busses": "bus", "knives": "knife", "TV": "TV"}
    assert reached.items() <= forms.items()
    assert forms["children"] == "child" and forms["potatoes"] == "potato"
    assert "leaves" not in wordnet_forms(["leave"])


def test_a_word_that_wordnet_lacks_is_no_lemma():
    forms = wordnet_forms(["glas", "glass"])  # the list of CHAIR holds "wine glas"
    assert wordnet_forms(["ox", "oxen"]).items() >= {"oxen": "ox", "oxens": "oxen"}.items()
    assert forms["glas"] == "glas" and forms["glass"] == forms["glasses"] == "glass" and "glases" not in forms


def test_of_two_lemmas_the_shorter_one_wins():
    assert wordnet_forms(["skis", "ski"])["skis"] == "ski"
    assert wordnet_forms(["doggie", "doggy"])["doggies"] == "doggy"


def test_the_original_singulariser_loses_bus_and_tie():
    forms = chair_forms(["bus", "minibus", "airbus", "tie", "tennis", "person", "scissors", "man", "calf"])
    assert {"bus", "minibus", "airbus", "ties", "tennis"}.isdisjoint(forms)
    reached = {"buses": "bus", "tie": "tie", "people": "person", "men": "man", "calves": "calf", "scissors": "scissors"}
    assert reached.items() <= forms.items()


def test_the_original_singulariser_finds_irregular_plurals_at_the_end_of_a_word():
    forms = chair_forms(["child", "grandchild", "ox", "oxen", "cow", "brother"])
    assert forms["children"] == "child" and forms["grandchildren"] == "grandchild"
    assert forms["oxen"] == "ox" and forms["kine"] == "cow" and forms["brethren"] == "brother"
    assert "oxens" not in forms, "it becomes oxs"


def test_the_table_extractor_keeps_repetitions_case_and_places():
    text = "Two dogs, a Dog and a dog can run. It's hot."
    found = table_extractor(["dog", "can", "hot"])(text)
    assert [(word.text, text[word.start : word.end]) for word in found] == [("dog", "dogs"), ("dog", "dog")]


def test_rewritten_tokens_have_no_width():
    assert [tuple(word) for word in place('a "b" a', ["a", "``", "b", "''", "a"])] == [
        ("a", 0, 1),
        ("``", 1, 1),
        ("b", 3, 4),
        ("''", 4, 4),
        ("a", 6, 7),
    ]


def fake_nltk(monkeypatch, *, data=True):
    def tokenize(text):
        if not data:
            raise LookupError("Resource punkt_tab not found")
        return text.replace(".", " .").split()

    module = types.ModuleType("nltk")
    module.word_tokenize = tokenize
    module.pos_tag = lambda tokens: [
        (token, "MD" if token == "can" else "NNS" if token == "dogs" else "NN") for token in tokens
    ]
    lemmatizer = types.SimpleNamespace(lemmatize=lambda word: {"dogs": "dog"}.get(word, word))
    module.stem = types.SimpleNamespace(WordNetLemmatizer=lambda: lemmatizer)
    monkeypatch.setitem(sys.modules, "nltk", module)


def test_the_nltk_extractor_keeps_nouns_of_the_vocabulary(monkeypatch):
    fake_nltk(monkeypatch)
    text = "The dogs can see a can."
    assert [tuple(word) for word in nltk_extractor(["dog", "can", "sea"])(text)] == [("dog", 4, 8)]


def test_without_nltk_or_its_data_the_error_says_how_to_get_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(DataError, match=r"pip install nltk; .*punkt_tab averaged_perceptron_tagger_eng wordnet"):
        nltk_extractor(["dog"])
    fake_nltk(monkeypatch, data=False)
    with pytest.raises(DataError, match=r"lacks punkt_tab\. Run: python -m nltk.downloader punkt_tab \("):
        nltk_extractor(["dog"])
