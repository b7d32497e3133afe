import json

import pytest
import torch

from sightline.train.metrics import Meter, MetricsFile, figures_of, read_metrics
from sightline.types import Stat


class Ranks:
    """Stands for a run whose other ranks hold these states."""

    def __init__(self, *others):
        self.others = others

    def gather_objects(self, value):
        return [value, *self.others]


def stat(total, count):
    return Stat(sum=torch.tensor(total), count=count)


def test_a_mean_is_over_all_units_not_over_means():
    meter = Meter(torch.device("cpu"))
    meter.add({"accuracy": stat(3.0, 3)})
    meter.add({"accuracy": stat(0.0, 1)})
    figures = meter.reduce(Ranks({"accuracy": (1.0, 4.0, "mean"), "only there": (6.0, 2.0, "mean")}))
    assert figures == {"accuracy": 0.5, "only there": 3.0}  # a mean of means would give (1 + 0 + 1/4) / 3
    assert meter.reduce(Ranks()) == {}


def test_what_was_never_counted_is_left_out():
    meter = Meter(torch.device("cpu"))
    meter.add({"rewards/accuracies/image": stat(0.0, 0)})
    assert meter.reduce(Ranks()) == {}


def test_an_open_meter_survives_a_checkpoint():
    meter, again = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    meter.add({"x": stat(0.1, 2)})
    again.load_state(json.loads(json.dumps(meter.state())))
    for one in (meter, again):
        one.add({"x": stat(0.7, 1)})
    assert again.reduce(Ranks()) == meter.reduce(Ranks()) == {"x": pytest.approx(0.8 / 3)}


def test_lines_after_the_checkpoint_are_dropped_and_half_lines_too(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.drop_after(3)  # no file yet
    for step in range(1, 6):
        file.write({"step": step, "loss": step / 2})
    with file.path.open("a") as out:
        out.write('{"step": 6, "lo')
    file.drop_after(3)
    file.write({"step": 4, "loss": 9.0})
    assert read_metrics(file.path) == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 1.0},
        {"step": 3, "loss": 1.5},
        {"step": 4, "loss": 9.0},
    ]


def test_a_run_that_was_killed_while_it_wrote_can_be_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.5}]


def test_progress_shows_the_figures_that_matter():
    record = {"step": 3, "loss": 2.5, "rewards/accuracies": 0.75, "grad_norm": 9.0}
    assert figures_of(record) == "loss 2.500  accuracy 0.750"
    assert figures_of({"step": 3, "bench/pope/f1": 0.5}) == ""


def test_extremes_are_kept_over_steps_ranks_and_a_checkpoint():
    def extremes(most, least):
        return {
            "gap": Stat(sum=torch.tensor(most), count=2, kind="max"),
            "low": Stat(sum=torch.tensor(least), count=1, kind="min"),
        }

    meter, again = Meter(torch.device("cpu")), Meter(torch.device("cpu"))
    meter.add(extremes(3.0, -1.0))
    again.load_state(json.loads(json.dumps(meter.state())))
    again.add(extremes(2.0, 4.0))
    assert again.reduce(Ranks({"gap": (5.0, 1.0, "max")})) == {"gap": 5.0, "low": -1.0}
