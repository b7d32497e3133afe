"""What is timed side by side does the same work: equal losses and equal gradients."""

from importlib.util import find_spec

import pytest
from benchmarks.contenders import BUILDERS
from benchmarks.shapes import SHAPES, build, records
from benchmarks.step import compare, show

TRL = find_spec("trl") is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("model"), SHAPES["quick"])


def test_all_make_the_gradients_of_a_group(folder):
    (row,) = records(folder, SHAPES["quick"], answers=3, count=1)
    kinds = [("plain group", ""), ("group", "tree"), ("group", "rows"), *([("trl group", "")] if TRL else [])]
    found = {}
    for kind, layout in kinds:
        contender = BUILDERS[kind](folder, row, "full", layout)
        loss = contender.gradients()
        parameters = [p for group in contender.optimizer.param_groups for p in group["params"]]
        found[kind, layout] = loss, contender.gradient_norm(), sum(p.grad is not None for p in parameters)
        contender.update()
        assert contender.gradients() == pytest.approx(loss, abs=1e-6)  # on-policy: the ratio is 1 again
        assert contender.gradient_norm() != pytest.approx(found[kind, layout][1], rel=1e-6)  # but the weights moved
    expected = found.pop(("plain group", ""))
    assert expected[0] != 0 and expected[1] > 0.1
    for name, values in found.items():
        assert values[:2] == pytest.approx(expected[:2], rel=1e-5), name
        assert values[2] == expected[2], name


@pytest.mark.oracle
@pytest.mark.skipif(not TRL, reason="trl is not installed (extra: bench)")
def test_trl_makes_the_gradients_of_a_pair(folder):
    (row,) = records(folder, SHAPES["quick"], answers=2, count=1)
    found = []
    for kind, layout in (("pair", "tree"), ("trl pair", "")):
        contender = BUILDERS[kind](folder, row, "full", layout)
        found.append((contender.gradients(), contender.gradient_norm()))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.processes
def test_a_process_of_its_own_steps_and_is_measured(folder, capsys):
    results = compare(folder, SHAPES["quick"], "full", {"tree": ("group", "tree")}, rounds=2, answers=2)
    (tree,) = show("title", results, "tree")["figures"].values()
    assert len(tree["cpu_samples"]) == 2 and min(tree["cpu_samples"]) <= tree["cpu"] <= max(tree["cpu_samples"])
    assert tree["gflops"] > 1 and 20 < tree["memory"] < 4000, tree["memory"]
    assert f"{tree['gradient']:.5f}" in capsys.readouterr().out
