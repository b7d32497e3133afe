"""Groups to token ids and pixels: chat template, tokenizer and image processor, nothing learnt."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from PIL import ExifTags, Image, ImageOps

from sightline.errors import DataError, RecipeError
from sightline.models.family import Family
from sightline.types import (
    Group,
    ImageInputs,
    Message,
    Prompt,
    RenderedGroup,
    RenderedPrompt,
    RenderedResponse,
    Response,
)


class Renderer:
    """Renders groups with a model's processor. Thread-safe; holds no model.

    Prompt and answer are tokenized together and cut where the prompt ends, so that an answer of the
    data has the ids that the model would have sampled. Where the tokenizer merges across that border,
    the answer is tokenized by itself.
    """

    def __init__(self, processor: Any, family: Family, *, cache_bytes: int = 512 * 2**20) -> None:
        """
        Args:
            processor: transformers processor with a tokenizer, an image processor and a chat template.
            family: names the processor's image keys.
            cache_bytes: most memory for the pixels of recently used pictures.

        Raises:
            RecipeError: the processor has no chat template or no end-of-sequence token.
        """
        self.processor, self.family, self.tokenizer = processor, family, processor.tokenizer
        self.template = processor.chat_template or self.tokenizer.chat_template
        if not self.template:
            raise RecipeError("the processor has no chat template. Set model.chat_template to a Jinja file")
        if self.tokenizer.eos_token_id is None:
            raise RecipeError(
                "the tokenizer has no eos_token: an answer could not end. Set one in its tokenizer_config.json"
            )
        self.image_id: int = processor.image_token_id
        self._cache: OrderedDict[str, ImageInputs] = OrderedDict()
        self._cache_left = cache_bytes
        self._lock = threading.Lock()

    def render(self, group: Group) -> RenderedGroup:
        """Token ids and pixels of a group.

        Raises:
            DataError: an unreadable picture, placeholders that do not match the pictures, an empty answer.
        """
        try:
            return self._render(group)
        except DataError as error:
            if error.source or not group.source:
                raise
            raise DataError(error.found, source=group.source, remedy=error.remedy) from error

    def num_tokens(self, group: Group) -> int:
        """Tokens of the group's longest prompt plus response, placeholders counted. Decodes no picture: its
        size decides.

        Raises:
            DataError: as ``render``, but for pictures whose content is broken.
        """
        lengths = []
        for prompt in group.prompts:
            ids, _ = self._history(prompt)
            lengths.append(len(ids) - len(prompt.images) + sum(self.image_tokens(path) for path in prompt.images))
        return max(
            [lengths[r.prompt] + len(self._response(group.prompts[r.prompt], r).tokens) for r in group.responses]
            or lengths
        )

    def image_tokens(self, path: str) -> int:
        """Placeholder tokens of one picture, from its size alone."""
        try:
            with Image.open(path) as opened:
                width, height = opened.size
                turned = opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(path, error) from error
        size = (width, height) if turned else (height, width)
        counted = self.processor._get_num_multimodal_tokens(image_sizes=[size])  # as vLLM asks it
        return int(counted["num_image_tokens"][0])

    def image(self, path: str) -> ImageInputs:
        """Processor outputs of one picture; the most recent ones are kept."""
        with self._lock:
            if path in self._cache:
                self._cache.move_to_end(path)
                return self._cache[path]
        made = self._read_image(path)
        with self._lock:
            if path not in self._cache:
                self._cache[path] = made
                self._cache_left -= _bytes(made)
            while self._cache_left < 0 and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._cache_left += _bytes(dropped)
        return made

    # --- parts ---

    def _render(self, group: Group) -> RenderedGroup:
        images: dict[str, int] = {}
        inputs: list[ImageInputs] = []
        for path in (path for prompt in group.prompts for path in prompt.images):
            if path not in images:
                images[path] = len(inputs)
                inputs.append(self.image(path))
        prompts = tuple(
            self._prompt(prompt, [inputs[images[p]] for p in prompt.images], images) for prompt in group.prompts
        )
        responses = tuple(self._response(group.prompts[r.prompt], r) for r in group.responses)
        return RenderedGroup(group=group, prompts=prompts, responses=responses, images=tuple(inputs))

    def _prompt(self, prompt: Prompt, images: Sequence[ImageInputs], index: dict[str, int]) -> RenderedPrompt:
        ids, spans = self._history(prompt)
        found = ids.count(self.image_id)
        if found != len(images):
            raise DataError(
                f"prompt {prompt.id!r} renders to {found} image placeholders and has {len(images)} images",
                remedy=f"Give one image per placeholder, and keep {self.processor.image_token!r} out of the text",
            )
        tokens: list[int] = []
        placeholders: list[int] = []
        place: list[int] = []  # where each unexpanded id starts
        remaining = iter(images)
        for token in ids:
            place.append(len(tokens))
            if token != self.image_id:
                tokens.append(token)
                continue
            count = next(remaining).num_tokens
            placeholders.extend(range(len(tokens), len(tokens) + count))
            tokens.extend([self.image_id] * count)
        place.append(len(tokens))
        return RenderedPrompt(
            tokens=tuple(tokens),
            images=tuple(index[path] for path in prompt.images),
            placeholders=tuple(placeholders),
            trained=tuple((place[start], place[end]) for start, end in spans),
        )

    def _history(self, prompt: Prompt) -> tuple[list[int], list[tuple[int, int]]]:
        """Unexpanded ids of the prompt, and spans of the assistant turns that are trained."""
        ids: list[int] = []
        text = ""
        spans = []
        for index, message in enumerate(prompt.messages):
            if message["role"] != "assistant" or not message.get("weight"):
                continue
            before = self._text(prompt.messages[:index], generation=True)
            after = before + self._answer(prompt.messages[:index], message, before)
            ids = self._continue(ids, text, before)
            start = len(ids)
            ids = self._continue(ids, before, after)
            spans.append((start, len(ids)))
            text = after
        return self._continue(ids, text, self._text(prompt.messages, generation=True)), spans

    def _response(self, prompt: Prompt, response: Response) -> RenderedResponse:
        if response.tokens is not None:
            trained = response.trained or (True,) * len(response.tokens)
            return RenderedResponse(prompt=response.prompt, tokens=response.tokens, trained=trained)
        if not response.text.strip():
            raise DataError(f"prompt {prompt.id!r} has an empty answer", remedy="Give it a text, or leave the row out")
        before = self._text(prompt.messages, generation=True)
        message = {"role": "assistant", "content": [{"type": "text", "text": response.text}]}
        text = before + self._answer(prompt.messages, message, before)
        start = self._continue([], "", before)
        tokens = self._continue(start, before, text)[len(start) :]
        if self.image_id in tokens:
            raise DataError(
                f"the answer to prompt {prompt.id!r} contains the image placeholder {self.processor.image_token!r}",
                remedy="Remove it: an answer cannot hold a picture",
            )
        if tokens[-1] != self.tokenizer.eos_token_id:
            tokens.append(self.tokenizer.eos_token_id)
        return RenderedResponse(prompt=response.prompt, tokens=tuple(tokens), trained=(True,) * len(tokens))

    def _text(self, messages: Sequence[Message], *, generation: bool) -> str:
        plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        text = self.processor.apply_chat_template(
            plain, chat_template=self.template, tokenize=False, add_generation_prompt=generation
        )
        return str(text)

    def _answer(self, history: Sequence[Message], message: Message, before: str) -> str:
        """What the template writes for an assistant message after ``before``, up to its end of turn."""
        whole = self._text([*history, message], generation=False)
        if not whole.startswith(before):
            raise RecipeError(
                "the chat template writes a conversation that does not start with its own generation prompt, "
                "so an answer cannot be told from its prompt. Set model.chat_template to a Jinja file that does"
            )
        answer = whole[len(before) :]
        eos = self.tokenizer.eos_token
        return answer[: answer.index(eos) + len(eos)] if eos in answer else answer.rstrip()

    def _continue(self, ids: list[int], text: str, longer: str) -> list[int]:
        """Ids of ``longer``, which starts with ``text``, beginning with the ids already fixed for ``text``."""
        whole = self._tokenize(longer, first=True)
        if whole[: len(ids)] == ids:
            return whole
        return ids + self._tokenize(longer[len(text) :], first=False)

    def _tokenize(self, text: str, *, first: bool) -> list[int]:
        bos = self.tokenizer.bos_token
        special = first and not (bos and text.startswith(bos))
        ids = list(self.tokenizer(text, add_special_tokens=special).input_ids)
        # some tokenizers close every text with eos: only an answer ends a turn, and its text says so
        if special and ids and ids[-1] == self.tokenizer.eos_token_id and not text.endswith(self.tokenizer.eos_token):
            ids.pop()
        return ids

    def _read_image(self, path: str) -> ImageInputs:
        try:
            with Image.open(path) as opened:
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(path, error) from error
        try:
            made = self.processor.image_processor(images=[picture], return_tensors="pt")
        except ValueError as error:
            size = f"{picture.width}x{picture.height}"
            raise DataError(
                f"the image processor refuses picture {path} of {size} pixels ({error})", remedy="Resize the picture"
            ) from error
        tensors = {key: made[key] for key in self.family.image_keys}
        expansion = self.processor.replace_image_token(made, 0)
        return ImageInputs(key=path, tensors=tensors, num_tokens=expansion.count(self.processor.image_token))


def _unreadable(path: str, error: Exception) -> DataError:
    return DataError(f"picture {path} cannot be read ({error})", remedy="Restore the file, or leave the row out")


def _bytes(image: ImageInputs) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in image.tensors.values())
