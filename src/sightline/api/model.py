"""A model that is asked: ``load``, and what it does."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from sightline.api.given import check_kind, check_path
from sightline.api.groups import Groups, pictures_folder, read_rows
from sightline.api.run import Run
from sightline.data.memory import Rows
from sightline.data.readers.chat import PLACEHOLDER, parse_turns, user_turn
from sightline.data.readers.conversation import Reading, build_prompt
from sightline.data.readers.pictures import Pictures
from sightline.data.readers.rows import check_characters
from sightline.errors import DataError, RecipeError
from sightline.evaluation.logprobs import LogprobScorer
from sightline.evaluation.named_model import NamedModel, named_model
from sightline.models.load import hide_loading_bars
from sightline.recipes.load import check_spec
from sightline.recipes.pictures import model_fields
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.hf import HFEngine, load_engine, not_applied
from sightline.types import Group, Message, Prompt, Response

Picture = str | Path | bytes | Image.Image
"""The path of a picture, the bytes of a file, or a PIL picture."""
_log = logging.getLogger(__name__)


class Model:
    """A vision-language model that is asked; :func:`load` makes one."""

    def __init__(self, named: NamedModel, engine: HFEngine) -> None:
        self.named, self.engine = named, engine
        self._scorer = LogprobScorer(engine.policy, engine.renderer, layout="rows")

    def answer(
        self,
        picture: Picture | Sequence[Picture] | None,
        question: str | Sequence[Message],
        *,
        n: int = 1,
        temperature: float | None = None,
        top_p: float = 1.0,
        max_tokens: int = 512,
        seed: int = 0,
    ) -> Group:
        """Answers a question about a picture.

        Args:
            picture: one, several in their order, or None.
            question: a text; or the messages of a conversation that ends with a question, as rows have them: with a
                part ``{"type": "image"}`` or ``<image>`` for each picture, or the pictures themselves in the parts.
            n: answers. Picture and question are computed once for all.
            temperature: 0: greedy. None: greedy for one answer, 1 for several.
            top_p: least share of probability that is sampled from.
            max_tokens: most tokens of an answer.
            seed: same seed, same answers.

        Returns:
            The question with its answers: ``texts``, and ``responses`` with the ``tokens``, their log-probabilities in
            nats under the model itself, whatever the temperature (``rollout_logprobs``), and why each ended
            (``finish_reason``: ``stop``, or ``length`` where it was cut at ``max_tokens``).

        Raises:
            DataError: a picture that is missing or cannot be read, or a question too long for the model.
            RecipeError: an option out of its range.
        """
        group = self._asked(picture, question)
        warm = (0.0 if n == 1 else 1.0) if temperature is None else temperature
        return self.engine.generate([group], _sampling(n, warm, top_p, max_tokens), seed=seed)[0]

    def stream(
        self,
        picture: Picture | Sequence[Picture] | None,
        question: str | Sequence[Message],
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_tokens: int = 512,
        seed: int = 0,
    ) -> Iterator[str]:
        """The answer piece by piece, as it is made: together the text that :meth:`answer` gives. Leaving the loop ends
        the work.

        Raises:
            DataError, RecipeError: as of :meth:`answer`.
        """
        group, sampling = self._asked(picture, question), _sampling(1, temperature, top_p, max_tokens)
        return _pieces(lambda tell: self.engine.stream(group, sampling, seed=seed, on_text=tell))

    def score(
        self, picture: Picture | Sequence[Picture] | None, question: str | Sequence[Message], answers: Sequence[str]
    ) -> Group:
        """How likely the model finds given answers.

        Returns:
            The question with the answers, each with ``rewards["logprob"]``, its summed log-probability in nats under
            the model, end of turn included, and ``rewards["tokens"]``, over how many tokens.

        Raises:
            DataError: as of :meth:`answer`; no answer, or an empty one.
        """
        if not isinstance(answers, list | tuple) or not answers or not all(isinstance(text, str) for text in answers):
            found = "found one text" if isinstance(answers, str) else f"found {answers!r:.60}"
            raise DataError(f"{found}, expected texts", source="answers", remedy="Give a list of texts")
        group = replace(self._asked(picture, question), responses=tuple(Response(text=text) for text in answers))
        return self._scorer.scores([group])[0]

    def sample(self, rows: Rows | str | Path, sampling: SamplingSpec | None = None, *, seed: int = 0) -> Groups:
        """Answers many questions; those about one picture share its encoding.

        Args:
            rows: a file or rows in memory, as of ``read_rows``; their own answers are left out.
            sampling: how many answers and how; None: one at temperature 1, of at most 256 tokens.
            seed: same seed, same answers, whatever they are asked with.

        Raises:
            DataError: a bad row, or one too long for the model.
        """
        check_kind(sampling, "sampling", SamplingSpec)
        asked = read_rows(rows, prompts_only=True)
        return Groups(self.engine.generate(asked, sampling or SamplingSpec(), seed=seed))

    def __repr__(self) -> str:
        policy = self.engine.policy
        size = sum(parameter.numel() for parameter in policy.parameters())
        held = self.named.spec.quantization
        kind = self.named.spec.dtype if held == "none" else f"{held}, {self.named.spec.dtype}"
        return f"Model({self.named.title}: {policy.family.name}, {size:,} parameters, {kind} on {policy.device})"

    def _asked(self, picture: Picture | Sequence[Picture] | None, question: str | Sequence[Message]) -> Group:
        """The question as a Group. Its id follows from what is asked: sampled answers depend on it."""
        given: list[Any] = [] if picture is None else list(picture) if isinstance(picture, list | tuple) else [picture]
        prompt = _prompt(question, list(map(_kept, given)))
        shown = [hashlib.sha256(Path(one).read_bytes()).hexdigest() for one in prompt.images]
        told = json.dumps([list(prompt.messages), shown])
        id = f"asked-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        return Group(prompts=(replace(prompt, id=id),), source="question")


def load(
    model: str | Path | Run,
    adapter: str | Path | Run | None = None,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str | None = None,
    quantization: Literal["none", "nf4", "int8"] = "none",
    pictures: Mapping[str, Any] | None = None,
) -> Model:
    """Loads a model to ask it.

    Args:
        model: folder or hub name; a run or its folder, which stands for the model that it saved; or the folder of an
            adapter, which names its base itself.
        adapter: an adapter for the model, or the run that saved one.
        dtype: type of the weights.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None: the GPU where there is one.
        quantization: holds the linear layers of the decoder in 4 bits (nf4) or 8 (extra ``quantize``).
        pictures: other pictures than those saved with the model: ``image_size``, or keys of ``model.pictures`` of
            recipes (``{"max_pixels": 200704}``).

    Raises:
        RecipeError: no model there, two adapters, an option that there is not, or a reward model (``sightline.score``
            takes these).
        UnsupportedError: a family that Sightline does not have, or an option that its family does not have.

    >>> load("runs/dpo_llava_lora").answer("cat.jpg", "What is on the table?").texts  # doctest: +SKIP
    """
    if not isinstance(pictures, Mapping | None):
        raise RecipeError(f"pictures is {pictures!r:.60}, expected options by name. Write {{'max_pixels': 200704}}")
    options = {"dtype": dtype, "quantization": quantization, **model_fields(pictures or {})}
    return opened(name_model(model, adapter, **options), device)


def name_model(model: str | Path | Run, adapter: str | Path | Run | None = None, **options: Any) -> NamedModel:
    """What a name or a run stands for; nothing is loaded. See ``evaluation.named_model``."""
    if not isinstance(model, Run):
        check_path(model, "model")
    if not isinstance(adapter, Run | None):
        check_path(adapter, "adapter")
    first, second = (str(one.path if isinstance(one, Run) else one) for one in (model, adapter or ""))
    return named_model(first, second or None, **options)


def opened(named: NamedModel, device: str | None = None) -> Model:
    """The model, loaded."""
    hide_loading_bars()
    engine = load_engine(named.spec, device, processor_of=named.processor)
    if told := not_applied(engine.policy):
        _log.warning("%s", told)
    return Model(named, engine)


def _prompt(question: str | Sequence[Message], images: list[str]) -> Prompt:
    """A question as rows of files are read: what of it would be passed over is refused.

    Raises:
        DataError: it is none, ends with an answer, or its pictures do not match their places.
    """
    remedy = "Give a text, or messages with role and content of which the last is a question"
    asked = [question] if isinstance(question, str) else question
    if not isinstance(asked, list | tuple) or not asked:
        raise DataError(f"found {question!r:.60}, expected a question", source="question", remedy=remedy)
    try:
        check_characters(asked)
        said = question if not isinstance(question, str) or question.strip() else PLACEHOLDER * len(images)
        turns = [user_turn(said)] if isinstance(said, str) else parse_turns(said, "messages")
        if turns[-1].role != "user":
            raise DataError(f"the conversation ends with a turn by {turns[-1].role}", remedy=remedy)
        return build_prompt(turns, images, Reading(pictures=_pictures(), id="question"), {})
    except DataError as error:
        raise DataError(error.found, source="question", remedy=error.remedy) from error


def _pictures() -> Pictures:
    return Pictures(image_dir=None, data_dir=str(Path.cwd()), cache_dir=pictures_folder(), must_exist=True)


def _kept(picture: Picture) -> str:
    """The path of a picture; one in memory is written by its content."""
    try:
        return _pictures().path(picture)
    except DataError as error:
        remedy = "Give the path of a file, the bytes of one, or a PIL picture (of an array: PIL.Image.fromarray)"
        raise DataError(error.found, source="picture", remedy=remedy) from error


def _sampling(n: int, temperature: float, top_p: float, max_tokens: int) -> SamplingSpec:
    values = {"n": n, "temperature": temperature, "top_p": top_p, "max_new_tokens": max_tokens}
    return check_spec(SamplingSpec, "options", **values)


class _Left(Exception):
    """Nobody listens any more."""


def _pieces(work: Callable[[Callable[[str], None]], object]) -> Iterator[str]:
    """What work that tells pieces tells, while it goes on in a thread of its own. Where nobody listens any more it
    ends at its next piece."""
    told: queue.Queue[str | BaseException | None] = queue.Queue()
    left = threading.Event()

    def tell(piece: str) -> None:
        if left.is_set():
            raise _Left
        told.put(piece)

    def run() -> None:
        try:
            work(tell)
            told.put(None)
        except BaseException as error:
            told.put(error)

    thread = threading.Thread(target=run, name="stream", daemon=True)
    thread.start()
    try:
        while (piece := told.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        left.set()
        thread.join()
