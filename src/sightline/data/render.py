"""Groups to token ids and pixels: chat template, tokenizer and image processor, nothing learnt."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from PIL import Image

from sightline.data.encode import ChatEncoder, Encoded, too_long
from sightline.data.picture import picture_size, read_picture
from sightline.data.readers.rows import RowError
from sightline.data.recent import Recent
from sightline.data.template import text_of
from sightline.errors import DataError
from sightline.models.family import Family
from sightline.models.limits import Limits
from sightline.models.vision_inputs import exact_size, resized_pixels
from sightline.recipes.segments import SegmentSpec
from sightline.relations.segments import weigh_segments
from sightline.rendered import ImageInputs, RenderedGroup, RenderedPrompt, RenderedResponse
from sightline.types import Group, Prompt, Response

MOST_PIXELS = 2**25
"""Of a picture between decoding and cutting: some 300 MB in an image processor. LLaVA-1.5 (336 pixels) reaches it at
a ratio of 297 to 1, where what is left of the picture says nothing."""


class Lengths(NamedTuple):
    """Tokens of a group, every placeholder counted."""

    prompts: tuple[int, ...]
    pictures: tuple[int, ...]
    """Of each prompt, the tokens that are its pictures'."""
    trained: tuple[int, ...]
    """Of each prompt, the tokens of its history that SFT trains."""
    answers: tuple[tuple[int, int], ...]
    """(index of the prompt, tokens of the answer), the end of turn included."""

    @property
    def longest(self) -> int:
        """Of a prompt with its answer."""
        return max([self.prompts[prompt] + count for prompt, count in self.answers] or self.prompts)


