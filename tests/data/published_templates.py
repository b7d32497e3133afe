"""Chat templates with the traits of published ones, in words of our own: what they take, and how they end a turn."""

from __future__ import annotations

from dataclasses import dataclass

PARTS = "{% for p in m.content %}{% if p.type == 'image' %}IMAGE{% else %}{{ p.text }}{% endif %}{% endfor %}"


def parts(image: str) -> str:
    """Pictures and texts in their order."""
    return PARTS.replace("IMAGE", image)


def first(image: str, after: str = "") -> str:
    """All pictures, then all texts, each text with something ``after`` it."""
    return (
        "{% for p in m.content if p.type == 'image' %}" + image + "{% endfor %}"
        "{% for p in m.content if p.type == 'text' %}{{ p.text }}" + after + "{% endfor %}"
    )


def chatml(image: str, *, before: str = "", between: str = "\n") -> str:
    return (
        before + "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}" + parts(image) + "<|im_end|>" + between +
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )  # fmt: skip


LLAVA_15 = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role | upper }}: {% endif %}" + first("<image>\n", " ") +
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)  # fmt: skip
MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST] " + first("<image>\n") + " [/INST]"
    "{% elif m.role == 'assistant' %} " + first("") + r"<\s> "
    "{% else %}{{ m.content[0].text }}\n{% endif %}{% endfor %}"
)
VICUNA = (
    "A chat between a person and an assistant. {% for m in messages %}{% if m.role == 'user' %}USER: "
    + first("<image>\n") + " {% elif m.role == 'assistant' %}ASSISTANT: {% generation %}" + first("") +
    "</s>{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)  # fmt: skip
QWEN2 = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    + parts("<|vision_start|><|image_pad|><|vision_end|>") + "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)  # fmt: skip
GEMMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set head = messages[0].content[0].text + '\n\n' %}"
    "{% set talk = messages[1:] %}{% else %}{% set head = '' %}{% set talk = messages %}{% endif %}"
    "{% for m in talk %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must take turns') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + (head if loop.first else '') }}"
    "{% for p in m.content %}{% if p.type == 'image' %}<start_of_image>{% else %}{{ p.text | trim }}{% endif %}"
    "{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
IDEFICS3 = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}"
    + parts("<image>") + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)  # fmt: skip
INTERNVL = chatml("<IMG_CONTEXT>\n")
LLAMA32 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% if m.content is string %}{{ m.content | trim }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<|image|>{% else %}{{ p.text | trim }}{% endif %}{% endfor %}"
    "{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """A template, and the special tokens of its tokenizer."""

    template: str
    eos: str
    end: str
    """What ends a turn."""
    image: str
    bos: str | None = None
    others: tuple[str, ...] = ()


CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
PUBLISHED = {
    "llava-1.5": Published(template=LLAVA_15, eos="</s>", end="</s>", image="<image>", bos="<s>"),
    "llava-1.6-mistral": Published(template=MISTRAL, eos="</s>", end="</s>", image="<image>", bos="<s>"),
    "llava-1.6-vicuna": Published(template=VICUNA, eos="</s>", end="</s>", image="<image>", bos="<s>"),
    "llava-1.6-hermes-yi": Published(
        template=chatml("<image>\n", between=""), eos="<|im_end|>", end="<|im_end|>", image="<image>", others=CHATML
    ),
    "qwen2-vl": Published(
        template=QWEN2, eos="<|im_end|>", end="<|im_end|>", image="<|image_pad|>",
        others=(*CHATML, "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
    ),
    "qwen3-vl": Published(
        template=chatml("<|vision_start|><|image_pad|><|vision_end|>"), eos="<|im_end|>", end="<|im_end|>",
        image="<|image_pad|>", others=(*CHATML, "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
    ),
    "gemma-3": Published(
        template=GEMMA3, eos="<eos>", end="<end_of_turn>", image="<start_of_image>", bos="<bos>",
        others=("<start_of_turn>", "<end_of_turn>"),
    ),
    "idefics3": Published(
        template=IDEFICS3, eos="<|end_of_text|>", end="<end_of_utterance>", image="<image>",
        others=("<|im_start|>", "<end_of_utterance>"),
    ),
    "internvl": Published(
        template=INTERNVL, eos="<|im_end|>", end="<|im_end|>", image="<IMG_CONTEXT>", others=CHATML
    ),
    "llama-3.2-vision": Published(
        template=LLAMA32, eos="<|eot_id|>", end="<|eot_id|>", image="<|image|>", bos="<|begin_of_text|>",
        others=("<|start_header_id|>", "<|end_header_id|>"),
    ),
}  # fmt: skip
