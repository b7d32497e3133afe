"""AMBER's near synonyms: pairs of words whose spaCy vectors are closer than a threshold.

The benchmark only ever compares words of its own vocabulary (418), so the similarities are a finite table. Who has
the spaCy model writes it once (:func:`export_similarity`); with the file, grading is exact, fast and needs no spaCy.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from sightline.errors import DataError
from sightline.evaluation.json_files import read_json, write_json
from sightline.evaluation.nouns import load_spacy

THRESHOLD: Final = 0.8
"""AMBER's ``--similarity_score``; two words are near where their similarity is strictly greater."""
SPACY_MODEL: Final = "en_core_web_lg"


class Similarity(Protocol):
    """Which words are near synonyms."""

    @property
    def name(self) -> str:
        """What was used, as written into the result."""
        ...

    def near(self, left: str, right: str) -> bool:
        """Whether two words of the vocabulary are near synonyms; a word is one of itself."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoSimilarity:
    """Only the association lists; no two different words are near."""

    name: str = "none (association lists only)"

    def near(self, left: str, right: str) -> bool:
        return left == right


@dataclass(frozen=True, kw_only=True)
class SimilarityTable:
    """Pairs that a file lists."""

    name: str
    pairs: frozenset[tuple[str, str]]
    """Both orders of every pair whose similarity is above the threshold."""

    def near(self, left: str, right: str) -> bool:
        return left == right or (left, right) in self.pairs


@dataclass(kw_only=True)
class SpacySimilarity:
    """Similarities of a spaCy model, each computed once."""

    name: str
    model: Any
    threshold: float
    _documents: dict[str, Any] = field(default_factory=dict)
    _near: dict[tuple[str, str], bool] = field(default_factory=dict)

    def near(self, left: str, right: str) -> bool:
        key = (left, right) if left < right else (right, left)
        if key not in self._near:
            self._near[key] = self.score(*key) > self.threshold
        return self._near[key]

    def score(self, left: str, right: str) -> float:
        """Cosine of the two words' vectors, 0 where a word has none."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"\[W008\]")  # a word without vector: 0 is what is wanted
            return float(self._document(left).similarity(self._document(right)))

    def _document(self, word: str) -> Any:
        if word not in self._documents:
            self._documents[word] = self.model(word)
        return self._documents[word]


def load_similarity(choice: str, *, threshold: float = THRESHOLD, spacy_model: str = SPACY_MODEL) -> Similarity:
    """The similarity of that name.

    Args:
        choice: ``none``, ``spacy``, or the path of a table file.
        threshold: Cosine above which two words are near.
        spacy_model: Model for ``spacy``.

    Raises:
        DataError: The table cannot be used, or spaCy or its model is not installed.
    """
    if choice == "none":
        return NoSimilarity()
    if choice == "spacy":
        return _spacy(spacy_model, threshold)
    return _table(Path(choice), threshold)


def export_similarity(relation: Path, path: Path, *, spacy_model: str = SPACY_MODEL, above: float = THRESHOLD) -> int:
    """Writes all pairs of AMBER's vocabulary whose similarity is above ``above``, with model and version.

    Args:
        relation: AMBER's ``relation.json``.
        path: JSON file to write: ``{"model", "version", "above", "words", "pairs": [[word, word, similarity]]}``.
        spacy_model: Name of the installed model.
        above: Lowest threshold that the table will serve.

    Returns:
        How many pairs were written.

    Raises:
        DataError: spaCy or its model is not installed, or the model has no word vectors.
    """
    words = vocabulary(read_relation(relation))
    model = _spacy(spacy_model, above)
    scored = ((left, right, model.score(left, right)) for left, right in itertools.combinations(words, 2))
    pairs = [[left, right, score] for left, right, score in scored if score > above]  # unrounded: 0.80000001 is above
    name, version = model.model.meta["name"], model.model.meta["version"]
    table = {"model": f"{model.model.meta['lang']}_{name}", "version": version, "above": above, "words": len(words)}
    write_json(path, {**table, "pairs": pairs})
    return len(pairs)


def read_relation(path: Path) -> dict[str, list[str]]:
    """AMBER's word to associated words.

    Raises:
        DataError: The file is missing or has another layout.
    """
    table = read_json(path)
    lists = list(table.values()) if isinstance(table, dict) else [None]
    if not all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists):
        raise DataError("is no object of word lists", source=str(path), remedy="Download relation.json again")
    return table


def vocabulary(relation: dict[str, list[str]]) -> list[str]:
    """All words of the relation table, sorted: its keys and their associated words."""
    return sorted({*relation, *itertools.chain.from_iterable(relation.values())})


def _table(path: Path, threshold: float) -> SimilarityTable:
    content = read_json(path)
    keys = ("model", "version", "above", "pairs")
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise DataError(
            "is no similarity table",
            source=str(path),
            remedy=f"Expected an object with {', '.join(keys)}, as the export command writes it",
        )
    pairs = content["pairs"]
    if not isinstance(content["above"], int | float) or not isinstance(pairs, list) or not all(map(_is_pair, pairs)):
        raise DataError(
            "is a broken similarity table",
            source=str(path),
            remedy='Expected "above" as a number and "pairs" of [word, word, similarity]; export it again',
        )
    if threshold < content["above"]:
        raise DataError(
            f"lists pairs above {content['above']}, but the threshold is {threshold}",
            source=str(path),
            remedy="Export the table again with a lower limit",
        )
    near = [(left, right) for left, right, score in pairs if score > threshold]
    return SimilarityTable(
        name=f"table of {content['model']} {content['version']}, above {threshold}", pairs=_both_orders(near)
    )


def _is_pair(value: Any) -> bool:
    kinds = [str, str, int | float]
    return isinstance(value, list) and len(value) == 3 and all(map(isinstance, value, kinds))


def _both_orders(pairs: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    return frozenset(order for left, right in pairs for order in ((left, right), (right, left)))


def _spacy(name: str, threshold: float) -> SpacySimilarity:
    model = load_spacy(name, instead="a table file, or similarity: none")
    if not model.vocab.vectors_length:
        raise DataError(f"the spaCy model {name} has no word vectors", remedy="Its similarities mean nothing; take lg")
    return SpacySimilarity(
        name=f"spaCy {name} {model.meta['version']}, above {threshold}", model=model, threshold=threshold
    )
