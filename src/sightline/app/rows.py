"""Rows of Group files: as they are stored, and as a model sees them."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sightline.app.folders import Folders
from sightline.app.tiles import tiles
from sightline.data.picture import UNREADABLE
from sightline.data.render import Renderer
from sightline.data.schema import group_from_json, group_of_line, group_to_json, relative_to
from sightline.data.shown import shown_row
from sightline.errors import DataError, shortened
from sightline.report.fragments import fragment, shown
from sightline.report.gallery import gallery_of
from sightline.report.page import Detail, GalleryItem
from sightline.types import Group

_KEPT: Final = 8
"""Files whose places are remembered."""
_LONGEST: Final = 20_000
"""Characters of a row as JSON that are shown."""


@dataclass(frozen=True, kw_only=True)
class GroupFile:
    """A Group file, a row of which is read without the others."""

    path: Path
    places: Sequence[int]
    """Where the lines that are not blank begin, in bytes."""
    numbers: Sequence[int]
    """Their numbers, counted from 1."""

    def __len__(self) -> int:
        return len(self.places)

    def group(self, row: int) -> Group:
        """Row number ``row``, counted from 1.

        Raises:
            DataError: there is none, or it is no Group.
        """
        if not 1 <= row <= len(self):
            raise DataError(f"has {len(self)} rows, and number {row} was asked", source=str(self.path))
        source = f"{self.path}:{self.numbers[row - 1]}"
        return group_of_line(self._line(row), source, relative_to(self.path.parent))

    def find(self, text: str, after: int) -> int | None:
        """The next row behind ``after`` that holds a text, from the beginning again where the end is reached; case
        does not count."""
        wanted = json.dumps(text, ensure_ascii=False)[1:-1].casefold()
        order = [*range(after + 1, len(self) + 1), *range(1, after + 1)]
        return next((row for row in order if wanted in self._line(row).decode("utf-8", "replace").casefold()), None)

    def _line(self, row: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.places[row - 1])
            return file.readline()


def index_file(path: Path) -> GroupFile:
    """Finds the rows of a file. A last line without its end is passed over: it is being written."""
    places, numbers, place = list[int](), list[int](), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip() and (line.endswith(b"\n") or _is_whole(line)):
                places.append(place)
                numbers.append(number)
            place += len(line)
    return GroupFile(path=path, places=places, numbers=numbers)


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@dataclass(kw_only=True)
class Shelf:
    """Group files that were looked at, found again as long as they have not changed."""

    folders: Folders
    _files: OrderedDict[tuple[Path, int, int], GroupFile] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def file(self, name: str) -> GroupFile:
        """
        Raises:
            DataError: outside of the folders, or it cannot be read.
        """
        path = self.folders.inside(name)
        try:
            with self._lock:
                return self._indexed(path)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", source=name, remedy="Look for files again") from error

    def _indexed(self, path: Path) -> GroupFile:
        found = path.stat()
        key = path, found.st_mtime_ns, found.st_size
        if key not in self._files:
            self._files[key] = index_file(path)
            while len(self._files) > _KEPT:
                self._files.popitem(last=False)
        self._files.move_to_end(key)
        return self._files[key]


def check_pictures(group: Group, folders: Folders) -> None:
    """
    Raises:
        DataError: a picture of the group lies outside of the folders, is not there, or cannot be read.
    """
    for prompt in group.prompts:
        for image in prompt.images:
            check_picture(image, folders, group.source)


def check_picture(image: str, folders: Folders, source: str = "") -> None:
    """
    Raises:
        DataError: as :func:`check_pictures`.
    """
    if not folders.inside(image).is_file():
        raise DataError(f"picture {image} is not there", source=source, remedy="Put the file there")
    try:
        shown(image)
    except UNREADABLE as error:
        found = f"picture {image} cannot be read ({error})"
        raise DataError(found, source=source, remedy="Restore the file, or leave the row out") from error


def viewed(images: Sequence[str], folders: Folders) -> tuple[list[str], list[str]]:
    """The pictures that can be shown, and why the others cannot."""
    there, why = list[str](), list[str]()
    for image in images:
        try:
            check_picture(image, folders)
            there.append(image)
        except DataError as error:
            why.append(str(error))
    return there, why


def stored_html(group: Group, folders: Folders) -> str:
    """A row as the file holds it: pictures, questions, answers with their places, all of it as JSON."""
    notes = [" · ".join(filter(None, (group.source, f"id {group.id}")))]
    bad = viewed([image for prompt in group.prompts for image in prompt.images], folders)[1]
    items = [item for prompt in range(len(group.prompts)) for item in _items(group, prompt, folders)]
    whole = json.dumps(group_to_json(group), ensure_ascii=False, indent=1)
    return fragment(
        bad=bad, notes=notes, gallery=items, details=[Detail(title="As JSON", text=shortened(whole, _LONGEST))]
    )


def _items(group: Group, prompt: int, folders: Folders) -> list[GalleryItem]:
    """One prompt of the group with its answers."""
    own = [place for place, response in enumerate(group.responses) if response.prompt == prompt]
    moved = {place: index for index, place in enumerate(own)}
    row = group_to_json(group)
    alone = {
        "prompts": [row["prompts"][prompt]],
        "responses": [row["responses"][place] | {"prompt": 0} for place in own],
        "edges": [
            edge | {"winner": moved[edge["winner"]], "loser": moved[edge["loser"]]}
            for edge in row.get("edges", ())
            if edge["winner"] in moved and edge["loser"] in moved
        ],
    }
    (item,) = gallery_of([group_from_json(alone)])
    return [kept(item, folders)]


def kept(item: GalleryItem, folders: Folders) -> GalleryItem:
    """The item without the pictures that cannot be shown."""
    return replace(item, images=viewed(list(map(str, item.images)), folders)[0])


def seen_html(group: Group, folders: Folders, renderer: Renderer) -> str:
    """A row as the model sees it: rendered text with its pictures in place, trained tokens marked, the tiles.

    Raises:
        DataError: it cannot be rendered, or a picture lies outside of the folders.
    """
    check_pictures(group, folders)
    rendered = renderer.render(group)
    thumbs = []
    for number, image in enumerate(rendered.images, 1):
        shapes = ", ".join(f"{key} {' × '.join(map(str, tensor.shape))}" for key, tensor in image.tensors.items())
        title = f"Picture {number} as the tower gets it: {image.num_tokens} tokens ({shapes})"
        thumbs.append((title, tiles(image, renderer.processor.image_processor)))
    return fragment(rows=[shown_row(rendered, renderer.tokenizer)], thumbs=thumbs)
