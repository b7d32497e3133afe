"""Reference by adapter = frozen copy = cache; a stale number is never used."""

from dataclasses import replace

import pytest
import torch
import train_runs
from safetensors.torch import load_file

from sightline.data.render import Renderer
from sightline.errors import CheckpointError, DataError, UnsupportedError
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.train.columns import CachedReference, Columns, fill_cache, fingerprint_weights, scored
from sightline.train.loop import train
from sightline.train.session import open_session


def run(tiny, folder, reference, **options):
    spec = train_runs.lora(tiny["llava"])
    recipe = train_runs.recipe(tiny["llava"], folder, responses=2, model=spec, reference=reference, **options)
    train(recipe, quiet=True)
    return train_runs.losses(folder / "run")


def test_adapter_copy_and_cache_give_the_same_run(tiny, tmp_path):
    by_adapter, by_copy, by_cache = (run(tiny, tmp_path / kind, kind) for kind in ("adapter", "copy", "cache"))
    assert by_adapter[9] < 0.6 < by_adapter[1]  # the policy moves away from the reference
    for other in (by_copy, by_cache):
        assert other == pytest.approx(by_adapter, abs=2e-6)


def test_copy_and_cache_agree_where_all_parts_are_trained(tiny, tmp_path):
    runs = []
    for kind in ("copy", "cache"):
        recipe = train_runs.recipe(tiny["llava"], tmp_path / kind, responses=2, reference=kind)
        train(recipe, quiet=True)
        runs.append(train_runs.losses(tmp_path / kind / "run"))
    assert runs[0] == pytest.approx(runs[1], abs=2e-6)


class Counting:
    """A cache over rendered groups, and how many of them were computed."""

    def __init__(self, policy, session, folder):
        self.policy, self.session, self.folder = policy, session, folder

    def score(self, groups):
        batch = lay_out(groups, "tree", self.policy.family, self.policy.config)
        return batch, scored(self.policy, batch)

    def fill(self, groups, rank=0):
        self.cache = CachedReference(self.folder, fingerprint_weights(self.policy))
        self.cache.load()
        chunks = [groups[:3], groups[3:]]
        return fill_cache(
            self.cache, chunks, lambda micros: map(self.score, micros), rank=rank, layout="tree", budget=200
        )


@pytest.fixture
def counting(tiny, tmp_path):
    recipe = train_runs.recipe(tiny["llava"], tmp_path, size=5, responses=2)
    with open_session(recipe) as session:
        groups = [session.render(train_runs.group(i, train_runs.draw(tmp_path / "p"), 2)) for i in range(5)]
        yield Counting(session.policy, session, tmp_path / "cache"), groups


def test_numbers_are_computed_once_and_found_again_in_any_batch(counting):
    counting, groups = counting
    assert counting.fill(groups) == 5
    assert counting.fill(groups) == 0
    for some in ([groups[4], groups[1]], groups):
        batch, expected = counting.score(some)
        torch.testing.assert_close(counting.cache.logprobs(batch, some), expected, rtol=0, atol=1e-5)


def test_a_killed_computation_goes_on_where_it_was(counting):
    counting, groups = counting
    counting.fill(groups[:3])
    (counting.folder / "0000-000001.tmp").write_bytes(b"half a file")
    assert counting.fill(groups) == 2
    assert len(list(counting.folder.glob("*.safetensors"))) == 2


def test_other_weights_make_every_number_stale(counting):
    counting, groups = counting
    counting.fill(groups)
    with torch.no_grad():
        counting.policy.parts()["projector"][0][1][0] += 1e-3
    assert counting.fill(groups) == 5


@pytest.mark.parametrize("what", ["pixels", "answer"])
def test_another_row_is_never_given_the_old_number(counting, what):
    counting, groups = counting
    counting.fill(groups)
    group = groups[0]
    if what == "pixels":
        image = group.images[0]
        pixels = {name: value + (name == "pixel_values") * 1e-3 for name, value in image.tensors.items()}
        changed = replace(group, images=(replace(image, tensors=pixels),))
    else:
        answer = group.responses[0]
        changed = replace(group, responses=(replace(answer, tokens=(9, *answer.tokens[1:])), *group.responses[1:]))
    with pytest.raises(CheckpointError, match="row-0"):
        counting.cache.logprobs(counting.score([changed])[0], [changed])
    assert counting.fill([changed]) == 1


def test_files_hold_one_number_per_scored_token(counting):
    counting, groups = counting
    counting.fill(groups)
    sizes = {key: len(v) for path in counting.folder.glob("*.safetensors") for key, v in load_file(path).items()}
    assert sizes == {counting.cache.fingerprint(g): sum(len(r.tokens) for r in g.responses) for g in groups}


def test_reference_scores_leave_the_mode_and_draw_no_dropout(tiny):
    spec = train_runs.lora(tiny["llava"])
    policy = load_policy(replace(spec, lora=replace(spec.lora, dropout=0.5)))
    policy.train()
    group = Renderer(policy.processor, policy.family).render(train_runs.group(2, ["no picture"], 2))
    batch = lay_out([group], "tree", policy.family, policy.config)
    assert torch.equal(scored(policy, batch), scored(policy, batch))
    assert policy.training


def test_a_column_that_the_data_lacks_is_named(counting):
    counting, groups = counting
    batch, _ = counting.score(groups)
    with pytest.raises(DataError, match="needs labels") as error:
        Columns(frozenset({"labels"})).fill(batch, groups)
    assert groups[0].group.id in str(error.value)


def test_columns_that_nothing_fills_are_refused_at_set_up():
    with pytest.raises(UnsupportedError, match="advantages"):
        Columns(frozenset({"advantages"}))
    with pytest.raises(UnsupportedError, match="reference"):
        Columns(frozenset({"ref_logprobs"}))
