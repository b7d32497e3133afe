"""The same policy, reference and batch for TRL and for us, on a tiny model."""

from __future__ import annotations

import copy

import torch
from PIL import Image

from sightline.data.render import Renderer
from sightline.models.layout import lay_out
from sightline.models.load import load_policy
from sightline.recipes.schema import ModelSpec, PartsSpec
from sightline.types import Edge, Group, Prompt, Response

ROWS = [
    ("describe the image", " a red circle and a large blue square", " a moon"),
    ("how many objects can you see in it?", " two", " there are three objects next to a green star"),
    ("is there a yellow moon?", " no, there is not.", " yes, there is."),
]
LABELS = [True, False, True]


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


def trl_trainer(folders, processor, tmp_path, options, kind="DPO"):
    import trl
    from datasets import Dataset
    from transformers import AutoModelForImageTextToText

    model, reference = (
        AutoModelForImageTextToText.from_pretrained(path, attn_implementation="sdpa") for path in folders
    )
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path / "trl"),
        use_cpu=True,
        bf16=False,
        beta=0.3,
        max_length=None,
        gradient_checkpointing=False,
        report_to=[],
        **options,
    )
    row = {"images": [0], "prompt": []} | ({"chosen": [], "rejected": []} if kind == "DPO" else {})
    row |= {"completion": [], "label": True} if kind == "KTO" else {}
    data = Dataset.from_list([row])
    trainer = getattr(trl, f"{kind}Trainer")
    return trainer(model=model, ref_model=reference, args=config, processing_class=processor, train_dataset=data)


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


def prompt_of(index, pictures):
    content = [{"type": "image"}, {"type": "text", "text": ROWS[index][0]}]
    return Prompt(id=str(index), messages=({"role": "user", "content": content},), images=(pictures[index],))


def answer_of(inputs, row, prefix="", **fields):
    """The very answer tokens of TRL's batch."""
    tokens = inputs[f"{prefix}input_ids"][row][inputs[f"{prefix}completion_mask"][row].bool()]
    return Response(text="", tokens=tuple(tokens.tolist()), **fields)


def groups_of(inputs, pictures):
    """The same pairs."""
    return [
        Group(
            prompts=(prompt_of(index, pictures),),
            responses=(answer_of(inputs, index), answer_of(inputs, index + len(ROWS))),
            edges=(Edge(winner=0, loser=1),),
        )
        for index in range(len(ROWS))
    ]


def labelled_groups_of(inputs, pictures):
    """The same labelled answers, each with TRL's mismatched one."""
    return [
        Group(
            prompts=(prompt_of(index, pictures),),
            responses=(answer_of(inputs, index, label=label), answer_of(inputs, index, "KL_", label=False)),
            edges=(Edge(winner=0, loser=1, kind="mismatched"),),
        )
        for index, label in enumerate(LABELS)
    ]


def prompt_tokens(inputs, row):
    kept = inputs["attention_mask"][row].bool() & ~inputs["completion_mask"][row].bool()
    return tuple(inputs["input_ids"][row][kept].tolist())


def our_loss(algorithm, policy, reference, groups, inputs):
    """Loss of one step and its statistics; gradients are left on the policy."""
    renderer = Renderer(policy.processor, policy.family)
    rendered = [renderer.render(group) for group in groups]
    for index, group in enumerate(rendered):
        assert group.prompts[0].tokens == prompt_tokens(inputs, index)
    batch = lay_out(rendered, "tree", policy.family, policy.config)
    with torch.no_grad():
        batch = batch.with_columns(ref_logprobs=reference(batch).logprobs)
        if "old_logprobs" in algorithm.needs:
            batch = batch.with_columns(old_logprobs=policy(batch).logprobs)
            (batch,) = algorithm.prepare_step([batch], [True], OneProcess())
    terms, stats = algorithm.loss(batch, policy(batch, algorithm.heads), OneProcess())
    loss = sum(term.coefficient * term.values.sum() / batch.count(term.unit) for term in terms)
    loss.backward()
    return loss, stats


def assert_equal_gradients(policy, trainer):
    ours = {name: parameter.grad for name, parameter in policy.base.named_parameters() if parameter.grad is not None}
    theirs = dict(trainer.model.named_parameters())
    # a key bias adds a constant to the scores of a softmax: its gradient is zero, and noise in practice
    compared = [name for name in ours if not name.endswith("k_proj.bias")]
    assert len(compared) > 40
    for name in compared:
        difference = (ours[name] - theirs[name].grad).norm() / theirs[name].grad.norm()
        assert difference < 2e-5, (name, float(difference))
