"""How a letter is read out of an answer to a multiple-choice question: each evaluation suite has its own rule.

Every function follows one published script, accidents included; on a bare letter they agree.
Sources: MMStar ``eval/vlmeval/evaluate/mmstar.py``; OViP and S-VCO ``eval_vlm/llava/eval/*_grader.py``; lmms-eval
``_task_utils/mcq_extract.py`` and ``cv_bench/utils.py``; VLMEvalKit ``utils/matching_util.py``; Cambrian
``eval/eval/*/*_test.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

ANSWER_WITH_LETTER: Final = "Answer with the option's letter from the given choices directly."
"""The instruction of LLaVA, part of several protocols."""

_OVIP_NOISE: Final = re.compile(r"[()\s.]")
_CV_LETTER: Final = re.compile(r"[(\s]*([A-Z])[).\s]*", re.IGNORECASE)
_VLMEVAL_NOISE: Final = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_VLMEVAL_REFUSALS: Final = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_PANDAS_MISSING: Final = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"}
    | {"<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
)
_VLMEVAL_STATED: Final = re.compile(r"answer\s+is\s+\**([A-Z])\b\**", re.IGNORECASE)
"""With "correct" before it or without: only the first such place counts."""
_VLMEVAL_LAST_WORDS: Final = 5
"""The letter must stand in the last four words: index > number of words - 5."""

_LMMS_STEMS: Final = (
    *("answer is", "correct answer is", "best answer is", "correct option is", "best option is"),
    *("choice is", "correct choice is"),
)
_LMMS_PHRASES: Final = (
    *(f"{article}{stem}" for stem in _LMMS_STEMS for article in ("", "the ")),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_LMMS_STRIPPED: Final = ",.!?;:'\""


def mmstar_hit(answer: str, letter: str) -> bool:
    """MMStar's own rule: the answer begins with the letter, alone or behind ``(``, ``option `` or ``the answer is ``.

    Nothing needs to follow the letter: "Apple" is right for A.
    """
    text, letter = answer.lower().strip().replace("\n", " "), letter.lower()
    return text.startswith((letter, f"({letter}", f"option {letter}", f"the answer is {letter}"))


def ovip_hit(answer: str, letter: str) -> bool:
    """OViP on MMStar and Reefknot: brackets, white space and full stops become blanks, then begins with the letter."""
    return _OVIP_NOISE.sub(" ", answer.strip().lower()).strip().startswith(letter.lower())


def ovip_equal(answer: str, label: str, *, first: int | None, keep_stops: bool = False) -> bool:
    """OViP on RealWorldQA and CV-Bench: what is left of the first characters equals the label.

    Args:
        answer: As the model wrote it.
        label: A letter, with or without brackets, or a short text.
        first: Characters that are looked at; None: all.
        keep_stops: CV-Bench does not remove full stops, so "A." fails.
    """
    noise = re.compile(r"[()\s]") if keep_stops else _OVIP_NOISE
    return noise.sub("", answer.strip().lower()[:first]) == noise.sub("", label.strip().lower())


def lmms_letter(answer: str, letters: Sequence[str] = "ABCD") -> str:
    """lmms-eval's shared extractor: the candidate of the most trusted form, the last one among equals; "" for none.

    Trust: at the start, at the end, behind a phrase like "answer is", (A), A., A:, A), A and a blank, anywhere.
    Upper case only.
    """
    if not answer.strip():
        return ""
    text = answer.strip()
    for mark in _LMMS_STRIPPED:  # one mark at a time, as the script does: ".," at the end loses both, ",." only one
        text = text.strip(mark)
    padded = f" {text} "
    stripped = padded.strip()
    found: list[tuple[int, int, str]] = []  # (trust, position, letter)
    for letter in letters:
        for trust, form in (
            (6, f"({letter})"),
            (5, f"{letter}."),
            (4, f"{letter}:"),
            (3, f"{letter})"),
            (2, letter + " "),
        ):
            if form in padded:
                found.append((trust, padded.rfind(form), letter))
        if stripped.startswith(letter) and not stripped[1:2].isalpha():
            found.append((10, 0, letter))
        if stripped.endswith(letter) and not stripped[-2:-1].isalpha():
            found.append((9, len(padded) - 1, letter))
    found += _behind_phrases(padded, letters)
    if not found:
        found = [(0, padded.rfind(letter), letter) for letter in letters if letter in padded]
    # Python's sort is stable and keeps the order of equals under reverse=True: max() takes the first as well
    return max(found, key=lambda candidate: candidate[:2])[2] if found else ""


def _behind_phrases(text: str, letters: Sequence[str]) -> list[tuple[int, int, str]]:
    """For each phrase, the first place of each letter behind its first occurrence."""
    found = []
    lower = text.lower()
    for phrase in _LMMS_PHRASES:
        start = lower.find(phrase)
        if start >= 0:
            places = [(text.find(letter, start + len(phrase)), letter) for letter in letters]
            found += [(7, place, letter) for place, letter in places if place >= 0]
    return found


def lmms_leading_letter(answer: str) -> str:
    """lmms-eval on CV-Bench: any letter at the start, so that "The second" reads as T; "" for none."""
    match = _CV_LETTER.match(answer.strip())
    return match[1].upper() if match else ""


def vlmeval_option(answer: str, options: Mapping[str, str]) -> str:
    """VLMEvalKit's inference without a judge: "Z" for a refusal, "" where it cannot tell.

    Exactly one option letter among the words, and within the last four of them; else the letter of the first "answer
    is X" in the raw answer (since 2026-06-17), if it is an option; else exactly one option whose text the answer
    contains, if the answer is at most twice as long as all options together.
    """
    if "Failed to obtain answer via API" in answer:
        return ""
    if any(refusal in answer for refusal in _VLMEVAL_REFUSALS):
        return "Z"
    words = answer.translate(_VLMEVAL_NOISE).split()
    named = [letter for letter in options if letter in words]
    if len(named) == 1 and words.index(named[0]) > len(words) - _VLMEVAL_LAST_WORDS:
        return named[0]
    if not named and "Z" in words:
        return "Z"
    stated = _VLMEVAL_STATED.search(answer)
    if stated and stated[1].upper() in options:
        return stated[1].upper()
    lower = answer.lower()
    if len(lower) > 2 * sum(len(text) for text in options.values()):
        return ""
    told = [letter for letter, text in options.items() if text.lower() in lower]
    return told[0] if len(told) == 1 else ""


def vlmeval_options(options: Mapping[str, str]) -> dict[str, str]:
    """The options that VLMEvalKit has: pandas reads texts like "nan" and "None" in its TSV as empty cells.

    MMStar fills up to four options with "nan".
    """
    return {letter: text for letter, text in options.items() if text not in _PANDAS_MISSING}


def vlmeval_prompt(question: str, options: Mapping[str, str], hint: str = "") -> str:
    """VLMEvalKit's multiple-choice prompt."""
    lines = [f"Hint: {hint}"] if hint else []
    lines.append(f"Question: {question}")
    if options:
        lines += ["Options:", *(f"{letter}. {text}" for letter, text in options.items())]
        lines.append("Please select the correct answer from the options above. ")
    return "\n".join(lines) + "\n"


def cambrian_tail(answer: str) -> str:
    """Cambrian: what follows "answer is" or "answer:", lower case.

    "The answer is: B" leaves ": b", since the colon belongs to neither: such an answer is wrong.
    """
    text = answer.lower().strip()
    for keyword in ("answer is", "answer is:", "answer:"):
        text = text.split(keyword)[-1]
    return text.strip()


def cambrian_letter(answer: str, stripped: str = ".") -> str:
    """Cambrian on CV-Bench: the first character behind the keyword, trailing marks and brackets removed."""
    return cambrian_tail(answer).rstrip(stripped).lstrip("(").rstrip(")")[:1]


def cambrian_word(answer: str) -> str:
    """Cambrian on RealWorldQA: the first word behind the keyword; "" where the script would stop with an error."""
    words = cambrian_tail(answer).rstrip(".").split()
    return words[0] if words else ""
