"""Which written forms stand for which word of a benchmark's vocabulary, without a tagger or downloads.

A benchmark asks only for the words of its own list, so lemmatisation is a finite table. Both tables are made from
the list that the user has, by the inverse of the original's suffix rules plus its exceptions; nothing of WordNet or
of ``pattern`` is shipped.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from sightline.errors import DataError
from sightline.evaluation.words import Word, treebank_words

Extractor = Callable[[str], list[Word]]
"""From an answer to its nouns of the vocabulary, in order, each as the vocabulary's word with its place."""

_SUFFIXES: Final = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
"""WordNet's noun rules (Fellbaum 1998, morphy): a form that ends so may come from a word that ends so."""

_LEMMAS: Final = {
    "brethren": "brother",
    "buffaloes": "buffalo",
    "busses": "bus",
    "camerae": "camera",
    "children": "child",
    "chopsticks": "chopstick",
    "earrings": "earring",
    "flamingoes": "flamingo",
    "geese": "goose",
    "grandchildren": "grandchild",
    "knives": "knife",
    "leaves": "leaf",
    "men": "men",  # the work force: a noun of its own, so not "man"
    "mice": "mouse",
    "oxen": "ox",
    "oxens": "oxen",  # "oxen" is an entry of the list as well
    "pocketknives": "pocketknife",
    "potatoes": "potato",
    "skis": "ski",
    "slippers": "slipper",
    "sports": "sport",
    "sunglasses": "sunglass",
    "taxies": "taxi",
    "tomatoes": "tomato",
    "vases": "vas",  # a vessel of the body, shorter than "vase"
}
"""Forms whose lemma in WordNet 3.0 is not what the suffix rules say."""

_NOT_IN_WORDNET: Final = (
    "TV air-conditioning baconic bedsheet biker bluejay brindle cann cathole closestool cooktop coworker doghole "
    "e-book earing ebook electrombile firetruck glas hairdryer hot iPhone kiwifruit lenovo longboard macbook netbook "
    "paddleboat paraglider pissoir pitbull potted riverboat rpoe sailboard sanitizer scoon seegull shortboard "
    "showerpuff skimboard smartphone solider stovetop streetlamp teddybear televison waterfont"
)
"""Entries of AMBER's and COCO's lists that WordNet 3.0 does not know as nouns: their plural is no form of them."""

NOT_NOUNS: Final = frozenset({"can", "hot"})
"""Words of AMBER's list that are mostly a verb and an adjective: without a tagger they are left out."""


def wordnet_forms(vocabulary: Iterable[str]) -> dict[str, str]:
    """Written form to vocabulary word, as NLTK's ``WordNetLemmatizer`` reduces nouns (case matters).

    The quirks are kept: ``men`` is not ``man``, ``vases`` is not ``vase``, ``sunglasses`` cannot be reached.

    >>> forms = wordnet_forms(["man", "bus", "knife", "lorry"])
    >>> forms["buses"], forms["knives"], forms["lorries"], "men" in forms
    ('bus', 'knife', 'lorry', False)
    """
    return _forms(vocabulary, _SUFFIXES, _LEMMAS, frozenset(_NOT_IN_WORDNET.split()) | _LEMMAS.keys())


