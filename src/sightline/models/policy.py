"""The policy: one trained module that scores batches, whatever their layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from sightline.errors import CheckpointError, UnsupportedError
from sightline.models.adapters import POLICY, as_now, keep_reference, plain_linear, switched
from sightline.models.attention import TREE
from sightline.models.base_model import BaseModel
from sightline.models.compiled import compile_layers
from sightline.models.family import PARTS, Family, base_name
from sightline.models.flat import flat_output
from sightline.models.precision import Masters, save_model
from sightline.models.rope import steady_length
from sightline.models.rows import rows_hidden
from sightline.models.score_head import ScoreHead
from sightline.models.tower import pack_tower
from sightline.models.value_head import VALUE, ValueHead
from sightline.ops.logprobs import log_collision, logprobs_through, selected_logprobs
from sightline.types import Batch, Head, Scores

Attention = Literal["auto", "dense", "segments", "gather", "merge"]
_HEAD, _VALUE_HEAD = "score_head.", "value_head."
_MODEL = "model."


class Policy(nn.Module):
    """A vision-language model with the heads that alignment needs.

    Everything that touches a parameter runs inside ``forward``, so that a distributed wrapper sees it.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        family: Family,
        *,
        attention: Attention = "auto",
        score_head: ScoreHead | None = None,
        base_model: BaseModel | None = None,
        start_adapter: str | None = None,
    ) -> None:
        """
        Args:
            model: a transformers model with an LM head, or a PEFT model around one.
            processor: its processor (tokenizer and image processor).
            family: what is special about it.
            attention: form of the layouts ``packed`` and ``tree`` (``attention_plan``); ``auto``: what the device and
                the batch suggest.
            score_head: for a reward model.
            base_model: what an adapter is saved with, so that it is not loaded onto another model.
            start_adapter: fingerprint of the adapter that was loaded; None: none, or a new one, which changes nothing.
        """
        super().__init__()
        self.model: Any = model
        self.processor = processor
        self.family = family
        self.attention = attention
        self.score_head = score_head
        self.value_head: ValueHead | None = None
        """PPO's critic, put here before training."""
        self.base_model = base_model
        self.start_adapter = start_adapter
        self._reference: str | None = None
        self.masters: Masters | None = None
        """Trained weights that are float32 in a bfloat16 model."""
        for decoder in decoders(self.language):  # any other would not see the plan, and let every token see every other
            decoder.set_attn_implementation(TREE)
        pack_tower(self.base, family)

    # --- structure ---

    @property
    def base(self) -> Any:
        """The transformers model, with adapter layers in place where there are any."""
        return self.model.get_base_model() if self.has_adapter else self.model

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.model, "peft_config")

    @property
    def config(self) -> Any:
        return self.base.config

    @property
    def language(self) -> nn.Module:
        """The causal decoder."""
        return self.base.get_submodule(self.family.language)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def part_of(self, name: str) -> str:
        """Part (``language``, ``projector``, ``vision``) of a parameter of ``model``, by its name."""
        return self.family.part_of(base_name(name))

    def parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Trainable parameters by part and name: a score head is language, a value head and its adapter ``critic``."""
        parts: dict[str, list[tuple[str, nn.Parameter]]] = {part: [] for part in PARTS}
        apart = None if self.value_head is None else self.value_head.adapter
        critic: list[tuple[str, nn.Parameter]] = []
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                part = critic if apart is not None and apart in name.split(".") else parts[self.part_of(name)]
                part.append((name, parameter))
        parts["language"] += _trained(self.score_head, _HEAD)
        return (
            parts if self.value_head is None else {**parts, "critic": critic + _trained(self.value_head, _VALUE_HEAD)}
        )

    @property
    def sees_frozen(self) -> bool:
        """True if nothing that makes vision features is trained: they can be computed once and shared."""
        trained = (name for name, parameter in self.model.named_parameters() if parameter.requires_grad)
        return all(self.part_of(name) == "language" for name in trained)

    def layers(self) -> list[nn.Module]:
        """The repeated layers of decoder and vision tower, as transformers marks them: what is kept or computed
        apart from the rest."""
        found = [module for module in self.modules() if isinstance(module, GradientCheckpointingLayer)]
        inner = {id(part) for module in found for part in module.modules() if part is not module}
        return [module for module in found if id(module) not in inner]

    def compile_layers(self, backend: str = "inductor") -> None:
        """Compiles the layers of the decoder at their first call (``models.compiled``). Changes no result beyond
        rounding; a copy must be compiled anew."""
        compile_layers(self.language, backend)

    def leave_casts_to_autocast(self) -> None:
        """For a policy that only runs under autocast: PEFT no longer casts the inputs of adapters to their type, which
        autocast casts back before every product. The same numbers, two passes over every input less."""
        for module in self.modules():
            if isinstance(module, BaseTunerLayer):
                module.cast_input_dtype_enabled = False

    # --- scoring ---

    def forward(
        self, batch: Batch, heads: frozenset[Head] = frozenset(("logprobs",)), reference: bool = False
    ) -> Scores:
        """Scores the batch.

        Args:
            batch: on the device of the model.
            heads: what to compute: ``logprobs`` [N], ``entropy`` and ``collision`` [N] (no gradient), ``values`` [N]
                (value head, under its own adapter where it has one), ``reward`` [R] (score head).
            reference: score as training found the policy, without gradient or dropout: with its adapters off, or
                with the adapter that it started from (:meth:`keep_reference`).

        Returns:
            Scores in float32; a head that was not asked for is None.

        Raises:
            UnsupportedError: a head this model does not have, or a reference without adapters.
        """
        self._check_heads(heads, reference)
        logprobs = entropy = collision = values = score = None
        with self.autocast(), self.as_reference() if reference else nullcontext():
            hidden = self._reached(self.hidden(batch))
            if "values" in heads:
                values = self._values(batch, hidden)
            if heads & {"logprobs", "entropy"}:
                logprobs, entropy = self._logprobs(hidden[batch.source], batch.target, "entropy" in heads)
            if "collision" in heads:
                collision = log_collision(self.logits, hidden[batch.source])
            if "reward" in heads:
                assert self.score_head is not None
                score = self.score_head(hidden[batch.last])
        return Scores(logprobs=logprobs, entropy=entropy, collision=collision, values=values, reward=score)

    def _check_heads(self, heads: frozenset[Head], reference: bool) -> None:
        own = {"logprobs", "entropy", "collision"}
        if not reference:
            own |= {"reward"} if self.score_head is not None else set()
            own |= {"values"} if self.value_head is not None else set()
        if unknown := heads - own:
            what = "reference" if reference else "policy"
            raise UnsupportedError(f"this {what} has no head {sorted(unknown)}; it has {sorted(own)}")

    def _values(self, batch: Batch, hidden: Tensor) -> Tensor:
        critic = self.value_head
        assert critic is not None
        if critic.adapter is None:
            return critic(hidden[batch.source])
        with switched(self.model, critic.adapter):
            return critic(self.hidden(batch)[batch.source])

    def _logprobs(self, hidden: Tensor, target: Tensor, entropy: bool) -> tuple[Tensor, Tensor | None]:
        linear = plain_linear(self.base.get_output_embeddings())
        if linear is None or self._cap is not None:
            return logprobs_through(as_now(self.model, self.logits), hidden, target, entropy=entropy)
        return selected_logprobs(hidden, linear.weight, linear.bias, target, entropy=entropy)

    def logits(self, hidden: Tensor) -> Tensor:
        """[n,V] for hidden states [n,D], as the model's own forward makes them."""
        logits: Tensor = self.base.get_output_embeddings()(hidden)
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    @property
    def _cap(self) -> float | None:
        return self.config.get_text_config().final_logit_softcapping if self.family.caps_logits else None

    def keep_reference(self) -> None:
        """Makes the adapter's switch give the policy as it is now: new adapters are switched off, and a loaded one
        gives way to a frozen copy of it.

        Raises:
            UnsupportedError: no adapter.
            RecipeError: one that is there only once, or something else is trained.
        """
        if not self.has_adapter:
            raise _no_adapter()
        low = self.masters is not None
        self._reference = keep_reference(self.model, loaded=self.start_adapter is not None, in_float32=low)

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """The policy as training found it, no gradient, no dropout; all restored on leaving."""
        if not self.has_adapter:
            raise _no_adapter()
        if self.start_adapter is not None and self._reference is None:
            raise UnsupportedError("the policy goes on from an adapter. Call keep_reference before training")
        training = self.training
        try:
            self.eval()
            with torch.no_grad(), switched(self.model, self._reference):
                yield
        finally:
            self.train(training)

    def encode(self, batch: Batch) -> Batch:
        """Fills ``features`` where all vision parts are frozen, so that policy and reference share them."""
        if batch.layout == "rows" or not batch.vision or not self.sees_frozen:
            return batch
        with torch.no_grad(), self.autocast():
            return batch.with_columns(features=self.image_features(batch))

    def autocast(self) -> AbstractContextManager[Any]:
        """Around all that computes: where some weights are bfloat16 and trained ones float32, bfloat16.

        Casts are not kept: every weight is read once in a pass, and together they would be another model.
        """
        if self.masters is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.masters.dtype, cache_enabled=False)

    def image_features(self, batch: Batch) -> Tensor:
        """[sum(image_tokens), D] or [.., (1+n)D] (``Family.features``): one pass of the vision tower over the
        distinct images."""
        features = self.family.features(self.base.model, batch.vision)
        assert features.shape[0] == sum(batch.image_tokens), "placeholders and image features disagree"
        return features

    def hidden(self, batch: Batch) -> Tensor:
        """[T,D]: last hidden states, after the final norm.

        Raises:
            UnsupportedError: a row so long that its numbers would depend on the rows beside it.
        """
        limit = steady_length(self.config)
        if limit is not None and int(batch.structure.positions.max()) >= limit:
            raise UnsupportedError(
                f"a row has {int(batch.positions.max()) + 1} positions, and the rotary embedding of this model changes "
                f"for all rows of a call once one is longer than {limit}. Leave out what is longer"
            )
        if batch.layout == "rows":
            return rows_hidden(self.base, self.family, batch)
        return flat_output(self, batch).last_hidden_state[0]

    def _reached(self, hidden: Tensor) -> Tensor:
        """Hidden states that a gradient flows from. Where only projector or tower are trained, those of text alone
        hang on nothing that is trained: a gradient of 0 then goes to the first trained parameter, so that there is a
        backward pass, as the other ranks have one."""
        first = next((parameter for parameter in self.model.parameters() if parameter.requires_grad), None)
        if first is None or hidden.requires_grad or not torch.is_grad_enabled():
            return hidden
        own = first.to_local() if isinstance(first, DTensor) else first  # spread over the ranks: its own share
        return hidden + own.reshape(-1)[:0].sum().to(hidden.dtype)

    # --- saving ---

    def trainable_state(self) -> dict[str, Tensor]:
        """Trainable parameters by name: all that a checkpoint of this run must hold."""
        return {name: parameter.detach() for named in self.parts().values() for name, parameter in named}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts back what ``trainable_state`` gave.

        Raises:
            CheckpointError: names that differ from the trainable parameters of this model.
        """
        own = self.trainable_state()
        if differ := sorted(own.keys() ^ state.keys()):
            found = f"the checkpoint and the model train different parameters ({len(differ)} differ, first {differ[0]})"
            raise CheckpointError(f"{found}. Resume with the recipe that wrote it")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def reference_copy(self) -> Policy:
        """A frozen copy of the policy as it is now."""
        copy = deepcopy(self)
        copy.requires_grad_(False)
        return copy.eval()

    def save(self, directory: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes what others can load: a transformers folder or a PEFT adapter folder, with processor and score head; a
        critic goes into a folder inside.

        Args:
            directory: made if need be.
            state: the tensors of ``state_dict()`` to write, where those of this module are not whole; None: its own.
        """
        own = None if state is None else {n.removeprefix(_MODEL): v for n, v in state.items() if n.startswith(_MODEL)}
        critic = self.value_head
        named = [POLICY, *([] if critic is None or critic.adapter is None else [critic.adapter])]
        save_model(self.model, directory, own, self.masters, adapters=named if self.has_adapter else ())
        self.processor.save_pretrained(directory)
        if self.has_adapter and self.base_model is not None:
            self.base_model.save(directory)
        if self.score_head is not None:
            self.score_head.save(directory, None if state is None else state[f"{_HEAD}weight"])
        if critic is not None:
            critic.save(directory / VALUE, state)


def _trained(head: nn.Module | None, prefix: str) -> list[tuple[str, nn.Parameter]]:
    named = () if head is None else head.named_parameters()
    return [(f"{prefix}{name}", parameter) for name, parameter in named if parameter.requires_grad]


def _no_adapter() -> UnsupportedError:
    return UnsupportedError(
        "reference by adapter was asked for and the model has none. "
        "Set model.parts.language to lora, or reference to copy or cache"
    )


def decoders(language: nn.Module) -> list[PreTrainedModel]:
    """The transformers models in a causal decoder: one saved whole by PEFT is there twice, each with its own config."""
    return [module for module in language.modules() if isinstance(module, PreTrainedModel)]
