"""TRL's trainers on prepared tokens: their own ``train()``, with what comes before the loss (collating, sampling,
scoring) replaced by batches that are ready on the device."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders import BETA, LORA_TARGETS, RANK, RATE
from benchmarks.gpu_jobs import Job, Record
from benchmarks.gpu_models import Draws
from benchmarks.gpu_stages.rounds import Rounds
from benchmarks.gpu_stages.steps import advantages
from sightline.rendered import RenderedGroup

ROWS = 1000
"""Of the data set that ``train()`` counts through; nothing in it is read."""


def import_libraries() -> None:
    """So that a process that waits has done it."""
    if find_spec("trl") is not None:
        import datasets  # noqa: F401
        from trl import DPOTrainer, GRPOTrainer  # noqa: F401


def run_trainer(model: Any, draws: Draws, checkpointing: bool, job: Job, record: Record, rounds: Rounds) -> None:
    from transformers import PrinterCallback

    with tempfile.TemporaryDirectory() as folder:
        make = dpo_trainer if job.task == "pair" else grpo_trainer
        trainer = make(model, options(folder, job, checkpointing), job)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_timer(trainer, draws, rounds, job))
        trainer.train()
    record.put(loss=trainer.losses[0])


# --- batches ---


def pair_inputs(groups: Sequence[RenderedGroup], device: Any) -> dict[str, Any]:
    """As DPOTrainer's collator for pictures gives them: all winners, then all losers, padded on the right."""
    rows = [(group, group.responses[place]) for place in (0, 1) for group in groups]
    prompts = [list(group.prompts[0].tokens) for group, _ in rows]
    answers = [list(response.tokens) for _, response in rows]
    ids, mask = _padded([prompt + answer for prompt, answer in zip(prompts, answers, strict=True)])
    starts = torch.tensor([len(prompt) for prompt in prompts])
    completion = mask * (torch.arange(ids.shape[1]) >= starts[:, None])
    inputs = {"input_ids": ids, "attention_mask": mask, "completion_mask": completion}
    inputs |= _pictures([group for group, _ in rows], ids)
    return {name: value.to(device) for name, value in inputs.items()}


def group_inputs(groups: Sequence[RenderedGroup], device: Any) -> dict[str, Any]:
    """As GRPOTrainer makes them from what it sampled, without old log-probs (they are the policy's own)."""
    rows = [(group, response) for group in groups for response in group.responses]
    prompts, prompt_mask = _padded([list(group.prompts[0].tokens) for group, _ in rows])
    answers, mask = _padded([list(response.tokens) for _, response in rows])
    assert bool(prompt_mask.all()), "prompts of a benchmark are equally long"
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": answers,
        "completion_mask": mask,
        "advantages": torch.from_numpy(advantages(len(groups), len(rows))),
        "num_items_in_batch": mask.sum(),
    }
    inputs |= _pictures([group for group, _ in rows], torch.cat([prompts, answers], dim=1))
    moved: dict[str, Any] = {name: value.to(device) for name, value in inputs.items()}
    return moved | {"num_images": [1] * len(rows)}


def _padded(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return ids, (torch.arange(width) < lengths[:, None]).long()


def _pictures(groups: Sequence[RenderedGroup], ids: Tensor) -> dict[str, Tensor]:
    """Processor outputs of one picture per row, and which tokens are pictures where the model asks."""
    tensors = [group.images[0].tensors for group in groups]
    joined = {name: torch.cat([one[name] for one in tensors]) for name in tensors[0]}
    if "image_grid_thw" in joined:
        kinds = torch.zeros_like(ids)
        for row, group in enumerate(groups):
            kinds[row, list(group.prompts[0].placeholders)] = 1
        joined["mm_token_type_ids"] = kinds
    return joined


# --- trainers ---


def options(folder: str, job: Job, checkpointing: bool) -> dict[str, Any]:
    return {
        "output_dir": folder, "use_cpu": job.device == "cpu", "bf16": True, "gradient_checkpointing": checkpointing,
        "report_to": [], "max_steps": 10**6, "learning_rate": RATE, "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0, "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def dpo_trainer(model: Any, shared: dict[str, Any], job: Job) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    row = {"prompt": "a", "chosen": "b", "rejected": "c", "images": []}
    return _prepared(DPOTrainer)(
        model=model,
        args=DPOConfig(per_device_train_batch_size=1, max_length=None, beta=BETA, **shared),
        train_dataset=Dataset.from_list([row] * ROWS),
        data_collator=_nothing,
        processing_class=tiny_processor(),
        peft_config=_lora(),
    )


def grpo_trainer(model: Any, shared: dict[str, Any], job: Job) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    batch = job.groups * job.answers
    config = GRPOConfig(
        per_device_train_batch_size=batch, num_generations=job.answers, beta=0.0, loss_type="dapo", **shared
    )
    return _prepared(GRPOTrainer)(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "a"}]}] * ROWS),
        reward_funcs=_no_reward,
        processing_class=tiny_processor(),
        peft_config=_lora(),
    )


def _prepared(trainer: type[Any]) -> type[Any]:
    """The trainer with inputs that are ready; its losses are kept."""

    class Prepared(trainer):
        ready: dict[str, Any]
        losses: tuple[float, ...] = ()

        def _prepare_inputs(self, inputs: Any) -> dict[str, Any]:
            return dict(self.ready)

        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            if not self.losses:
                self.losses = (float(loss.detach()),)
            return loss

    return Prepared


def _timer(trainer: Any, draws: Draws, rounds: Rounds, job: Job) -> Any:
    """Prepares a batch before every step and times the step, optimizer included."""
    from transformers import TrainerCallback

    inputs_of = pair_inputs if job.task == "pair" else group_inputs
    drawn: list[int] = []

    class Timer(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if drawn != [rounds.draw]:
                trainer.ready = {}
                trainer.ready = inputs_of(draws.step(rounds.draw), args.device)
                drawn[:] = [rounds.draw]
            rounds.begin()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            rounds.end()
            control.should_training_stop = rounds.done

    return Timer()


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LORA_TARGETS)


def _nothing(rows: Any) -> dict[str, Tensor]:
    return {"input_ids": torch.zeros(1, 1, dtype=torch.long)}


def _no_reward(**_: Any) -> list[float]:
    raise AssertionError("advantages are given")


def tiny_processor() -> Any:
    """Trainers ask for one; it is asked for nothing but its padding token."""
    from tokenizers import Tokenizer, models
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    words = {token: number for number, token in enumerate(chain(("<pad>", "<s>", "</s>", "<image>"), "abc"))}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<s>")), pad_token="<pad>", bos_token="<s>",
        eos_token="</s>", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(), tokenizer=tokenizer, patch_size=14, chat_template=template,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