class Renderer:
    """Renders groups with a model's processor. Thread-safe; holds no model."""

    def __init__(
        self,
        processor: Any,
        family: Family,
        *,
        limits: Limits | None = None,
        max_length: int | None = None,
        cache_bytes: int = 512 * 2**20,
        segments: SegmentSpec | None = None,
    ) -> None:
        """
        Args:
            processor: transformers processor with a tokenizer, an image processor and a chat template.
            family: names the processor's image keys.
            limits: of the model; None: its context is not known, and ids are checked against the tokenizer.
            max_length: most tokens of a prompt plus response, where it is less than the model's context.
            cache_bytes: most memory for the pixels of recently used pictures.
            segments: weighs the tokens of compared answers by where they differ.

        Raises:
            RecipeError: the processor has no chat template or no end-of-sequence token.
        """
        self.processor, self.family, self.tokenizer = processor, family, processor.tokenizer
        self.placeholder = family.placeholder(processor)
        self.limits = limits or Limits(vocabulary=len(self.tokenizer))
        self._most = min(self.limits.context, max_length or sys.maxsize)
        self.encoder = ChatEncoder(processor, around=family.around, longest=self._most)
        self._longest = max(map(len, self.tokenizer.get_vocab()))
        self._exact = exact_size(processor)
        self._pictures: Recent[ImageInputs] = Recent(cache_bytes, _bytes)
        self._segments = segments
        self._sizes: Recent[int] = Recent(2**16, lambda _: 1)
        self._expansions: Recent[tuple[int, ...]] = Recent(2**20, len)

    def render(self, group: Group) -> RenderedGroup:
        """Token ids and pixels of a group.

        Raises:
            DataError: an unreadable picture, placeholders that do not match the pictures, an empty answer, control
                tokens in a text, more tokens than the model's context has.
        """
        self._named(group, self._check_characters, group)
        images: dict[str, int] = {}
        inputs: list[ImageInputs] = []
        for path in (path for prompt in group.prompts for path in prompt.images):
            if path not in images:
                images[path] = len(inputs)
                inputs.append(self._named(group, self.image, path))
        rendered = RenderedGroup(
            group=group,
            prompts=tuple(self._named(group, self._prompt, prompt, inputs, images) for prompt in group.prompts),
            responses=tuple(self._named(group, self._response, group.prompts[r.prompt], r) for r in group.responses),
            images=tuple(inputs),
        )
        prompts = [len(prompt.tokens) for prompt in rendered.prompts]
        lengths = [prompts[response.prompt] + len(response.tokens) for response in rendered.responses]
        self._named(group, self._check_length, max(lengths or prompts), self.limits.context)
        return rendered if self._segments is None else weigh_segments(rendered, self._segments)

    def num_tokens(self, group: Group, *, new: int = 0) -> int:
        """Tokens of the group's longest prompt plus response, placeholders counted. Decodes no picture: its
        size decides.

        Args:
            group: the group.
            new: tokens that are still to be sampled behind.

        Raises:
            DataError: as ``render``, but for pictures whose content is broken; and tokens that do not spell their
                text, because it was edited or another model wrote it.
        """
        longest = new + self.lengths(group).longest
        self._named(group, self._check_length, longest, self._most)
        return longest

    def lengths(self, group: Group) -> Lengths:
        """Tokens of every prompt and answer, however long they are. Decodes no picture.

        Raises:
            DataError: as ``num_tokens``, but for the length.
        """
        self._named(group, self._check_characters, group)
        for response in group.responses:
            self._named(group, self._check_spelling, response)
        prompts, pictures, trained = [], [], []
        for prompt in group.prompts:
            pictures.append(sum(self._named(group, self.image_tokens, path) for path in prompt.images))
            encoded = self._named(group, self._encoded, prompt)
            prompts.append(len(encoded.ids) - len(prompt.images) + pictures[-1])
            trained.append(sum(end - start for start, end in encoded.spans))
        answers = [self._named(group, self._response, group.prompts[r.prompt], r) for r in group.responses]
        return Lengths(
            prompts=tuple(prompts),
            pictures=tuple(pictures),
            trained=tuple(trained),
            answers=tuple((answer.prompt, len(answer.tokens)) for answer in answers),
        )

    def image(self, path: str) -> ImageInputs:
        """Processor outputs of one picture; the most recent ones are kept."""
        return self._pictures.get(path, lambda: self._read_image(path))

    def image_tokens(self, path: str) -> int:
        """Tokens of one picture, from its size alone."""
        return self._sizes.get(path, lambda: self._count_image(path))

    def white_image(self) -> ImageInputs:
        """Processor outputs of a small white picture."""
        height, width = self._exact or (64, 64)
        return self._processed("white", Image.new("RGB", (width, height), "white"))

    # --- parts ---

    def _named(self, group: Group, make: Any, *arguments: Any) -> Any:
        """Calls ``make``; an error of the data then says which row it stands in."""
        try:
            return make(*arguments)
        except DataError as error:
            if error.source or not group.source:
                raise
            reason = error.reason if isinstance(error, RowError) else "malformed"
            raise RowError(reason, error.found, source=group.source, remedy=error.remedy) from error

    def _check_characters(self, group: Group) -> None:
        """A text of megabytes is refused before it is tokenized, which takes half a minute: no token is longer than
        the longest."""
        texts = [sum(len(text_of(message)) for message in prompt.messages) for prompt in group.prompts]
        most = max([texts[r.prompt] + len(r.text) * (r.tokens is None) for r in group.responses] or texts)
        if most > self._longest * self._most:
            self._check_length(most // self._longest, self._most)

    def _check_length(self, length: int, most: int) -> None:
        if length > most:
            raise too_long(length, most)

    def _encoded(self, prompt: Prompt) -> Encoded:
        encoded = self.encoder.prompt(prompt.messages)
        if (found := encoded.ids.count(self.processor.image_token_id)) != len(prompt.images):
            raise DataError(
                f"prompt {prompt.id!r} renders to {found} image placeholders and has {len(prompt.images)} images",
                remedy=f"Give one image per placeholder, and keep {self.processor.image_token!r} out of the text",
            )
        return encoded

    def _prompt(self, prompt: Prompt, inputs: Sequence[ImageInputs], index: dict[str, int]) -> RenderedPrompt:
        ids, spans = self._encoded(prompt)
        image_id = self.processor.image_token_id
        images = [inputs[index[path]] for path in prompt.images]
        tokens: list[int] = []
        placeholders: list[int] = []
        place: list[int] = []  # where each unexpanded id starts
        remaining = iter(images)
        for token in ids:
            place.append(len(tokens))
            if token != image_id:
                tokens.append(token)
                continue
            image = next(remaining)
            expansion = image.expansion or (self.placeholder,) * image.num_tokens
            placeholders.extend(len(tokens) + n for n, id in enumerate(expansion) if id == self.placeholder)
            tokens.extend(expansion)
        place.append(len(tokens))
        return RenderedPrompt(
            tokens=tuple(tokens),
            images=tuple(index[path] for path in prompt.images),
            placeholders=tuple(placeholders),
            trained=tuple((place[start], place[end]) for start, end in spans),
        )

    def _check_spelling(self, response: Response) -> None:
        if response.tokens is None:
            return
        outside = next((token for token in response.tokens if token >= self.limits.vocabulary), None)
        if outside is not None:
            found = f"the tokens of an answer hold the id {outside}, and the model's vocabulary ends below "
            found += str(self.limits.vocabulary)
            raise RowError("malformed", found, remedy="Remove 'tokens' and what goes with them: another model's ids")
        if self.processor.image_token_id in response.tokens:
            found = f"the tokens of an answer hold the image placeholder {self.processor.image_token!r}"
            raise DataError(found, remedy="Remove 'tokens': an answer cannot hold a picture")
        spelled = self.tokenizer.decode(response.tokens, skip_special_tokens=True)
        if "".join(spelled.split()) != "".join(response.text.split()):
            raise DataError(
                f"the tokens of an answer spell {spelled!r:.60} with this tokenizer, and its text is "
                f"{response.text!r:.60}",
                remedy="Remove 'tokens' and what goes with them: the text was edited, or another model wrote it",
            )

    def _response(self, prompt: Prompt, response: Response) -> RenderedResponse:
        if response.tokens is None:
            tokens = self.encoder.answer(prompt.messages, response.text)
            return RenderedResponse(prompt=response.prompt, tokens=tokens, trained=(True,) * len(tokens))
        trained = response.trained or (True,) * len(response.tokens)
        return RenderedResponse(prompt=response.prompt, tokens=response.tokens, trained=trained)

    def _read_image(self, path: str) -> ImageInputs:
        return self._processed(path, read_picture(path))

    def _processed(self, path: str, picture: Image.Image) -> ImageInputs:
        self._count_size(path, (picture.height, picture.width))  # what has no count is no picture for the model
        try:
            made, (text,) = self.processor._process_images([picture], **self._options)
        except ValueError as error:
            raise _refused(path, picture.size, error) from error
        tensors = {key: made[key] for key in self.family.image_keys}
        ids = self._expansions.get(text, lambda: self._expanded(text))
        count = ids.count(self.placeholder)
        return ImageInputs(key=path, tensors=tensors, num_tokens=count, expansion=() if count == len(ids) else ids)

    @cached_property
    def _options(self) -> dict[str, Any]:
        """As the processor's own call makes them: some hand their image processor options of theirs."""
        return dict(self.processor._merge_kwargs(return_tensors="pt")["images_kwargs"])

    def _expanded(self, text: str) -> tuple[int, ...]:
        """Ids of what the processor writes for a picture; most pictures get the same."""
        before, after = self.family.around
        inside = text.removeprefix(before).removesuffix(after)
        return tuple(self.tokenizer(inside, add_special_tokens=False).input_ids)

    def _count_image(self, path: str) -> int:
        return self._count_size(path, picture_size(path))

    def _count_size(self, path: str, size: tuple[int, int]) -> int:
        self._check_size(path, size)
        try:
            return self._sizes.get(size, lambda: self.family.count(self.processor, size))
        except ValueError as error:
            raise _refused(path, (size[1], size[0]), error) from error

    def _check_size(self, path: str, size: tuple[int, int]) -> None:
        if self._exact is not None and size != self._exact:
            wanted = f"it takes pictures of {self._exact[1]}x{self._exact[0]} as they are"
            raise _refused(path, (size[1], size[0]), wanted)
        if (pixels := resized_pixels(self.processor, size)) > MOST_PIXELS:
            wide = f"it is so thin that it would be enlarged to {pixels / 1e6:.0f} million pixels"
            raise _refused(path, (size[1], size[0]), wide)


def _refused(path: str, size: tuple[int, int], error: object) -> DataError:
    found = f"the image processor refuses picture {path} of {size[0]}x{size[1]} pixels ({error})"
    return RowError("broken image", found, remedy="Resize or crop the picture, or leave the row out")


def _bytes(image: ImageInputs) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in image.tensors.values())
