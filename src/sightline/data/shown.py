"""A rendered group as a person reads it: the tokens that the model sees, those that are trained marked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sightline.data.picture import picture_size
from sightline.data.schema import relative_to, shorten
from sightline.errors import shortened
from sightline.files import replace_file
from sightline.rendered import ImageInputs, RenderedGroup, RenderedPrompt, RenderedResponse

_CONTEXT = 4
"""Tokens that are decoded before a token: what it writes depends on them (spaces)."""
_LONGEST_CHARACTER = 8
"""Tokens that one character may take."""
_SHORTEST = 40
"""Characters that are left of each stretch of a text that is cut."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Tokens that write whole characters together: nearly always one."""

    text: str
    tokens: int = 1
    trained: bool = False
    special: bool = False
    """A control token."""
    weight: float = 1.0
    """Of a trained token in the loss."""
    picture: int | None = None
    """Place of the picture in ``ShownRow.pictures`` that all these tokens stand for."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A prompt or an answer."""

    title: str
    note: str = ""
    """What else is known of it: its label, its reward, what it is compared with."""
    pieces: tuple[Piece, ...]

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @property
    def trained(self) -> int:
        return sum(piece.tokens for piece in self.pieces if piece.trained)


@dataclass(frozen=True, kw_only=True)
class ShownPicture:
    """A picture beside the tokens that it takes."""

    path: str
    width: int
    height: int
    tokens: int
    """That take a feature of it."""


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """One row as the model sees it."""

    source: str
    """``file:row``."""
    id: str
    pictures: tuple[ShownPicture, ...]
    parts: tuple[Part, ...]
    """Every prompt, then every answer."""
    marks: str = "trained"
    """What marked tokens are: ``trained``, or ``scored`` where a reward is read at the last one."""


