"""What requests and replies hold. A field that a service would not honour is refused, not passed over."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(strict=True)]
Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Off = Literal[False] | None
"""Of an option that must not be asked for."""
Zero = Annotated[float, Field(strict=True, ge=0, le=0)] | None


class Wire(BaseModel):
    """Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Sent(Wire):
    """Of a request: a null asks for nothing, whatever the key; there are clients that write every option so."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


class ImageUrl(Sent):
    """A picture: ``data:image/png;base64,...``, or ``file:///path`` below the service's root."""

    url: Text
    detail: Literal["auto"] | None = None
    """The model's own size alone."""


class Part(Sent):
    """A piece of a message."""

    type: Literal["text", "image_url"]
    text: Text | None = None
    image_url: ImageUrl | None = None


class ChatMessage(Sent):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: Text | list[Part]


class ResponseFormat(Sent):
    """Plain text alone."""

    type: Literal["text"]


class ChatRequest(Sent):
    """OpenAI's ``/v1/chat/completions``."""

    model: Text
    """The name under ``/v1/models``."""
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]
    """Ending with one of the user, in which pictures stand before the text."""
    temperature: Annotated[Real, Field(ge=0, le=100)] = 1.0
    max_tokens: Annotated[Whole, Field(ge=1, le=1 << 20)] | None = None
    max_completion_tokens: Annotated[Whole, Field(ge=1, le=1 << 20)] | None = None
    seed: Whole | None = None
    """The same request with the same seed has the same answer; without one each is another sample."""
    top_p: Annotated[Real, Field(gt=0, le=1)] | None = None
    n: Annotated[Whole, Field(ge=1, le=1)] | None = None
    stream: Off = None
    logprobs: Annotated[bool, Field(strict=True)] | None = None
    """Whether each token of the answer is told of, the end of turn included."""
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    """Of ``logprobs``: likely tokens that are told of at each place."""
    frequency_penalty: Zero = None
    presence_penalty: Zero = None
    response_format: ResponseFormat | None = None
    user: Text | None = None
    """Read by nobody."""


class Answer(Wire):
    """The message that the model wrote."""

    role: Literal["assistant"] = "assistant"
    content: str


class TopLogprob(Wire):
    """A likely token, as the model itself rates it: temperature 1, whole vocabulary."""

    token: str
    logprob: float
    bytes: list[int] | None
    """UTF-8; null: half a character."""


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob]
    """The likeliest first."""


class Logprobs(Wire):
    """All tokens of the answer."""

    content: list[TokenLogprob]


class Choice(Wire):
    """The only answer."""

    index: Literal[0] = 0
    message: Answer
    finish_reason: Literal["stop", "length"]
    logprobs: Logprobs | None = None


class Usage(Wire):
    """Tokens of the prompt, every picture at its full length, of the answer, and of both."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatReply(Wire):
    """OpenAI's ``chat.completion``."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ModelCard(Wire):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When it was loaded here, Unix time."""
    owned_by: Literal["sightline"] = "sightline"


class ModelList(Wire):
    """OpenAI's ``/v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class CriticRequest(Sent):
    """OViP's ``/critic``; one of its services calls the question ``prompt``, the other ``question``."""

    prompt: Text | None = None
    question: Text | None = None
    response: Text
    """The answer to grade."""
    answer: Text
    """The reference."""


class CriticReply(Wire):
    """A grade out of 10, or that the judge gave none."""

    critic: int | Literal["none"]


class DescribeRequest(Sent):
    """OViP's ``/describe``."""

    prompt: Text
    """The question."""
    ground_truth: Text
    """The answer that the picture is to bear out: OViP sends the rejected one."""
    response: Text
    """The answer that it is to contradict: OViP sends the chosen one."""


class DescribeReply(Wire):
    """What the picture shows."""

    description: str


class GenerateRequest(Sent):
    """OViP's ``/generate``, with a seed, and with what editing needs."""

    prompt: Annotated[Text, Field(min_length=1, max_length=20_000)]
    """What the picture shows; of an edit, what is changed."""
    h: Annotated[Whole, Field(ge=16, le=4096)] = 384
    w: Annotated[Whole, Field(ge=16, le=4096)] = 384
    num_inference_steps: Annotated[Whole, Field(ge=1, le=1000)] = 40
    guidance_scale: Annotated[Real, Field(ge=0, le=1e4)] = 7.5
    seed: Annotated[Whole, Field(ge=0, lt=1 << 63)] | None = None
    """None: one that follows from the rest of the request."""
    save_dir: Text | None = None
    """Folder below the service's root for the picture and its line; None: the reply holds the bytes."""
    info: dict[str, Any] = Field(default_factory=dict)
    """Written into the line, as it is."""
    image: Text | None = None
    """Of an edit: the picture that is changed, base64 or a path below the root."""
    mask: Text | None = None
    """Of an edit: white where it is painted anew."""
    strength: Annotated[Real, Field(gt=0, le=1)] | None = None
    """Of an edit: how much of the picture is noise at first."""


class GenerateReply(Wire):
    """A file below ``save_dir``, or the bytes of a PNG."""

    path: str | None = None
    image: str | None = None
    """Base64."""


class ScoredPrompt(Sent):
    """A prompt of a group."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]
    facts: dict[str, Any] = Field(default_factory=dict)
    images: list[Text] = Field(default_factory=list)
    """Base64, or paths below the root; one for each marker in the messages."""


class ScoredResponse(Sent):
    """An answer of a group."""

    prompt: Annotated[Whole, Field(ge=0)] = 0
    text: Text
    finish_reason: Literal["stop", "length", "error"] | None = None
    tokens: Whole | None = None
    """How many it has; a reward model reads the text."""


class ScoreRequest(Sent):
    """What the reward term ``service`` sends: a group."""

    id: Text
    prompts: Annotated[list[ScoredPrompt], Field(min_length=1, max_length=1000)]
    responses: Annotated[list[ScoredResponse], Field(max_length=1000)]


class ScoreReply(Wire):
    """A number for each answer; null: it cannot be judged."""

    rewards: list[float | None]


class Health(Wire):
    """How a service does."""

    status: Literal["ok", "stuck"]
    """``stuck``: the work in progress takes longer than any request may."""
    service: str
    model: str
    version: str
    waiting: int
    busy_seconds: float