_PATTERN_SUFFIXES: Final = (
    ("s", ""),
    ("oes", "o"),
    ("xes", "x"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("sses", "ss"),
    ("buses", "bus"),
    ("alves", "alf"),
    ("men", "man"),
    ("children", "child"),
    *((f"{letter}ies", f"{letter}y") for letter in "bcdfghjklmnpqrstvwxz"),
)
_PATTERN_SINGULARS: Final = {
    "airbus": "airbu",
    "bus": "bu",
    "brethren": "brother",
    "canoes": "cano",
    "childrens": "children",
    "collies": "collies",
    "doggies": "doggies",
    "geese": "goose",
    "glas": "gla",
    "glass": "glas",
    "kine": "cow",
    "knives": "knife",
    "magpies": "magpy",
    "mice": "mouse",
    "minibus": "minibu",
    "oxen": "ox",
    "oxens": "oxs",
    "people": "person",
    "pocketknives": "pocketknife",
    "sports": "sport",
    "tennis": "tenni",
    "ties": "ty",
}
"""What the singulariser of the original CHAIR script (pattern.en) makes of these: bus and tie are lost."""


def chair_forms(vocabulary: Iterable[str]) -> dict[str, str]:
    """Written form (lower case) to vocabulary word, as the singulariser of the original CHAIR script reduces words.

    Its quirks are kept: ``bus`` becomes ``bu`` and ``ties`` becomes ``ty``, so they are no form of anything, while
    ``buses`` is one of ``bus``; ``skis`` is ``ski``.

    >>> forms = chair_forms(["bus", "tie", "glas", "person"])
    >>> forms["buses"], forms["glass"], forms["people"], "bus" in forms, "ties" in forms
    ('bus', 'glas', 'person', False, False)
    """
    return _forms(vocabulary, _PATTERN_SUFFIXES, _PATTERN_SINGULARS, frozenset())


def _forms(
    vocabulary: Iterable[str],
    suffixes: Iterable[tuple[str, str]],
    exceptions: Mapping[str, str],
    no_plural: frozenset[str],
) -> dict[str, str]:
    words = sorted(set(vocabulary), key=lambda word: (len(word), word))  # of two lemmas the shorter one wins
    known, rules = set(words), list(suffixes)
    forms: dict[str, str] = {}
    for word in words:
        forms.setdefault(word, word)
        if word in no_plural:
            continue
        for ending, singular in rules:
            if word.endswith(singular):
                forms.setdefault(word[: len(word) - len(singular)] + ending, word)
    for form, word in exceptions.items():
        if word in known:
            forms[form] = word
        else:
            forms.pop(form, None)
    return forms


def table_extractor(vocabulary: Iterable[str]) -> Extractor:
    """Nouns by the table of forms, without a tagger; ``can`` and ``hot`` are left out."""
    forms = {form: word for form, word in wordnet_forms(vocabulary).items() if word not in NOT_NOUNS}

    def extract(text: str) -> list[Word]:
        return [
            Word(forms[token.text], token.start, token.end) for token in treebank_words(text) if token.text in forms
        ]

    return extract


def nltk_extractor(vocabulary: Iterable[str]) -> Extractor:
    """Nouns as the official AMBER script finds them: NLTK's tokenizer, tagger and WordNet lemmatiser.

    Raises:
        DataError: NLTK or its data is not installed.
    """
    nltk = load_nltk()
    lemmatizer, known = nltk.stem.WordNetLemmatizer(), frozenset(vocabulary)

    def extract(text: str) -> list[Word]:
        tokens = nltk.word_tokenize(text)
        tags = [tag for _, tag in nltk.pos_tag(tokens)]
        words = [word for word, tag in zip(place(text, tokens), tags, strict=True) if tag.startswith("NN")]
        nouns = [word._replace(text=lemmatizer.lemmatize(word.text)) for word in words]
        return [noun for noun in nouns if noun.text in known]

    return extract


def place(text: str, tokens: Iterable[str]) -> list[Word]:
    """Tokens with their places, found one after the other; one that was rewritten (a quotation mark) has width 0."""
    words, position = [], 0
    for token in tokens:
        start = text.find(token, position)
        end = position if start < 0 else start + len(token)
        words.append(Word(token, position if start < 0 else start, end))
        position = end
    return words


def load_nltk() -> Any:
    """NLTK with its tokenizer, tagger and WordNet.

    Raises:
        DataError: NLTK or some of its data is not installed; says which.
    """
    try:
        nltk = importlib.import_module("nltk")
    except ImportError as error:
        remedy = _NLTK_REMEDY.format(f"pip install nltk; python -m nltk.downloader {' '.join(_NLTK_DATA)}")
        raise DataError("the extractor nltk needs NLTK, which is not installed", remedy=remedy) from error
    missing = [name for name, use in _NLTK_DATA.items() if not _is_there(use, nltk)]
    if missing:
        remedy = _NLTK_REMEDY.format(f"python -m nltk.downloader {' '.join(missing)}")
        raise DataError(f"the data of NLTK lacks {', '.join(missing)}", remedy=remedy)
    return nltk


def nltk_name() -> str:
    """What was used, for results: releases cut words differently."""
    return f"nltk {metadata.version('nltk')}"


_NLTK_REMEDY: Final = "Run: {} (or use the built-in extractor: table)"
_NLTK_DATA: Final[dict[str, Callable[[Any], object]]] = {
    "punkt_tab": lambda nltk: nltk.word_tokenize("A dog."),
    "averaged_perceptron_tagger_eng": lambda nltk: nltk.pos_tag(["dog"]),
    "wordnet": lambda nltk: nltk.stem.WordNetLemmatizer().lemmatize("dogs"),
}
"""Name of a download (NLTK 3.9 or newer) to what fails without it."""


def _is_there(use: Callable[[Any], object], nltk: Any) -> bool:
    try:
        use(nltk)
    except LookupError:
        return False
    return True


def load_spacy(name: str, *, instead: str) -> Any:
    """The spaCy model of that name (a package, or a folder).

    Args:
        name: ``en_core_web_lg``.
        instead: What does without spaCy, for the error.

    Raises:
        DataError: spaCy or the model is not installed, or the model cannot be loaded.
    """
    download = f"python -m spacy download {name}"
    try:
        spacy = importlib.import_module("spacy")
    except ImportError as error:
        remedy = f"Run: pip install spacy; {download} (or use {instead})"
        raise DataError("this needs spaCy, which is not installed", remedy=remedy) from error
    try:
        return spacy.load(name)
    except (OSError, ValueError) as error:  # no such model; a part of its pipeline is not installed
        reason = str(error).splitlines()[0]
        repair = "Give a folder that spaCy wrote" if Path(name).exists() else f"Run: {download}"
        remedy = f"{repair} (or use {instead})"
        raise DataError(f"spaCy cannot load the model {name} ({reason})", remedy=remedy) from error
