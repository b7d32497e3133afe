"""What decides how many tokens a group takes, and whether it can be rendered, as text."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json

from sightline.data.render import Renderer
from sightline.recipes.schema import ModelSpec

_OTHER = frozenset(
    {"path", "adapter", "dtype", "quantization", "double_quant", "compute_dtype", "layout", "attention", "parts"}
    | {"lora", "gradient_checkpointing", "chat_template"}
)
"""Fields of a model that decide nothing about tokens, or whose content is looked at itself."""
_PACKAGES = ("transformers", "tokenizers", "pillow", "jinja2")


def render_key(renderer: Renderer, model: ModelSpec) -> str:
    """Tokenizer, chat template, image processor, limits and versions; equal where rows take equal tokens."""
    tokenizer, processor = renderer.tokenizer, renderer.processor
    if tokenizer.is_fast:
        words = tokenizer.backend_tokenizer.to_str()
    else:
        words = json.dumps([sorted(tokenizer.get_vocab().items()), repr(tokenizer)])
    decides = {
        "tokenizer": hashlib.sha256(words.encode(errors="surrogatepass")).hexdigest(),
        "special": [repr(tokenizer.special_tokens_map), repr(tokenizer.bos_token), repr(tokenizer.eos_token)],
        "template": renderer.encoder.template.source,
        "processor": processor.to_json_string(),
        "images": processor.image_processor.to_json_string(),
        "family": [renderer.family.name, list(renderer.family.around)],
        "limits": repr(renderer.limits),
        "model": {name: value for name, value in vars(model).items() if name not in _OTHER},
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    return json.dumps(decides, sort_keys=True, default=repr)
