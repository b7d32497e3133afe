"""A pair as every layout writes it, for tests of all of them."""

from __future__ import annotations

import json
from typing import Any

IMAGE = {"type": "image"}
ASKED = {"role": "user", "content": [IMAGE, {"type": "text", "text": "What is on the shelf?"}]}
QUESTION, GOOD, BAD = "What is on the shelf?", "Three jars.", "A cat."


def llava(*values: Any) -> list[dict[str, Any]]:
    return [{"from": "gpt" if i % 2 else "human", "value": value} for i, value in enumerate(values)]


def turns(*words: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": word} for i, word in enumerate(words)]


def rated(text: str, *ratings: Any) -> dict[str, Any]:
    aspects = ("Helpfulness", "Visual Faithfulness", "Ethical Considerations")
    annotations = {aspect: {"Rating": r, "Rationale": "so"} for aspect, r in zip(aspects, ratings, strict=True)}
    return {"model": "a-model", "response": text, "annotations": annotations}


TEMPLATED = f"A chat between a person and an assistant. USER: <image>\n{QUESTION} ASSISTANT: "
PAIRS: dict[str, dict[str, Any]] = {
    "povid": {
        "id": "7",
        "image": "coco/1.jpg",
        "conversations": llava(f"<image>\n{QUESTION}", GOOD),
        "rejected_conversations": llava(f"<image>\n{QUESTION}", BAD),
    },
    "csr as released": {
        "id": "7",
        "image": "coco/1.jpg",
        "conversations": llava(
            f"A chat between a person and an assistant. USER: <image>\n{QUESTION} ASSISTANT: ", GOOD
        ),
        "rejected_conversations": llava(TEMPLATED, BAD),
    },
    "rlhf_v": {
        "id": "7",
        "image": {"bytes": None, "path": "coco/1.jpg"},
        "text": json.dumps({"question": QUESTION, "chosen": GOOD, "rejected": BAD}),
    },
    "rlaif_v": {"id": "7", "image": "coco/1.jpg", "question": QUESTION, "chosen": GOOD, "rejected": BAD},
    "rlaif_v formatted": {
        "id": "7",
        "images": ["coco/1.jpg"],
        "prompt": [{"role": "user", "content": [{**IMAGE, "text": None}, {"type": "text", "text": QUESTION}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": GOOD}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": BAD}]}],
    },
    "mdpo": {"id": "7", "img_path": "coco/1.jpg", "prompt": TEMPLATED, "chosen": GOOD, "rejected": BAD},
    "sentinel, at the first sentence": {
        "id": "7",
        "image_path": "coco/1.jpg",
        "question": QUESTION,
        "context": "",
        "y_win": GOOD,
        "y_lose": BAD,
    },
    "llava_rlhf": {
        "id": 7,
        "image": "coco/1.jpg",
        "conversations": llava(f"<image>\n{QUESTION}", "(replaced)"),
        "output_1": {"from": "llava", "value": BAD},
        "output_2": {"from": "llava", "value": GOOD},
        "preference": 2,
    },
    "swift": {
        "id": "7",
        "messages": turns(f"<image>{QUESTION}", GOOD),
        "rejected_response": BAD,
        "images": ["coco/1.jpg"],
    },
    "swift, rejected messages": {
        "id": "7",
        "messages": turns(f"<image>{QUESTION}", GOOD),
        "rejected_messages": turns(f"<image>{QUESTION}", BAD),
        "images": ["coco/1.jpg"],
        "rejected_images": ["coco/1.jpg"],
    },
    "swift, query": {
        "id": "7",
        "query": f"<image>{QUESTION}",
        "response": GOOD,
        "rejected_response": BAD,
        "images": ["coco/1.jpg"],
    },
    "messages with chosen and rejected": {
        "id": "7",
        "messages": turns(QUESTION),
        "chosen": {"role": "assistant", "content": GOOD},
        "rejected": {"role": "assistant", "content": BAD},
        "images": ["coco/1.jpg"],
    },
    "alpaca": {
        "id": "7",
        "instruction": QUESTION,
        "input": "",
        "chosen": GOOD,
        "rejected": BAD,
        "images": ["coco/1.jpg"],
    },
    "vision_llm_alignment": {
        "id": "7",
        "image": "coco/1.jpg",
        "conversations": llava(f"<image>\n{QUESTION}", [GOOD, BAD]),
    },
}
