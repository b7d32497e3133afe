"""Rubrics: what a judge is told, as template files.

A file has parts headed by a line ``--- system`` or ``--- user``; without any it is one user message. ``{{name}}``
is replaced by the value of that name, everything else (braces of JSON, dollars) stands for itself. The rubrics
of the package are worded by us; for figures that compare with published ones give the original wording as a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from sightline.errors import DataError

_PART = re.compile(r"^--- (system|user)[ \t]*\n", re.MULTILINE)
_JUDGED = ("answer", "premise", "hypothesis", "original", "claims")
"""How the fields begin that a template must name."""
_FIELD = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """A template of the messages to a judge."""

    source: str
    """The file it came from: part of every result."""
    parts: tuple[tuple[str, str], ...]
    """(role, text) in order."""

    @property
    def fields(self) -> frozenset[str]:
        """Names that ``messages`` must be given."""
        return frozenset(name for _, text in self.parts for name in _FIELD.findall(text))

    def messages(self, values: Mapping[str, str]) -> list[dict[str, str]]:
        """The messages with every field filled in; values are not read for fields again.

        Raises:
            DataError: The template names a field that has no value.
        """
        unknown = sorted(self.fields - set(values))
        if unknown:
            raise DataError(
                f"the template names {', '.join(unknown)}",
                source=self.source,
                remedy=f"It may name {', '.join(sorted(values))}",
            )
        return [
            {"role": role, "content": _FIELD.sub(lambda match: values[match[1]], text)} for role, text in self.parts
        ]


def load_rubric(name: str, path: object = None) -> Rubric:
    """A rubric of the package, or the user's own file in its place.

    Args:
        name: ``mmhal``, ``llava_bench``, ``object_halbench``, ``mm_instruct``.
        path: A template file, as an option names it; None: the package's own wording.

    Raises:
        DataError: The file is missing, empty or no text, or does not show the judge what it is to judge.
    """
    inside = resources.files("sightline.evaluation").joinpath("rubrics", f"{name}.txt").read_text(encoding="utf-8")
    ours = _parse(inside, f"sightline:{name}.txt")
    if path is None:
        return ours
    if not isinstance(path, str | Path):
        raise DataError(f"template is {path!r}", source=name, remedy="Give the path of a template file")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", source=str(path), remedy="Correct the path") from error
    except UnicodeDecodeError as error:
        raise DataError("is no UTF-8 text", source=str(path), remedy="Save the template as UTF-8") from error
    rubric = _parse(text, str(path))
    missing = sorted({field for field in ours.fields if field.startswith(_JUDGED)} - rubric.fields)
    if missing:
        fields = ", ".join(f"{{{{{field}}}}}" for field in missing)
        known = ", ".join(f"{{{{{field}}}}}" for field in sorted(ours.fields))
        raise DataError(
            f"the template does not name {fields}: the judge would not see what it judges",
            source=str(path),
            remedy=f"Write {fields} where it is to stand. The package's own names {known}",
        )
    return rubric


def _parse(text: str, source: str) -> Rubric:
    cut = _PART.split(text)
    if cut[0].strip() and len(cut) > 1:
        raise DataError("text stands before the first part", source=source, remedy="Begin with '--- system'")
    pairs = list(zip(cut[1::2], cut[2::2], strict=True)) or [("user", text)]
    parts = tuple((role, body.strip("\n")) for role, body in pairs)
    if not any(body.strip() for _, body in parts):
        raise DataError("the template is empty", source=source, remedy="Write what the judge is told")
    return Rubric(source=source, parts=parts)
