"""Small models in the formats of NLTK and spaCy, made by their own classes: what a user downloads, in miniature."""

from __future__ import annotations

import random
import re
from pathlib import Path

_WORDS = (
    "man men dog cat bus vase vas knife leaf leave sky puppy woman person car truck can table glass bear child tie "
    "toilet seat bike air conditioning book oven sign computer phone ski umbrella bench horse"
)
NOUNS = _WORDS.split()
"""Words of the small WordNet; ``men`` and ``vas`` are nouns of their own there as well."""
IRREGULAR = {"knives": "knife", "leaves": "leaf", "children": "child", "men": "men"}
VERBS = {"see": (), "sit": ("sat",), "run": ("ran",), "bear": ("bore",), "leave": ("left",)}
_LEXNAMES = {3: ("noun.Tops", 1), 29: ("verb.body", 2)}


def write_nltk_data(root: Path, *parts: str) -> None:
    """``punkt``, ``tagger`` or ``wordnet`` (all without any), where NLTK seeks them below a folder of its path."""
    writers = {"punkt": _punkt, "tagger": _tagger, "wordnet": _wordnet}
    for part in parts or tuple(writers):
        writers[part](root)


def _punkt(root: Path) -> None:
    from nltk.tokenize.punkt import PunktTrainer, save_punkt_params

    trainer = PunktTrainer()
    trainer.INCLUDE_ALL_COLLOCS = True
    people = ("Mr. Smith", "Mr. Brown", "Mr. Jones", "Dr. Smith", "Dr. Brown", "Dr. Jones")
    trainer.train(" ".join(f"We saw {one} at the table. The dog of {one} sat down. " for one in people * 20))
    folder = root / "tokenizers/punkt_tab"
    folder.mkdir(parents=True, exist_ok=True)
    save_punkt_params(trainer.get_params(), dir=str(folder / "english"))


def _tagger(root: Path) -> None:
    from nltk.tag.perceptron import PerceptronTagger

    things = [noun for noun in NOUNS if noun != "can"]
    sentences = []
    for noun in things:
        one, many = (noun, "NN"), (re.sub("y$", "ie", noun) + "s", "NNS")
        sentences += [
            [("The", "DT"), one, ("can", "MD"), ("see", "VB"), ("a", "DT"), ("can", "NN"), (".", ".")],
            [("Two", "CD"), many, ("can", "MD"), ("run", "VB"), ("near", "IN"), ("the", "DT"), one, (".", ".")],
            [("the", "DT"), many, ("sit", "VBP"), ("on", "IN"), ("a", "DT"), ("can", "NN"), ("in", "IN"), many],
        ]
    tagger = PerceptronTagger(load=False)
    state = random.getstate()
    random.seed(0)  # the trainer shuffles
    tagger.train(sentences, nr_iter=3)
    random.setstate(state)
    folder = root / "taggers"
    folder.mkdir(parents=True, exist_ok=True)
    tagger.save_to_json(lang="eng", loc=str(folder / "averaged_perceptron_tagger_eng"))


def _wordnet(root: Path) -> None:
    """Index, data, exceptions and lexicographer names, as WNDB(5WN) describes them."""
    folder = root / "corpora/wordnet"
    folder.mkdir(parents=True, exist_ok=True)
    exceptions = {"noun": dict(IRREGULAR), "verb": {form: verb for verb, forms in VERBS.items() for form in forms}}
    for name, pos, words in (("noun", "n", NOUNS), ("verb", "v", VERBS), ("adj", "a", ("hot",)), ("adv", "r", ("up",))):
        data, index, at = "", "", 0
        for word in sorted(words):
            line = f"{at:08d} {29 if pos == 'v' else 3:02d} {pos} 01 {word} 0 000 | {word}  \n"
            index += f"{word} {pos} 1 0 1 0 {at:08d}  \n"
            data, at = data + line, at + len(line)
        (folder / f"data.{name}").write_text(data)
        (folder / f"index.{name}").write_text(index)
        lines = [f"{form} {word}\n" for form, word in sorted(exceptions.get(name, {}).items())]
        (folder / f"{name}.exc").write_text("".join(lines))
    names = [f"{n:02d}\t{_LEXNAMES.get(n, ('noun.other', 1))[0]}\t{_LEXNAMES.get(n, ('', 1))[1]}\n" for n in range(45)]
    (folder / "lexnames").write_text("".join(names))
    (folder / "cntlist.rev").write_text("")
    (folder / "index.sense").write_text("")


def write_spacy_model(path: Path, vectors: dict[str, tuple[float, ...]], *, version: str = "3.7.1") -> None:
    """A blank English pipeline with word vectors, saved as spaCy saves models."""
    import numpy
    import spacy

    model = spacy.blank("en")
    model.meta.update(name="core_web_tiny", version=version)
    for word, vector in vectors.items():
        model.vocab.set_vector(word, numpy.asarray(vector, dtype="float32"))
    model.to_disk(path)


def write_spacy_tagger(path: Path, lemmas: dict[str, tuple[str, str]]) -> None:
    """A blank English pipeline that gives the words of ``lemmas`` their tag and lemma; all others have none."""
    import spacy

    model = spacy.blank("en")
    ruler = model.add_pipe("attribute_ruler")
    for word, (tag, lemma) in lemmas.items():
        ruler.add(patterns=[[{"LOWER": word}]], attrs={"TAG": tag, "LEMMA": lemma})
    model.to_disk(path)
