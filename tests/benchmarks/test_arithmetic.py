"""FLOPs on paper, against sums by hand and against torch's counter."""

import pytest
from benchmarks.arithmetic import LLAVA, QWEN, Architecture, Work, limits, of_shape, rows_flops, tree_flops
from benchmarks.contenders import BUILDERS
from benchmarks.shapes import SHAPES, build, records
from benchmarks.step import flops


def test_flops_of_a_group_by_hand():
    model, work = (
        Architecture(body=100, head=10, vision=5, width=2),
        Work(image=4, question=2, answers=3, length=2),
    )
    # a row: 4 x 5 (vision) + 8 x 100 (decoder) + 2 x 10 (head) weights, 2 FLOPs each; 8 x 8 / 2 entries of 4 x 2 FLOPs
    assert rows_flops(model, work) == 3 * (2 * 840 + 8 * 32)
    assert rows_flops(model, work, head_everywhere=True) == 3 * (2 * 900 + 8 * 32)
    # the tree: 20 + 12 x 100 + 6 x 10; the prompt's 18 entries, and 6 answer tokens that see 6 and on average 1 more
    assert tree_flops(model, work) == 2 * 1280 + 8 * (18 + 6 * 7)


def test_sizes_are_those_of_the_models():
    assert LLAVA.body + 2 * LLAVA.head == pytest.approx(6.74e9, rel=0.01)  # Vicuna-7B with both embeddings
    assert QWEN.body + 2 * QWEN.head == pytest.approx(7.62e9, rel=0.01)  # Qwen2.5-7B
    assert QWEN.vision / 4 == pytest.approx(0.65e9, rel=0.05)


def test_limits_stand_as_the_page_says():
    assert limits(LLAVA, Work(length=60)) == pytest.approx((5.1, 5.0), abs=0.05)
    assert limits(LLAVA, Work()) == pytest.approx((3.8, 3.8), abs=0.05)
    assert limits(QWEN, Work(image=4000)) == pytest.approx((7.2, 6.8), abs=0.05)


def test_paper_and_counter_agree(tmp_path):
    """The counter takes masked entries of attention as work, so it stands a little above the paper."""
    shape = SHAPES["quick"]
    folder = build(tmp_path, shape)
    (row,) = records(folder, shape, answers=3, count=1)
    work = Work(image=64, question=60, answers=3, length=143)
    for layout, paper in (("tree", tree_flops), ("rows", rows_flops)):
        counted = flops(BUILDERS["group"](folder, row, "full", layout).gradients)
        assert 1 < counted / (3 * paper(of_shape(shape), work)) < 1.2, layout
