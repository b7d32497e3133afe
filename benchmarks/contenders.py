"""Who steps in ``benchmarks.step``: Sightline's layouts, TRL's trainers, and a plain loop on transformers.

All get the same saved model, picture, question and answers, and make the same gradients. None shares code with
another beyond AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

MODES = {"full": ("full", "full", "full"), "lora": ("lora", "frozen", "frozen")}
"""How language, projector and vision are trained."""
BETA, RATE, RANK = 0.1, 1e-6, 16
LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True, kw_only=True, eq=False)
class Contender:
    """A model that is ready to step."""

    gradients: Callable[[], float]
    """Adds the gradients of one batch and returns the loss."""
    optimizer: Any

    def step(self) -> float:
        loss = self.gradients()
        self.update()
        return loss

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradient_norm(self) -> float:
        """Of all that is trained together."""
        import torch

        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def adamw(model: Any) -> Any:
    import torch

    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, fused=True)


def advantages(count: int) -> Any:
    """[count]: from -1 to 2, so that they do not cancel."""
    import torch

    return torch.linspace(-1, 2, count)


def user(question: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}


# --- Sightline ---


def sightline_pair(folder: Path, row: dict[str, Any], mode: str, layout: str) -> Contender:
    """DPO on one pair with the layout asked for; reference = adapter off, or a frozen copy."""
    import torch

    from sightline.algorithms.registry import build_algorithm
    from sightline.types import Edge

    policy, groups = _policy_and_groups(folder, row, mode, edges=(Edge(winner=0, loser=1),))
    algorithm: Any = build_algorithm({"name": "dpo", "beta": BETA})
    reference = None if mode == "lora" else policy.reference_copy()

    def gradients() -> float:
        batch = policy.encode(_lay_out(policy, groups, layout))
        with torch.no_grad():
            scores = reference(batch) if reference is not None else policy(batch, reference=True)
        batch = batch.with_columns(ref_logprobs=scores.logprobs)
        terms, _ = algorithm.loss(batch, policy(batch), None)
        return _backward(terms, batch)

    return Contender(gradients=gradients, optimizer=adamw(policy))


def sightline_group(folder: Path, row: dict[str, Any], mode: str, layout: str) -> Contender:
    """GRPO on one prompt with responses and an advantage each, averaged over tokens as TRL's default: the first step of
    a round, whose ratio is 1, with the entropies that every run logs. No reference."""
    from sightline.algorithms.registry import build_algorithm

    policy, groups = _policy_and_groups(folder, row, mode, edges=())
    algorithm: Any = build_algorithm({"name": "grpo", "normaliser": "token"})

    def gradients() -> float:
        batch = replace(policy.encode(_lay_out(policy, groups, layout)), on_policy=True)
        batch = batch.with_columns(advantages=advantages(batch.num_responses)[batch.response])
        terms, _ = algorithm.loss(batch, policy(batch, algorithm.heads), None)
        return _backward(terms, batch)

    return Contender(gradients=gradients, optimizer=adamw(policy))


def _backward(terms: Any, batch: Any) -> float:
    """As the training loop: every term over the number of its units."""
    loss = sum(term.coefficient * term.values.sum() / batch.count(term.unit) for term in terms)
    loss.backward()
    return float(loss.detach())


def _policy_and_groups(folder: Path, row: dict[str, Any], mode: str, edges: tuple[Any, ...]) -> tuple[Any, Any]:
    from sightline.data.render import Renderer
    from sightline.models.load import load_policy
    from sightline.recipes.schema import LoraSpec, ModelSpec, PartsSpec
    from sightline.types import Group, Prompt, Response

    language, projector, vision = MODES[mode]
    parts = PartsSpec(language=language, projector=projector, vision=vision)  # type: ignore[arg-type]
    policy = load_policy(ModelSpec(path=str(folder), parts=parts, lora=LoraSpec(rank=RANK))).train()
    renderer = Renderer(policy.processor, policy.family)
    prompt = Prompt(id="0", messages=(user(row["question"]),), images=(row["image"],))
    responses = tuple(Response(text=text) for text in row["answers"])
    return policy, [renderer.render(Group(prompts=(prompt,), responses=responses, edges=edges))]


def _lay_out(policy: Any, groups: Any, layout: str) -> Any:
    from sightline.models.layout import lay_out

    return lay_out(groups, layout, policy.family, policy.config)  # type: ignore[arg-type]


# --- TRL ---


def trl_pair(folder: Path, row: dict[str, Any], mode: str, _: str) -> Contender:
    """The same pair through TRL's DPOTrainer: its collator, its training_step, its reference."""
    from datasets import Dataset, Image, Sequence
    from trl import DPOConfig, DPOTrainer

    record = {
        "prompt": [{"role": "user", "content": row["question"]}],
        "chosen": [{"role": "assistant", "content": row["answers"][0]}],
        "rejected": [{"role": "assistant", "content": row["answers"][1]}],
        "images": [row["image"]],
    }
    data = Dataset.from_list([record]).cast_column("images", Sequence(Image()))
    config = DPOConfig(per_device_train_batch_size=1, max_length=None, beta=BETA, **_trl_options(folder))
    trainer: Any = DPOTrainer(args=config, train_dataset=data, **_trl_model(folder, mode))
    inputs = next(iter(trainer.get_train_dataloader()))
    trainer.current_gradient_accumulation_steps = 1

    def gradients() -> float:
        trainer.model.train()
        return float(trainer.training_step(trainer.model, dict(inputs)))

    return Contender(gradients=gradients, optimizer=adamw(trainer.model))


