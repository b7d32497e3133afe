"""Groups as items of a gallery: each answer with its reward, and its place in the comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sightline.report.page import Answer, GalleryItem
from sightline.types import Group


def gallery_of(groups: Iterable[Group]) -> list[GalleryItem]:
    """Sampled or preference groups as gallery items: each answer with its reward and its place in the edges. What was
    said several times stands once."""
    items = []
    for group in groups:
        prompt = group.prompts[0]
        won = {edge.winner for edge in group.edges}
        lost = {edge.loser for edge in group.edges}
        said: dict[tuple[str, str, str], list[int]] = {}
        for index, response in enumerate(group.responses):
            roles = [name for name, members in (("chosen", won), ("rejected", lost)) if index in members]
            note = "" if response.reward is None else f"reward {response.reward:.3g}"
            said.setdefault((" and ".join(roles), response.text, note), []).append(index + 1)
        answers = [
            Answer(title=_title(role, places), text=text, note=note) for (role, text, note), places in said.items()
        ]
        images = [image for image in prompt.images if Path(image).is_file()]
        items.append(GalleryItem(images=images, question=prompt.question, answers=answers))
    return items


def _title(role: str, places: Sequence[int]) -> str:
    """``chosen``, ``chosen, 2 times``, ``answer 3``, ``answers 1, 4``."""
    if role:
        return role if len(places) == 1 else f"{role}, {len(places)} times"
    return f"answer{'s' if len(places) > 1 else ''} {', '.join(map(str, places))}"
