"""How yes or no is read out of an answer: each evaluation suite has its own rule, accidents included.

On the bare words "Yes" and "No" all agree. Sources: POPE ``evaluate.py`` (identical in LLaVA and LLaVA-RLHF);
lmms-eval ``tasks/pope/utils.py``; VLMEvalKit ``dataset/utils/yorn.py``; Cambrian ``eval/eval/pope/pope_test.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_WITH_COMMA: Final = re.compile(r"\d,\d")
_STOP: Final = re.compile(r"\.(?!\d)")
_STOPS_REMOVED: Final = 32
"""The original passes ``re.UNICODE``, which is 32, where ``re.sub`` takes the number of replacements."""


def pope_yes(answer: str) -> bool:
    """POPE's own rule: no, if ``No``, ``no`` or ``not`` is a word of the first sentence; anything else is yes.

    The sentence ends at the first full stop, commas are deleted, words are what stands between single blanks. So
    "NO", "No!", "nope", "isn't" and the empty answer are yes, and "Yes, no doubt" is no.
    """
    words = answer.split(".", 1)[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def lmms_word(answer: str) -> str:
    """lmms-eval: the whole answer in lower case, stripped; it must equal the label."""
    return answer.lower().strip()


def cambrian_word(answer: str) -> str:
    """Cambrian: the first word in lower case without ``.``, ``:`` and ``,`` at its end; "" for an empty answer.

    (The original script stops at an empty answer.)
    """
    words = answer.lower().split(maxsplit=1)
    return words[0].rstrip(".:,") if words else ""


def vlmeval_yes_no(answer: str) -> str:
    """VLMEvalKit: ``yes`` or ``no`` if exactly one of the two is among the words, otherwise ``unknown``."""
    words = set(strip_punctuation(answer.lower()).split()) & {"yes", "no"}
    return words.pop() if len(words) == 1 else "unknown"


def strip_punctuation(text: str) -> str:
    """The VQA processor's punctuation rule, as VLMEvalKit uses it.

    A mark that touches a blank anywhere in the text (or any mark, if a digit-comma-digit stands in it) is deleted,
    otherwise replaced by a blank; then the first 32 full stops that no digit follows are deleted.
    """
    has_number = _NUMBER_WITH_COMMA.search(text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        deleted = has_number or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if deleted else " ")
    return _STOP.sub("", cleaned, count=_STOPS_REMOVED)


def yes_no_counts(*, says_yes: bool, says_no: bool, label_yes: bool) -> dict[str, float]:
    """One answer's cells of the confusion table, yes being positive: ``tp fp tn fn`` and ``said_yes``.

    An answer that says neither is wrong: it is in no cell.
    """
    return {
        "tp": float(says_yes and label_yes),
        "fp": float(says_yes and not label_yes),
        "tn": float(says_no and not label_yes),
        "fn": float(says_no and label_yes),
        "said_yes": float(says_yes),
        "label_yes": float(label_yes),
    }


def yes_no_figures(sums: Mapping[str, float], answers: int) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and yes ratio from summed cells, as fractions; 0 where one is not defined.

    Recall divides by the cells ``tp`` and ``fn``, so answers that say neither are not in it.
    """
    tp, fp, fn = sums["tp"], sums["fp"], sums["fn"]
    precision = tp / (tp + fp) if tp + fp else 0.0
    recall = tp / (tp + fn) if tp + fn else 0.0
    return {
        "accuracy": (tp + sums["tn"]) / answers if answers else 0.0,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_ratio": sums["said_yes"] / answers if answers else 0.0,
    }
