"""How well an answer goes with its picture: the cosine of CLIP or SigLIP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sightline.models  # noqa: F401  (makes torchvision importable, so before transformers)

# isort: split

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoProcessor

from sightline.data.picture import read_picture
from sightline.errors import CheckpointError, DataError
from sightline.recipes.terms import ClipSpec
from sightline.rewards.sentences import sentences
from sightline.rewards.terms import Failure, Value, within
from sightline.types import Group, Prompt

_KEPT: Final = 50_000
"""Pictures whose embedding is kept: 100 MB at most with 512 numbers each."""


@dataclass(kw_only=True)
class ClipTerm:
    """Cosine between answer and picture. Each picture is embedded once, and its embedding kept."""

    spec: ClipSpec
    model: Any
    processor: Any
    most: int
    """Tokens that the text tower reads, begin and end included."""
    remote: bool = False
    _pictures: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def check(self, groups: Sequence[Group]) -> None:
        for group in groups:
            for prompt in group.prompts:
                within(group, _has_picture, prompt)

    def values(self, groups: Sequence[Group]) -> list[list[Value]]:
        self.check(groups)
        self._see(list(dict.fromkeys(path for group in groups for p in group.prompts for path in p.images)))
        pieces = [self._pieces(response.text) for group in groups for response in group.responses]
        told = list(dict.fromkeys(piece for some in pieces if not isinstance(some, Failure) for piece in some))
        texts = dict(zip(told, self._embedded(told, self._read), strict=True))
        left = iter(pieces)
        return [
            [self._value(group.prompts[response.prompt], next(left), texts) for response in group.responses]
            for group in groups
        ]

    def give_up(self) -> None:
        """It never waits."""

    def _value(self, prompt: Prompt, pieces: list[str] | Failure, texts: dict[str, Tensor]) -> Value:
        if isinstance(pieces, Failure):
            return pieces
        text_PD = torch.stack([texts[piece] for piece in pieces])
        picture_ID = torch.stack([self._pictures[path] for path in prompt.images])
        return float((text_PD @ picture_ID.T).amax(1).mean())

    def _pieces(self, text: str) -> list[str] | Failure:
        """What is embedded: none of it is longer than the model reads."""
        if not any(map(str.isalnum, text)):
            return Failure(reason="the answer is empty")
        if self.spec.unit == "answer":
            size = self._size(text)
            if size > self.most and self.spec.long == "fail":
                return Failure(reason=f"the answer has {size} tokens, and the text tower reads {self.most}")
            return [text.strip()]
        found = []
        for sentence in sentences(text):
            found += list(self._cut(sentence.split()))
        long = next((piece for piece in found if self._size(piece) > self.most), None)
        return found if long is None else Failure(reason=f"the word {long!r:.40} is longer than {self.most} tokens")

    def _cut(self, words: Sequence[str]) -> Iterator[str]:
        """The words in as few pieces as fit, each as long as it can be."""
        while words:
            size = len(words)
            while size > 1 and self._size(" ".join(words[:size])) > self.most:
                size -= 1
            yield " ".join(words[:size])
            words = words[size:]

    def _size(self, text: str) -> int:
        return len(self.processor.tokenizer(text, truncation=False, verbose=False)["input_ids"])

    def _see(self, paths: Sequence[str]) -> None:
        new = [path for path in paths if path not in self._pictures]
        if len(self._pictures) + len(new) > _KEPT:
            self._pictures.clear()
            new = list(paths)
        self._pictures |= dict(zip(new, self._embedded(new, self._look), strict=True))

    @torch.no_grad()
    def _embedded(self, inputs: Sequence[str], embed: Callable[[list[str]], Tensor]) -> list[Tensor]:
        """Unit vectors, on the host."""
        found: list[Tensor] = []
        for start in range(0, len(inputs), self.spec.batch_size):
            with torch.autocast(self.model.device.type, enabled=False):  # of the policy in training
                rows = embed(list(inputs[start : start + self.spec.batch_size])).float()
            found += (rows / rows.norm(dim=-1, keepdim=True)).cpu().unbind()
        return found

    def _look(self, paths: list[str]) -> Tensor:
        made = self.processor.image_processor(images=[read_picture(path) for path in paths], return_tensors="pt")
        pixels = made["pixel_values"].to(self.model.device, self.model.dtype)
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def _read(self, texts: list[str]) -> Tensor:
        # SigLIP was trained on texts of its full length, and pools the last place; CLIP pools the end of the text
        full = self.model.config.model_type.startswith("siglip")
        padding = {"padding": "max_length", "max_length": self.most} if full else {"padding": True}
        # explicitly: only what long: cut allows is longer, and the end-of-text token stays
        cut = {"truncation": True, "max_length": self.most}
        made = self.processor.tokenizer(texts, return_tensors="pt", **(padding | cut)).to(self.model.device)
        mask = {} if full else {"attention_mask": made["attention_mask"]}  # SigLIP reads its padding
        return self.model.get_text_features(input_ids=made["input_ids"], **mask).pooler_output


def _has_picture(prompt: Prompt) -> None:
    if not prompt.images:
        raise DataError(
            f"prompt {prompt.id!r} has no picture, which the term clip compares its answers with",
            remedy="Say under 'where' of the term which prompts are judged, or remove the row",
        )


def clip(spec: ClipSpec) -> ClipTerm:
    """The model, on the GPU where there is one.

    Raises:
        CheckpointError: There is no CLIP or SigLIP model with its processor.
    """
    try:
        kind = AutoConfig.from_pretrained(spec.path, trust_remote_code=False).model_type
        if kind not in ("clip", "siglip"):
            raise CheckpointError(f"{spec.path} is a model of type {kind}, expected clip or siglip. Give another path")
        model = AutoModel.from_pretrained(spec.path, dtype=spec.dtype, trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(spec.path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{spec.path} cannot be loaded as CLIP ({str(error).splitlines()[0]}). Give the folder or hub name of a "
            "CLIP or SigLIP model with its processor"
        ) from error
    model.requires_grad_(False).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return ClipTerm(spec=spec, model=model, processor=processor, most=model.config.text_config.max_position_embeddings)
