import json

import pytest

from sightline.scenes.scene import BACKGROUND, COLOURS, SHAPES, Scene, SceneObject

HEART = SceneObject(shape="heart", colour="red", size="large", row=0, column=2, shift=(0.05, -0.03))
RING = SceneObject(shape="ring", colour="blue", size="small", row=2, column=0)
SCENE = Scene(id="a", objects=(HEART, RING))


def middle(row, column, pixels=96, grid=3):
    cell = pixels // grid
    return (column * cell + cell // 2, row * cell + cell // 2)


def test_facts_survive_json():
    assert Scene.from_facts(json.loads(json.dumps(SCENE.facts()))) == SCENE


def test_an_object_is_drawn_in_its_colour_in_its_cell_and_nowhere_else():
    image = Scene(id="a", objects=(HEART,)).draw()
    assert image.size == (96, 96)
    assert image.getpixel(middle(0, 2)) == COLOURS["red"]
    painted = [(x, y) for x in range(96) for y in range(96) if image.getpixel((x, y)) != BACKGROUND]
    assert all(x >= 64 and y < 32 for x, y in painted)


def test_a_ring_has_a_hole():
    image = SCENE.draw()
    assert image.getpixel(middle(2, 0)) == BACKGROUND
    assert COLOURS["blue"] in {image.getpixel((x, 80)) for x in range(32)}


def test_every_shape_colour_and_size_looks_different():
    pictures = {
        Scene(id="a", objects=(SceneObject(shape=s, colour=c, size=z, row=1, column=1),)).draw().tobytes()
        for s in SHAPES
        for c in COLOURS
        for z in ("small", "large")
    }
    assert len(pictures) == len(SHAPES) * len(COLOURS) * 2


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_large_shape_stays_in_its_cell(shape):
    for shift in ((0.06, 0.06), (-0.06, -0.06)):
        item = SceneObject(shape=shape, colour="black", size="large", row=1, column=1, shift=shift)
        image = Scene(id="a", objects=(item,)).draw()
        rim = [image.getpixel(p) for k in range(31, 65) for p in ((31, k), (64, k), (k, 31), (k, 64))]
        assert set(rim) == {BACKGROUND}


def test_the_signature_ignores_order_and_shift_but_nothing_else():
    moved = SceneObject(shape="heart", colour="red", size="large", row=0, column=2)
    assert Scene(id="b", objects=(RING, moved)).signature == SCENE.signature
    small = SceneObject(shape="heart", colour="red", size="small", row=0, column=2)
    assert Scene(id="b", objects=(RING, small)).signature != SCENE.signature
