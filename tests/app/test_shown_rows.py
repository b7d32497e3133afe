"""Rows of files: found, shown as stored and as a model sees them, and nothing outside of the folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.app.desk import Desk
from sightline.app.folders import Folders, has_choice
from sightline.app.labels import open_labels
from sightline.app.rows import Shelf, index_file, seen_html, stored_html
from sightline.app.tab_label import board_html
from sightline.app.tiles import tiles
from sightline.data.render import Renderer
from sightline.data.schema import read_groups, write_groups
from sightline.errors import DataError, RecipeError
from sightline.models.load import read_sides
from sightline.recipes.schema import ModelSpec
from sightline.types import Edge, Group, Prompt, Response

pytest.importorskip("gradio", reason="the extra app (gradio) is absent")


def group(name: str, picture: str, *, compared: bool = True) -> Group:
    content = [{"type": "image"}, {"type": "text", "text": f"What is in {name}?"}]
    prompt = Prompt(id=name, messages=({"role": "user", "content": content},), images=(picture,))
    edges = (Edge(winner=0, loser=1),) if compared else ()
    answers = (Response(text="a red circle"), Response(text="a blue ✓ square"))
    return Group(prompts=(prompt,), responses=answers, edges=edges)


@pytest.fixture
def root(tmp_path: Path, pictures: list[str]) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    for number in (0, 5):
        (root / f"{number}.png").write_bytes(Path(pictures[number]).read_bytes())
    write_groups(root / "pairs.jsonl", [group(f"q{n}", str(root / f"{n % 2 * 5}.png")) for n in range(5)])
    write_groups(root / "a/sampled.jsonl", [group("s", str(root / "0.png"), compared=False)])
    (root / "metrics.jsonl").write_text('{"step": 1}\n')
    (root / "rows.jsonl").write_text('{"prompt": "x", "chosen": "y", "rejected": "z"}\n')
    (root / "spaced.jsonl").write_text('\n{ "source": "x", "prompts": [{"id": "a", "messages": []}]}\n')
    (root / "other.html").write_text("<title>Data check: mine</title>")
    return root


def renderer(folder: Path) -> Renderer:
    _, family, processor = read_sides(ModelSpec(path=str(folder)))
    return Renderer(processor, family)


def test_files_are_told_apart_by_what_they_hold(root: Path) -> None:
    folders = Folders.of([root])
    found = folders.look()
    assert [folders.name_of(path) for path in found.groups] == ["a/sampled.jsonl", "pairs.jsonl", "spaced.jsonl"]
    assert found.checks == found.pages == found.runs == found.results == () and found.whole
    assert has_choice(root / "a/sampled.jsonl") and not has_choice(root / "pairs.jsonl")
    assert not has_choice(root / "0.png") and not has_choice(root)


def test_nothing_outside_is_found_or_read(root: Path, tmp_path: Path) -> None:
    write_groups(tmp_path / "outside.jsonl", [group("secret", str(root / "0.png"))])
    (root / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    (root / "inner.jsonl").symlink_to(root / "pairs.jsonl")
    folders = Folders.of([root])
    names = [path.name for path in folders.look().groups]
    assert "link.jsonl" not in names and "inner.jsonl" in names
    shelf = Shelf(folders=folders)
    for path in (tmp_path / "outside.jsonl", root / "link.jsonl", root / "../outside.jsonl", f"{root}/\0", f"{root}x"):
        with pytest.raises(DataError, match="outside of the folders"):
            shelf.file(str(path))
    with pytest.raises(RecipeError, match="is no folder"):
        Folders.of([root / "pairs.jsonl"])
    both = Folders.of([root, tmp_path / "root/a"])
    assert both.name_of(root / "pairs.jsonl") == "root/pairs.jsonl"


def test_rows_are_read_by_their_place_and_found_by_their_text(root: Path) -> None:
    path = root / "pairs.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n\n", 2) + b'{"prompts": [{"id": "half')
    whole = Shelf(folders=Folders.of([root])).file(str(path))
    assert len(whole) == 5 and [whole.group(row).id for row in range(1, 6)] == [f"q{n}" for n in range(5)]
    assert whole.find("IN Q3", 1) == 4 and whole.find("in q3", 4) == 4 and whole.find("✓", 4) == 5
    assert whole.find("nowhere", 1) is None
    with pytest.raises(DataError, match="has 5 rows, and number 6"):
        whole.group(6)
    before = index_file(path)
    path.write_bytes(path.read_bytes().removesuffix(b'{"prompts": [{"id": "half'))
    assert len(before) == len(index_file(path)) == 5
    path.write_bytes(path.read_bytes() + b'{"nonsense": 1}\n')
    with pytest.raises(DataError, match="no Group but a row with nonsense"):
        Shelf(folders=Folders.of([root])).file(str(path)).group(6)


def test_a_row_is_shown_as_stored(root: Path) -> None:
    folders = Folders.of([root])
    first = next(iter(read_groups(root / "pairs.jsonl")))
    html = stored_html(first, folders)
    assert "What is in q0?" in html and html.index("chosen") < html.index("rejected") and "data:image/png" in html
    assert json.dumps("a blue ✓ square", ensure_ascii=False)[1:-1] in html
    elsewhere = stored_html(first, Folders.of([root / "a"]))
    assert "outside of the folders of the app" in elsewhere and "data:image" not in elsewhere


def test_a_picture_that_cannot_be_shown_is_told_and_the_rest_of_the_row_stands(root: Path) -> None:
    folders, (first, second, *_) = Folders.of([root]), list(read_groups(root / "pairs.jsonl"))
    whole = (root / "0.png").read_bytes()
    for content, why in ((b"", "cannot be read"), (whole[:-60], "cannot be read"), (None, "is not there")):
        (root / "0.png").unlink()
        if content is not None:
            (root / "0.png").write_bytes(content)
        html = stored_html(first, folders)
        assert why in html and "What is in q0?" in html and "data:image" not in html
        assert why not in stored_html(second, folders)
        desk = Desk(folders=folders, speakers=(), scratch=root / "scratch")
        labels = open_labels(root / "pairs.jsonl", root / "labels.jsonl")
        board = board_html(desk, labels, labels.now())
        assert why in board and "data:image" not in board, "who labels knows that there is a picture to be seen"


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_a_row_is_shown_as_the_model_sees_it(root: Path, tiny: dict[str, Path], family: str) -> None:
    folders, made = Folders.of([root]), renderer(tiny[family])
    (*_, last) = read_groups(root / "pairs.jsonl")
    html = seen_html(last, folders, made)
    image = made.image(last.prompts[0].images[0])
    shown = tiles(image, made.processor.image_processor)
    assert html.count("data:image/png") == 1 + len(shown) and f"{image.num_tokens} tokens" in html
    assert 'class="on' in html and "as the tower gets it" in html
    with pytest.raises(DataError, match="outside of the folders"):
        seen_html(last, Folders.of([root / "a"]), made)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_tiles_are_the_picture_as_it_was_resized(pictures: list[str], tiny: dict[str, Path], family: str) -> None:
    made = renderer(tiny[family])
    shown = tiles(made.image(pictures[3]), made.processor.image_processor)
    assert len(shown) == 1
    with Image.open(pictures[3]) as opened:
        picture = opened.convert("RGB")
    if family == "llava":  # the shorter side first, then the middle
        side = shown[0].width
        picture = picture.resize((side, side * picture.height // picture.width), Image.Resampling.BICUBIC)
        top = (picture.height - side) // 2
        picture = picture.crop((0, top, side, top + side))
    resized = picture.resize(shown[0].size, Image.Resampling.BICUBIC)
    apart = np.abs(np.asarray(shown[0], dtype=int) - np.asarray(resized, dtype=int))
    assert apart.mean() < 2, "a patch in another place would be far away"


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    os.mkfifo(tmp_path / "page.html")
    assert Folders.of([tmp_path]).look().groups == ()
