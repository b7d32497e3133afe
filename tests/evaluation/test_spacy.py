"""Near synonyms and lemmas through the real spaCy: a blank English model with vectors, a table, or tags."""

import itertools
import json
from importlib.util import find_spec

import pytest

from command_line import sightline
from evaluation.benches.scripted_judge import ScriptedJudge
from evaluation.language_data import write_spacy_model, write_spacy_tagger
from sightline.errors import DataError
from sightline.evaluation.bench import Answer
from sightline.evaluation.benches.amber import BENCH as AMBER
from sightline.evaluation.benches.object_halbench import BENCH as OBJECTS
from sightline.evaluation.similarity import load_similarity

pytestmark = pytest.mark.skipif(find_spec("spacy") is None, reason="needs spaCy: pip install sightline[nouns]")
VECTORS = {
    "car": (1.0, 0.0),
    "truck": (0.8, 0.6),
    "van": (0.9, 0.19),
    "sky": (0.0, 1.0),
    "air": (1.0, 0.0),
    "conditioning": (0.6, 0.8),
}
"""car-van 0.978, truck-van 0.907, car-truck 0.8, truck-sky 0.6; e and book have none."""
RELATION = {"car": ["truck", "van"], "sky": ["air-conditioning"], "e-book": [], "nowhere": []}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "en_core_web_tiny"
    write_spacy_model(path, VECTORS)
    return str(path)


@pytest.fixture
def relation(tmp_path):
    (tmp_path / "relation.json").write_text(json.dumps(RELATION))
    return tmp_path


def test_similarities_are_cosines_of_vectors_strictly_above_the_threshold(model):
    similarity = load_similarity("spacy", spacy_model=model)
    assert similarity.score("car", "van") == pytest.approx(0.9 / (0.81 + 0.0361) ** 0.5)
    assert similarity.near("car", "van") and similarity.near("van", "truck") and not similarity.near("truck", "sky")
    assert load_similarity("spacy", spacy_model=model, threshold=0.59).near("truck", "sky")
    assert similarity.name == f"spaCy {model} 3.7.1, above 0.8"


def test_an_entry_of_several_tokens_has_the_mean_of_their_vectors(model):
    score = load_similarity("spacy", spacy_model=model).score
    # air, -, conditioning: the mean over three tokens points as (1.6, 0.8) does; the hyphen has no vector
    assert score("air-conditioning", "car") == pytest.approx(1.6 / (1.6**2 + 0.8**2) ** 0.5)
    assert score("air-conditioning", "truck") == pytest.approx((1.6 * 0.8 + 0.8 * 0.6) / (1.6**2 + 0.8**2) ** 0.5)


@pytest.mark.filterwarnings("error")
def test_a_word_without_vector_is_near_to_itself_only_and_says_nothing(model):
    similarity = load_similarity("spacy", spacy_model=model)
    assert similarity.score("nowhere", "car") == 0 and not similarity.near("nowhere", "e-book")
    assert similarity.near("nowhere", "nowhere")


def test_the_table_that_the_command_writes_says_what_the_model_says(model, relation):
    table = relation / "out/similarity.json"
    done = sightline("eval", "similarity", "--data", str(relation), "--out", str(table), "--spacy-model", model)
    assert done.code == 0, done.err
    written = json.loads(table.read_text())
    assert (written["model"], written["version"], written["words"]) == ("en_core_web_tiny", "3.7.1", 7)
    words = sorted({*RELATION, "truck", "van", "air-conditioning"})
    exact, stored = load_similarity("spacy", spacy_model=model), load_similarity(str(table))
    near = {(a, b) for a, b in itertools.product(words, words) if exact.near(a, b)}
    assert {(a, b) for a, b in itertools.product(words, words) if stored.near(a, b)} == near
    assert ("air-conditioning", "car") in near and ("sky", "truck") not in near
    assert stored.name == "table of en_core_web_tiny 3.7.1, above 0.8"


