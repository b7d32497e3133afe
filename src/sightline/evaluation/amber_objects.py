"""What a description of an AMBER picture covers, invents and was lured into, as the official script counts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sightline.errors import DataError
from sightline.evaluation.similarity import Similarity
from sightline.evaluation.words import Word


@dataclass(frozen=True, kw_only=True)
class Description:
    """The objects of one description."""

    nouns: Sequence[Word]
    """Nouns of the vocabulary, repetitions kept: the denominator of CHAIR."""
    hallucinated: Sequence[Word]
    """Those of them that stand for nothing in the picture."""
    covered: Sequence[bool]
    """For each annotated object, whether a noun stands for it. Of two equal entries only the first can be covered."""
    targets: Sequence[bool]
    """For each likely hallucination, whether a noun stands for it."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What descriptions are compared by."""

    relation: Mapping[str, Sequence[str]]
    """Word to associated words (``relation.json``)."""
    safe_words: frozenset[str]
    """Words that are never counted as hallucinated (``safe_words.txt``)."""
    similarity: Similarity

    def judge(self, nouns: Sequence[Word], truth: Sequence[str], likely: Sequence[str]) -> Description:
        """Sorts the nouns of a description.

        A noun of the truth or associated with it is right. Any other one marks a likely hallucination that equals
        it, and then the first near synonym as well; it is right after all if a near synonym is in the truth.

        Raises:
            DataError: An annotated word is not in the relation table.
        """
        present, lures = self._entries(truth), self._entries(likely)
        hallucinated = []
        for noun in nouns:
            if noun.text in self.safe_words or present.mark(noun.text):
                continue
            lures.mark(noun.text)
            lures.mark_near(noun.text, self.similarity)
            if not present.mark_near(noun.text, self.similarity):
                hallucinated.append(noun)
        return Description(nouns=nouns, hallucinated=hallucinated, covered=present.marked, targets=lures.marked)

    def _entries(self, words: Sequence[str]) -> _Entries:
        unknown = [word for word in words if word not in self.relation]
        if unknown:
            raise DataError(
                f"the annotated word {unknown[0]!r:.100} is not in the relation table",
                remedy="annotations.json and relation.json must be of one release",
            )
        # associations come first, so "person" marks "woman" if woman lists person, even where person is annotated
        listed = [(associated, owner) for owner, word in enumerate(words) for associated in self.relation[word]]
        return _Entries(
            listed=[*listed, *((word, owner) for owner, word in enumerate(words))], marked=[False] * len(words)
        )


@dataclass(frozen=True, kw_only=True)
class _Entries:
    """Annotated words, reached by themselves or by an association; the first that fits is marked."""

    listed: Sequence[tuple[str, int]]
    marked: list[bool]
    _first: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word, owner in self.listed:
            self._first.setdefault(word, owner)

    def mark(self, noun: str) -> bool:
        """Marks the first entry that equals the noun; whether there is one."""
        if noun not in self._first:
            return False
        self.marked[self._first[noun]] = True
        return True

    def mark_near(self, noun: str, similarity: Similarity) -> bool:
        """Marks the first entry that is a near synonym of the noun (or the noun); whether there is one."""
        for word, owner in self._first.items():
            if similarity.near(noun, word):
                self.marked[owner] = True
                return True
        return False