def shown_row(rendered: RenderedGroup, tokenizer: Any, *, scores: bool = False) -> ShownRow:
    """
    Args:
        rendered: as it is laid out.
        tokenizer: that made its ids.
        scores: a reward is read at the last token of each answer, and no token is trained to be written.
    """
    group = rendered.group
    pictures = []
    for image in rendered.images:
        height, width = picture_size(image.key)
        pictures.append(ShownPicture(path=image.key, width=width, height=height, tokens=image.num_tokens))
    special = frozenset(tokenizer.all_special_ids) | {
        id for id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    asked = tuple(
        Part(
            title="prompt" if len(rendered.prompts) == 1 else f"prompt {number}",
            note=_names(prompt, rendered.images),
            pieces=_prompt_pieces(prompt, rendered.images, tokenizer, special, scores=scores),
        )
        for number, prompt in enumerate(rendered.prompts, 1)
    )
    answers = tuple(
        Part(title=title, note=note, pieces=_answer_pieces(rendered, index, tokenizer, special, scores=scores))
        for index, (title, note) in enumerate(_named(rendered, index) for index in range(len(rendered.responses)))
    )
    return ShownRow(
        source=group.source,
        id=group.id,
        pictures=tuple(pictures),
        parts=asked + answers,
        marks="scored" if scores else "trained",
    )


def as_text(row: ShownRow, *, most: int = 600) -> str:
    """The row as plain lines: marked tokens between « and », line breaks as ⏎, a picture as ``<image x576>``.

    Args:
        row: to show.
        most: characters of a prompt or an answer, about: what is more goes out of the middle.
    """
    lines = [f"{row.source or row.id}"]
    for number, picture in enumerate(row.pictures, 1):
        name = short_name(picture.path)
        lines.append(f"  picture {number}: {name}, {picture.width} x {picture.height}, {picture.tokens} tokens")
    for part in row.parts:
        told = f", {part.trained} {row.marks}" if part.trained else ""
        note = f" ({part.note})" if part.note else ""
        lines += [f"  {part.title}{note}: {part.tokens} tokens{told}", f"    {_line(part, most)}"]
    return "\n".join(lines)


def write_rows(path: Path, rows: Sequence[ShownRow]) -> None:
    """Keeps rows as JSON; pictures below its folder are named from there, so that it may be moved."""
    kept = [
        replace(row, pictures=tuple(replace(one, path=shorten(one.path, path.parent)) for one in row.pictures))
        for row in rows
    ]
    text = json.dumps([asdict(row) for row in kept], ensure_ascii=False)
    replace_file(path, f"{text}\n", errors="replace")


def read_rows(path: Path) -> list[ShownRow]:
    """What :func:`write_rows` kept."""
    found, resolve = [], relative_to(path.parent)
    for row in json.loads(path.read_text(encoding="utf-8")):
        pictures = tuple(ShownPicture(**one | {"path": resolve(one["path"])}) for one in row.pop("pictures"))
        parts = tuple(
            Part(title=part["title"], note=part["note"], pieces=tuple(Piece(**piece) for piece in part["pieces"]))
            for part in row.pop("parts")
        )
        found.append(ShownRow(pictures=pictures, parts=parts, **row))
    return found


def short_name(path: str) -> str:
    """A file with its folder: where every row has a folder, all files may have one name."""
    return str(Path(*Path(path).parts[-2:]))


def stretches(part: Part) -> list[Piece]:
    """The pieces, those of one kind that follow each other as one."""

    def kind(piece: Piece) -> tuple[bool, float, int | None]:
        return piece.trained, piece.weight, piece.picture

    joined = []
    for (trained, weight, picture), run in itertools.groupby(part.pieces, kind):
        pieces = list(run)
        joined.append(
            Piece(
                text="".join(piece.text for piece in pieces),
                tokens=sum(piece.tokens for piece in pieces),
                trained=trained,
                weight=weight,
                picture=picture,
                special=all(piece.special for piece in pieces),
            )
        )
    return joined


def _line(part: Part, most: int) -> str:
    parts = stretches(part)
    each = max(_SHORTEST, most // max(1, len(parts)))
    texts = []
    for piece in parts:
        text = shortened(piece.text, each).replace("\n", "⏎")
        if piece.trained:
            text = f"«{text}»" if piece.weight == 1 else f"«{text}»×{piece.weight:g}"
        texts.append(text)
    return "".join(texts)


# --- pieces -------------------------------------------------------------------------------------


def _prompt_pieces(
    prompt: RenderedPrompt, images: Sequence[ImageInputs], tokenizer: Any, special: frozenset[int], *, scores: bool
) -> tuple[Piece, ...]:
    trained = [False] * len(prompt.tokens)
    for start, end in () if scores else prompt.trained:
        trained[start:end] = [True] * (end - start)
    pieces: list[Piece] = []
    done = 0
    for start, end, index in [*_pictures(prompt, images), (len(prompt.tokens), len(prompt.tokens), None)]:
        pieces += _pieces(prompt.tokens, done, start, trained, (1.0,) * len(trained), tokenizer, special)
        if index is not None:
            count, whole = images[index].num_tokens, end - start
            others = f" +{whole - count}" if whole > count else ""
            pieces.append(Piece(text=f"<image x{count}{others}>", tokens=whole, picture=index))
        done = end
    return tuple(pieces)


def _pictures(prompt: RenderedPrompt, images: Sequence[ImageInputs]) -> Iterator[tuple[int, int, int | None]]:
    """Start and end of all ids of each picture of a prompt, and its place in ``images``."""
    places = iter(prompt.placeholders)
    for index in prompt.images:
        image = images[index]
        first = next(places)
        for _ in range(image.num_tokens - 1):
            next(places)
        if image.expansion:
            placeholder = prompt.tokens[first]
            first -= image.expansion.index(placeholder)
        yield first, first + (len(image.expansion) or image.num_tokens), index


def _answer_pieces(
    rendered: RenderedGroup, index: int, tokenizer: Any, special: frozenset[int], *, scores: bool
) -> tuple[Piece, ...]:
    response = rendered.responses[index]
    trained = (*(False,) * (len(response.tokens) - 1), True) if scores else response.trained
    weights = _weights(response, rendered.group.responses[index].weights)
    return tuple(_pieces(response.tokens, 0, len(response.tokens), trained, weights, tokenizer, special))


def _weights(response: RenderedResponse, own: Sequence[float] | None) -> Sequence[float]:
    """One weight for each token; what is not trained has 1."""
    if own is None:
        return (1.0,) * len(response.tokens)
    if len(own) == len(response.tokens):
        return [weight if on else 1.0 for weight, on in zip(own, response.trained, strict=True)]
    given = iter(own)
    return [next(given) if on else 1.0 for on in response.trained]


def _pieces(
    ids: Sequence[int],
    start: int,
    stop: int,
    trained: Sequence[bool],
    weights: Sequence[float],
    tokenizer: Any,
    special: frozenset[int],
) -> Iterator[Piece]:
    """The ids of [start, stop) as pieces; those before them say how they are written."""
    for end in range(start + 1, stop + 1):
        before = _decoded(ids[max(0, start - _CONTEXT) : start], tokenizer)
        text = _decoded(ids[max(0, start - _CONTEXT) : end], tokenizer)
        alike = end < stop and (trained[end], weights[end]) == (trained[start], weights[start])
        alike = alike and ids[end] not in special  # an end of turn is no part of a character
        if text.endswith("\ufffd") and alike and end - start < _LONGEST_CHARACTER:
            continue  # a part of a character
        own = text[len(before) :] if text.startswith(before) else _decoded(ids[start:end], tokenizer)
        yield Piece(
            text=own,
            tokens=end - start,
            trained=trained[start],
            special=ids[start] in special,
            weight=weights[start],
        )
        start = end


def _decoded(ids: Sequence[int], tokenizer: Any) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


# --- names --------------------------------------------------------------------------------------


def _names(prompt: RenderedPrompt, images: Sequence[ImageInputs]) -> str:
    return ", ".join(short_name(images[index].key) for index in prompt.images)


def _named(rendered: RenderedGroup, index: int) -> tuple[str, str]:
    """Title and note of an answer."""
    group = rendered.group
    response, edges, title = group.responses[index], group.edges, f"answer {index + 1}"
    notes = [f"to prompt {response.prompt + 1}"] if len(group.prompts) > 1 else []
    if len(group.responses) == 1:
        title = "answer"
    if len(group.responses) == 2 and len(edges) == 1 and edges[0].kind == "text":
        title = "chosen" if edges[0].winner == index else "rejected"
    else:
        over = [f"{edge.loser + 1} ({edge.kind})" for edge in edges if edge.winner == index]
        notes += [f"over answer {', '.join(over)}"] if over else []
    if response.label is not None:
        notes.append("desirable" if response.label else "undesirable")
    if response.reward is not None:
        notes.append(f"reward {response.reward:g}")
    return title, ", ".join(notes)