def test_amber_is_graded_the_same_by_model_and_table(model, relation):
    (relation / "query").mkdir()
    rows = [{"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["car"]}]
    (relation / "annotations.json").write_text(json.dumps(rows))
    (relation / "safe_words.txt").write_text("line")
    queries = [{"id": 1, "image": "AMBER_1.jpg", "query": "Describe this image."}]
    (relation / "query/query_all.json").write_text(json.dumps(queries))
    table = str(relation / "similarity.json")
    assert sightline("eval", "similarity", "--data", str(relation), "-o", table, "--spacy-model", model).code == 0
    answers = [Answer(id="1", text="A car, a sky and an e-book.")]
    by_model = AMBER.grade(relation, answers, "official", {"similarity": "spacy", "spacy_model": model}, None)
    by_table = AMBER.grade(relation, answers, "official", {"similarity": table}, None)
    none = AMBER.grade(relation, answers, "official", {}, None)
    # the car is near to air-conditioning, which the sky lists: right, and it marks the target all the same
    assert by_model.metrics_printed == {"chair": "33.3", "cover": "99.9", "hal": "100.0", "cog": "99.9"}
    assert by_table.metrics == by_model.metrics and none.metrics_printed["chair"] == "66.6"


def test_what_is_missing_is_named(tmp_path, relation):
    with pytest.raises(
        DataError, match=r"cannot load the model en_core_web_none \(\[E050\].*spacy download en_core_web_none"
    ):
        load_similarity("spacy", spacy_model="en_core_web_none")
    import spacy

    spacy.blank("en").to_disk(tmp_path / "sm")
    with pytest.raises(DataError, match="has no word vectors"):
        load_similarity("spacy", spacy_model=str(tmp_path / "sm"))
    (tmp_path / "broken").mkdir()
    config = (
        "[nlp]\nlang = 'en'\npipeline = ['transformer']\n[components.transformer]\nfactory = 'curated_transformer'\n"
    )
    (tmp_path / "broken/config.cfg").write_text(config.replace("'", '"'))
    (tmp_path / "broken/meta.json").write_text("{}")
    with pytest.raises(DataError, match=r"cannot load the model .*broken .*Give a folder that spaCy wrote"):
        load_similarity("spacy", spacy_model=str(tmp_path / "broken"))
    done = sightline("eval", "similarity", "--data", str(relation), "-o", "t.json", "--spacy-model", "en_core_web_none")
    assert done.code == 2 and "en_core_web_none" in done.err and "Traceback" not in done.err


def test_objects_of_the_judge_are_reduced_by_tags_and_lemmas(tmp_path, monkeypatch):
    write_spacy_tagger(
        tmp_path / "en_core_web_trf",
        {
            "men": ("NNS", "man"),
            "dogs": ("NNS", "dog"),
            "bow": ("NN", "bow"),
            "ties": ("NNS", "tie"),
            "wooden": ("JJ", "wooden"),
            "tables": ("NNS", "table"),
            "dining": ("NN", "dining"),
            "near": ("IN", "near"),
        },
    )
    images = [{"id": 1, "file_name": "1.jpg"}]
    instances = {"categories": [{"id": 1, "name": "dog"}], "images": images, "annotations": []}
    (tmp_path / "instances_val2014.json").write_text(
        json.dumps({**instances, "annotations": [{"image_id": 1, "category_id": 1}]})
    )
    (tmp_path / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": []}))
    (tmp_path / "synonyms_refine.txt").write_text("person, man\ndog\ntie, bow tie\ndining table, table\n")
    rows = [{"image_id": 1, "question": "What?", "image": ""}]
    (tmp_path / "obj_halbench_300_with_image.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listed = ["men near dogs", "bow ties", "wooden tables", "dining tables", "man", "dogs"]
    judge = ScriptedJudge({"1": f"```json\n{json.dumps(listed)}\n```"})
    monkeypatch.chdir(tmp_path)  # where spaCy finds a model by name without its package
    answers = [Answer(id="1", text="Four words or more.")]
    result = OBJECTS.grade(tmp_path, answers, "official", {"lemmatizer": "spacy"}, judge)
    # "man dog" are two runs of noun tags, "bow tie" and "dining table" pairs; "wooden table" is the run "table";
    # "man" has no tag here and is lost, the second dog is no new object
    assert result.graded[0].counts["mentions"] == 5
    assert result.graded[0].details["hallucinated"] == ["man", "tie", "table", "dining table"]
    assert result.metrics_printed["object_hall"] == "80.00"
