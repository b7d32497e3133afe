"""Loss, gradients and metrics of DPO against TRL's trainer, on one batch of one tiny model."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image

from sightline.algorithms.dpo import DPO
from sightline.data.render import Renderer
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec, PartsSpec
from sightline.types import Edge, Group, Prompt, Response
from tiny_models import FAMILIES

trl = pytest.importorskip("trl", reason="trl is not installed (extra: bench)")
pytestmark = pytest.mark.oracle

ROWS = [
    ("describe the image", " a red circle and a large blue square", " a moon"),
    ("how many objects can you see in it?", " two", " there are three objects next to a green star"),
    ("is there a yellow moon?", " no, there is not.", " yes, there is."),
]
CASES = {
    "sigmoid": (DPO(beta=0.3), {"loss_type": ["sigmoid"]}),
    "hinge": (DPO(beta=0.3, link="hinge"), {"loss_type": ["hinge"]}),
    "ipo": (DPO(beta=0.3, link="ipo"), {"loss_type": ["ipo"]}),
    "robust": (DPO(beta=0.3, link="robust", label_smoothing=0.2), {"loss_type": ["robust"], "label_smoothing": 0.2}),
    "sft term": (DPO(beta=0.3, sft_weight=0.7), {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]}),
}


class OneProcess:
    rank, size = 0, 1

    def sum(self, value):
        return value


def different_models(folder, tmp_path):
    """The policy, and folders of the same policy and of a reference that differs from it."""
    policy = load_policy(ModelSpec(path=str(folder), parts=PartsSpec(vision="full")))
    reference = copy.deepcopy(policy)
    for seed, one in enumerate((policy, reference)):
        torch.manual_seed(seed)
        for parameter in one.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    folders = tmp_path / "policy", tmp_path / "reference"
    for one, path in zip((policy, reference), folders, strict=True):
        one.base.save_pretrained(path)
        one.processor.save_pretrained(path)
    return policy, reference, folders


def trl_trainer(folders, processor, tmp_path, options):
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText

    model, reference = (
        AutoModelForImageTextToText.from_pretrained(path, attn_implementation="sdpa") for path in folders
    )
    config = trl.DPOConfig(
        output_dir=str(tmp_path / "trl"),
        use_cpu=True,
        bf16=False,
        beta=0.3,
        max_length=None,
        gradient_checkpointing=False,
        report_to=[],
        **options,
    )
    data = Dataset.from_list([{"images": [0], "prompt": [], "chosen": [], "rejected": []}])
    return trl.DPOTrainer(model=model, ref_model=reference, args=config, processing_class=processor, train_dataset=data)


def rows_for_trl(pictures):
    def message(role, text):
        return [{"role": role, "content": text}]

    return [
        {
            "images": [Image.open(picture).convert("RGB")],
            "prompt": message("user", question),
            "chosen": message("assistant", chosen),
            "rejected": message("assistant", rejected),
        }
        for picture, (question, chosen, rejected) in zip(pictures, ROWS, strict=False)
    ]


def groups_of(inputs, pictures):
    """The same pairs, with the very answer tokens of TRL's batch."""
    groups = []
    for index, (question, _, _) in enumerate(ROWS):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = Prompt(id=str(index), messages=({"role": "user", "content": content},), images=(pictures[index],))
        answers = []
        for row in (index, index + len(ROWS)):
            tokens = inputs["input_ids"][row][inputs["completion_mask"][row].bool()]
            answers.append(Response(text="", tokens=tuple(tokens.tolist())))
        groups.append(Group(prompts=(prompt,), responses=tuple(answers), edges=(Edge(winner=0, loser=1),)))
    return groups


def prompt_tokens(inputs, row):
    kept = inputs["attention_mask"][row].bool() & ~inputs["completion_mask"][row].bool()
    return tuple(inputs["input_ids"][row][kept].tolist())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_gradients_and_metrics_equal_those_of_trl(tiny, pictures, tmp_path, family, case):
    algorithm, options = CASES[case]
    policy, reference, folders = different_models(tiny[family], tmp_path)
    trainer = trl_trainer(folders, policy.processor, tmp_path, options)
    inputs = trainer.data_collator(rows_for_trl(pictures))
    their_loss = trainer.compute_loss(trainer.model.train(), inputs)
    their_loss.backward()

    renderer = Renderer(policy.processor, policy.family)
    rendered = [renderer.render(group) for group in groups_of(inputs, pictures)]
    for index, group in enumerate(rendered):
        assert group.prompts[0].tokens == prompt_tokens(inputs, index)
    batch = lay_out(rendered, "tree", policy.family, policy.config)
    with torch.no_grad():
        batch = batch.with_columns(ref_logprobs=reference(batch).logprobs)
    terms, stats = algorithm.loss(batch, policy(batch), OneProcess())
    loss = sum(term.coefficient * term.values.sum() / batch.count(term.unit) for term in terms)
    loss.backward()

    torch.testing.assert_close(loss, their_loss, atol=1e-5, rtol=1e-5)
    ours = {name: parameter.grad for name, parameter in policy.base.named_parameters() if parameter.grad is not None}
    theirs = dict(trainer.model.named_parameters())
    # a key bias adds a constant to the scores of a softmax: its gradient is zero, and noise in practice
    compared = [name for name in ours if not name.endswith("k_proj.bias")]
    assert len(compared) > 40
    for name in compared:
        difference = (ours[name] - theirs[name].grad).norm() / theirs[name].grad.norm()
        assert difference < 2e-5, (name, float(difference))
    for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"):
        (expected,) = trainer._metrics["train"][name]
        assert stats[name].sum.item() / stats[name].count == pytest.approx(expected, abs=1e-4)
