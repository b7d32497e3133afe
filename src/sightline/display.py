"""Groups and figures for people: in a line, and as HTML that holds all it shows, for notebooks and pages."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence, Set
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.pixels import upright

if TYPE_CHECKING:
    from PIL import Image

WIDE = 4096
"""Columns of a table where there is no terminal: more than any has, so that each of its rows is a line."""
_LARGEST = 384
"""Longest side of a picture in a page, in pixels."""
_IN_LINE, _IN_PAGE = 8, 32
"""Answers of a Group that are shown; the others are counted."""
_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0"


def embed(image: Path | str | Image.Image) -> str:
    """A picture as models see it, as a data URI of at most 384 pixels: PNG for drawings, JPEG for photographs."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return _encode(image, "PNG")
    with Image.open(image) as opened:
        return _encode(opened, opened.format or "PNG")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", notes: Sequence[str] = ()) -> str:
    """A table of texts under a title, with notes below. Texts are escaped."""
    top = "".join(f'<th style="{_CELL}">{escape(name)}</th>' for name in head)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    first = f"<strong>{escape(title)}</strong>" if title else ""
    below = "".join(f"<p><small>{escape(note)}</small></p>" for note in notes)
    return f"<div>{first}<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{below}</div>"


def group_line(group: Any) -> str:
    """A Group in a line: what is asked and answered, rewards and preferences."""
    asked = tuple(_short(prompt.question, 60) for prompt in group.prompts)
    parts = [f"{group.id!r}", f"asked {asked[0] if len(asked) == 1 else asked!r}"]
    if pictures := len({image for prompt in group.prompts for image in prompt.images}):
        parts.append(f"{pictures} picture{'s' if pictures > 1 else ''}")
    if group.responses:
        parts.append(f"answers {tuple(_short(text, 60) for text in group.texts[:_IN_LINE])!r}{_more(group.responses)}")
    if rewards := [one.reward for one in group.responses if one.reward is not None]:
        parts.append(f"rewards {', '.join(map(_number, rewards[:_IN_LINE]))}{_more(rewards)}")
    if group.edges:
        told = ", ".join(f"{edge.winner} > {edge.loser}" for edge in group.edges[:_IN_LINE])
        parts.append(f"preferred {told}{_more(group.edges)}")
    return f"Group({'; '.join(parts)})"


def _more(some: Sequence[Any], most: int = _IN_LINE, what: str = "") -> str:
    return f" ... {len(some) - most} more{what}" if len(some) > most else ""


def group_html(group: Any) -> str:
    """Each question of a Group with its pictures, and beside them its answers with their place in the preferences,
    their reward and its parts."""
    won, lost = ({vars(edge)[end] for edge in group.edges} for end in ("winner", "loser"))
    roles = {place: " and ".join(_roles(place, won, lost)) for place in range(len(group.responses))}
    names = sorted({name for response in group.responses for name in response.rewards})
    judged = any(response.reward is not None for response in group.responses)
    head = [*([""] if group.edges else []), "answer", *(["reward"] if judged else []), *names]
    shown = []
    for index, prompt in enumerate(group.prompts):
        rows = [
            [
                *([roles[place]] if group.edges else []),
                one.text,
                *([_number(one.reward)] if judged else []),
                *(_number(one.rewards.get(name)) for name in names),
            ]
            for place, one in enumerate(group.responses)
            if one.prompt == index
        ]
        notes = [left] if (left := _more(rows, _IN_PAGE, " answers")) else []
        answers = table(head, rows[:_IN_PAGE], notes=notes) if rows else ""
        pictures = "".join(map(_picture, prompt.images))
        left = f'<div style="flex:0 0 auto">{pictures}</div>' if pictures else ""
        right = f'<div style="flex:1 1 18em"><strong>{escape(prompt.question)}</strong>{answers}</div>'
        shown.append(f'<div style="display:flex;flex-wrap:wrap;gap:12px">{left}{right}</div>')
    return "".join(shown)


def _roles(place: int, won: Set[int], lost: Set[int]) -> list[str]:
    return [role for role, some in (("chosen", won), ("rejected", lost)) if place in some]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """A small line chart of (x, y), with its first and its last value; empty where there are not two points."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if len(finite) < 2:
        return ""
    (left, right), values = (finite[0][0], finite[-1][0]), [y for _, y in finite]
    low, high = min(values), max(values)
    width, height = right - left or 1.0, high - low or 1.0
    drawn = " ".join(f"{236 * (x - left) / width + 2:.1f},{56 - 52 * (y - low) / height:.1f}" for x, y in finite)
    label = f"{title} {values[0]:.3g} to {values[-1]:.3g}, steps {left:g} to {right:g}"
    line = f'<polyline points="{drawn}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    shape = f'<svg viewBox="0 0 240 60" width="240" height="60" role="img" aria-label="{escape(label, quote=True)}">'
    return f"<div>{shape}{line}</svg><br><small>{escape(label)}</small></div>"


def _picture(path: str) -> str:
    try:
        address = embed(path)
    except (OSError, ValueError, SyntaxError):
        return f"<code>{escape(path)}</code>"
    return f'<img src="{address}" alt="{escape(path, quote=True)}" style="max-width:180px;display:block;margin:2px 0">'


def _encode(image: Image.Image, made_as: str) -> str:
    kind = "JPEG" if made_as == "JPEG" else "PNG"
    small = upright(image)
    small.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    small.save(buffer, kind, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