def trl_group(folder: Path, row: dict[str, Any], mode: str, _: str) -> Contender:
    """The same group through TRL's GRPOTrainer: its loss on its own kind of inputs, all responses in one batch.

    What its ``training_step`` does before (sampling, scoring) is left out, as for the others. ``loss_type="dapo"``,
    its default, is the mean over tokens; without KL, and with the old log-probs those of the policy itself.
    """
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    answers = row["answers"]
    config = GRPOConfig(
        per_device_train_batch_size=len(answers), num_generations=len(answers), beta=0.0, loss_type="dapo",
        **_trl_options(folder),
    )  # fmt: skip
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": row["question"]}]}])
    trainer: Any = GRPOTrainer(args=config, train_dataset=data, reward_funcs=_no_reward, **_trl_model(folder, mode))
    trainer.current_gradient_accumulation_steps = 1
    prompt, completions = _encode(trainer.processing_class, row)
    width = max(len(ids) for ids in completions)
    padded = torch.tensor([ids + [0] * (width - len(ids)) for ids in completions])
    lengths = torch.tensor([len(ids) for ids in completions])
    mask = (torch.arange(width) < lengths[:, None]).long()
    inputs = {
        "prompt_ids": prompt["input_ids"].repeat(len(answers), 1),
        "prompt_mask": prompt["attention_mask"].repeat(len(answers), 1),
        "completion_ids": padded,
        "completion_mask": mask,
        "advantages": advantages(len(answers)),
        "num_items_in_batch": mask.sum(),
        "pixel_values": prompt["pixel_values"].repeat(len(answers), 1, 1, 1),
        "num_images": [1] * len(answers),
    }

    def gradients() -> float:
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, inputs)
        trainer.accelerator.backward(loss)
        return float(loss.detach())

    return Contender(gradients=gradients, optimizer=adamw(trainer.model))


def _no_reward(**_: Any) -> list[float]:
    raise AssertionError("advantages are given")


def _trl_options(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "trl"), "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
        "report_to": [], "max_steps": 10**6, "learning_rate": RATE,
    }  # fmt: skip


def _trl_model(folder: Path, mode: str) -> dict[str, Any]:
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor

    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LORA_TARGETS) if mode == "lora" else None
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
    return {
        "model": model,
        "peft_config": lora,
        "processing_class": AutoProcessor.from_pretrained(folder, trust_remote_code=False),
    }


# --- a plain loop ---


def plain_group(folder: Path, row: dict[str, Any], mode: str, _: str) -> Contender:
    """The same group without any sharing: transformers' own forward on one response after another, each with its
    own pass over the picture and logits at every position; gradients add up. Full fine-tuning only."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    assert mode == "full", "the plain loop knows no adapters"
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False).train()
    prompt, completions = _encode(AutoProcessor.from_pretrained(folder, trust_remote_code=False), row)
    start, tokens = prompt["input_ids"].shape[1], sum(map(len, completions))

    def gradients() -> float:
        total = 0.0
        for advantage, answer in zip(advantages(len(completions)), completions, strict=True):
            ids = torch.cat([prompt["input_ids"], torch.tensor([answer])], dim=1)
            logits = model(input_ids=ids, pixel_values=prompt["pixel_values"], use_cache=False).logits
            log_softmax = torch.log_softmax(logits[:, :-1], dim=-1)
            logprobs = log_softmax.gather(-1, ids[:, 1:, None])[0, start - 1 :, 0]
            loss = -(advantage * (logprobs - logprobs.detach()).exp()).sum() / tokens
            loss.backward()
            total += float(loss.detach())
        return total

    return Contender(gradients=gradients, optimizer=adamw(model))


def _encode(processor: Any, row: dict[str, Any]) -> tuple[Any, list[list[int]]]:
    """Processor outputs of the prompt, and the tokens of each answer with the end token."""
    from PIL import Image

    text = processor.apply_chat_template([user(row["question"])], tokenize=False, add_generation_prompt=True)
    with Image.open(row["image"]) as picture:
        prompt = processor(text=[text], images=[picture.convert("RGB")], return_tensors="pt")
    end = processor.tokenizer.eos_token_id
    # the chat template writes a space before an answer
    answers = [processor.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"] for answer in row["answers"]]
    return prompt, [[*answer, end] for answer in answers]


def import_libraries(kind: str) -> None:
    """Imports what a contender needs, so that none of it counts as memory of the step."""
    import peft  # noqa: F401
    from transformers import LlavaForConditionalGeneration, LlavaProcessor  # noqa: F401

    import sightline.algorithms.registry
    import sightline.data.render
    import sightline.models.load  # noqa: F401

    if kind.startswith("trl"):
        import datasets  # noqa: F401
        from trl import DPOTrainer, GRPOTrainer  # noqa: F401


BUILDERS = {
    "pair": sightline_pair,
    "group": sightline_group,
    "trl pair": trl_pair,
    "trl group": trl_group,
    "plain group": plain_group,
}
