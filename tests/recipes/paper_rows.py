"""Rows in the columns in which each paper publishes its data, drawn for a few pictures; and the recipe on them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from PIL import Image

QUESTION, GOOD, BAD = "What can you see in the picture?", "a red circle on a table.", "two blue stars and a moon."
ASKED = f"<image>\n{QUESTION}"
TEMPLATED = f"A chat between a person and an assistant. USER: {ASKED} ASSISTANT:"
ROOT = Path(__file__).parents[2]
Row = dict[str, Any]


def turns(*values: Any) -> list[Row]:
    return [{"from": ("human", "gpt")[place % 2], "value": value} for place, value in enumerate(values)]


def block_of(page: str, mark: str) -> str:
    """The block of Python of a page that has ``mark`` in it."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if mark in block]
    return found


def supervised(number: int, picture: str) -> Row:
    return {"id": str(number), "image": picture, "conversations": turns(ASKED, GOOD, "Is it big?", "No.")}


def listed(number: int, picture: str) -> Row:
    """A list of answers, the best first, and what was said before inside the question."""
    told = f"What is it?\n<image>\n\n### Answer:\nA shape.\n\n### Question:\n{QUESTION}"
    return {"id": str(number), "image": picture, "conversations": turns(told, [f"{GOOD} {number}", BAD])}


def asked(number: int, picture: str) -> Row:
    return {"id": str(number), "image": picture, "conversations": turns(ASKED, "")}


def two_outputs(number: int, picture: str) -> Row:
    return {
        "id": number,
        "image": picture,
        "captions": ["A red shape {on} a ground.", "One shape."],
        "conversations": turns("<image>\nWhat is there?", "A shape.", "Is it blue?", "(in its place)"),
        "output_1": {"from": "llava", "value": f"No, red {number}."},
        "output_2": {"from": "llava", "value": "Yes, and two dogs."},
        "hallucination": True,
        "preference": 1,
    }


def symbolic(number: int, picture: str) -> Row:
    question = "<image>\nWhich one?\nA. dog B. shape C. clock D. none"
    facts = {"captions": ["A red shape."], "caption_type": 1 + number % 7, "length_bonus": 1.0}
    return {"id": str(number), "image": picture, "conversations": turns(question, ""), **facts}


def rlaif_v(number: int, picture: str) -> Row:
    """With the picture inside, as the hub has it."""
    return {
        "ds_name": "drawn",
        "image": inside(picture),
        "question": QUESTION,
        "chosen": f"{GOOD} {number}",
        "rejected": BAD,
        "origin_dataset": "drawn",
        "origin_split": json.dumps({"model": "none", "type": "detailed_description"}),
        "idx": number,
        "image_path": f"{number}.jpg",
    }


def rlhf_v(number: int, picture: str) -> Row:
    text = {"question": QUESTION, "chosen": f"{GOOD} {number}", "rejected": f"{GOOD[:-1]} and a moon."}
    rest = {"origin_dataset": "drawn", "origin_split": "{}", "idx": number, "image_path": f"{number}.jpg"}
    return {"ds_name": "RLHF-V", "image": inside(picture), "text": json.dumps(text), **rest}


def inside(picture: str) -> Row:
    stream = io.BytesIO()
    Image.open(picture).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": Path(picture).name}


def ovip(number: int, picture: str, other: str) -> Row:
    sides = {name: {"from": "gpt", "value": text} for name, text in (("chosen", f"{GOOD} {number}"), ("rejected", BAD))}
    return {"conversations": turns(ASKED), **sides, "images": [picture, other]}


def mvc(number: int, picture: str, other: str) -> Row:
    return {
        "system_prompt": "",
        "instruction_prompt": QUESTION,
        "chosen_images": [picture],
        "chosen_response": f"{GOOD} {number}",
        "rejected_images": [other],
        "rejected_response": BAD,
    }


def mdpo(number: int, picture: str) -> Row:
    return {"img_path": picture, "prompt": TEMPLATED, "chosen": f"{GOOD} {number}", "rejected": BAD}


def two_conversations(question: str) -> Callable[[int, str], Row]:
    def row(number: int, picture: str) -> Row:
        sides = {"conversations": turns(question, f"{GOOD} {number}"), "rejected_conversations": turns(question, BAD)}
        return {"id": Path(picture).stem, "image": picture, **sides}

    return row


def sentinel(number: int, picture: str) -> Row:
    context = "The picture shows a table. It is bare." if number % 2 else ""
    sides = {"y_win": f"On it lies {GOOD}", "y_lose": f"Above it hang {BAD}"}
    return {"image_id": str(number), "image_path": picture, "question": QUESTION, "context": context, **sides}


def csr_prompt(number: int, picture: str) -> Row:
    return {"id": f"{number:012}", "image": picture, "input": "<image>\nTell me what this picture shows."}


def detail_question(number: int, picture: str) -> Row:
    return {"image": picture, "question": QUESTION, "metainfos": {"origin": number}}


def of_each(row: Callable[[int, str], Row]) -> Callable[[Path, Sequence[str]], list[Row]]:
    return lambda folder, pictures: [row(number, picture) for number, picture in enumerate(pictures)]


def of_two(row: Callable[[int, str, str], Row]) -> Callable[[Path, Sequence[str]], list[Row]]:
    return lambda folder, pictures: [
        row(number, picture, pictures[number - 1]) for number, picture in enumerate(pictures)
    ]


def ovip_prompts(folder: Path, pictures: Sequence[str]) -> list[Row]:
    """What docs/guides/ovip.md makes of the rows of OViP."""
    (folder / "data").mkdir()
    (folder / "data/ovip.json").write_text(json.dumps(of_two(ovip)(folder, pictures)))
    run_in(folder, block_of("docs/guides/ovip.md", "ovip_prompts.json"))
    found: list[Row] = json.loads((folder / "data/ovip_prompts.json").read_text())
    return found


def hadpo(folder: Path, pictures: Sequence[str]) -> Mapping[str, Any]:
    """What docs/data.md makes of the two files of HA-DPO, and the pictures where Visual Genome has them."""
    numbers = range(1, len(pictures) + 1)
    (folder / "data/VG/VG_100K").mkdir(parents=True)
    (folder / "data/hadpo").mkdir()
    listed_pictures = [{"image_id": n, "url": f"https://x/VG_100K/{n}.png", "width": 8} for n in numbers]
    described = {str(n): {"chosen": [f"{GOOD} {n}", GOOD], "rejected": [BAD, f"{BAD} {n}"]} for n in numbers}
    questions = [
        {
            "image_id": n,
            "question": "Is it red?",
            "answer": "yes",
            "chosen": f"Yes, {n}.",
            "reject": "No.",
            "correct": n == 1,
        }
        for n in numbers
    ]
    for number, picture in zip(numbers, pictures, strict=True):
        Image.open(picture).save(folder / f"data/VG/VG_100K/{number}.png")
    for name, content in (
        ("VG/image_data", listed_pictures),
        ("hadpo/desc_data", described),
        ("hadpo/pope_data", questions),
    ):
        (folder / f"data/{name}.json").write_text(json.dumps(content))
    run_in(folder, block_of("docs/data.md", "hadpo_"))
    places = {
        "data.train.0.path": folder / "data/hadpo_pope.jsonl",
        "data.train.1.path": folder / "data/hadpo_desc.jsonl",
    }
    return places | {f"data.train.{n}.image_dir": folder / "data/VG" for n in range(2)}


def run_in(folder: Path, code: str) -> None:
    """A block of a page, its ``data`` in ``folder``."""
    exec(compile(code.replace('"data', f'"{folder}/data'), "a page", "exec"), {})


ROWS: Mapping[str, Callable[[Path, Sequence[str]], Any]] = {
    "llava_rlhf_sft": of_each(supervised),
    "llava_rlhf_init": of_each(supervised),
    "llava_rlhf_rm": of_each(two_outputs),
    "llava_rlhf_ppo": of_each(symbolic),
    "vision_llm_alignment_sft": of_each(supervised),
    "vision_llm_alignment_rm": of_each(listed),
    "vision_llm_alignment_dpo": of_each(listed),
    "vision_llm_alignment_ppo": of_each(asked),
    "llava_orpo": of_each(rlaif_v),
    "csr": of_each(csr_prompt),
    "csr_dpo": of_each(two_conversations(TEMPLATED + " ")),
    "rlaif_v": of_each(detail_question),
    "rlaif_v_dpo": of_each(rlaif_v),
    "rlhf_v": of_each(rlhf_v),
    "mdpo": of_each(mdpo),
    "svco": of_two(mvc),
    "ha_dpo": hadpo,
    "povid": of_each(two_conversations(ASKED)),
    "sentinel": of_each(sentinel),
    **dict.fromkeys(("ovip_online", "ovip_online_dpo", "ovip_online_sft", "ovip_grpo"), ovip_prompts),
    **dict.fromkeys(
        (
            "ovip_sft", "ovip_sft_dif", "ovip_dpo", "ovip_mdpo", "ovip_ori_mdpo", "ovip_svco_noref", "ovip_svco_ref",
            "ovip_svco_textref", "ovip_offline",
        ),
        of_two(ovip),
    ),
    "dpo_t4": of_each(rlaif_v),
    "mdpo_t4": of_each(mdpo),
    "orpo_t4": of_each(rlaif_v),
}  # fmt: skip
"""By recipe: its rows, or the places of files that were written."""


def places_of(path: Path, folder: Path, pictures: Sequence[str]) -> list[str]:
    """Writes the rows of a recipe; gives the overrides that name them."""
    made = ROWS[path.stem](folder, pictures)
    if isinstance(made, Mapping):
        return [f"{key}={place}" for key, place in made.items()]
    if any("bytes" in row["image"] for row in made if isinstance(row.get("image"), dict)):
        file = folder / "rows.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), file)
    else:
        file = folder / "rows.json"
        file.write_text(json.dumps(made))
    text = path.read_text(encoding="utf-8")
    where = "online.prompts" if "\nonline:" in text else ("prompts" if "\nmethod:" in text else "data.train.0")
    found = [f"{where}.path={file}"]
    found += [f"{where}.image_dir=null"] if "image_dir:" in text else []
    return [*found, f"data.eval.0.path={file}"] if "  eval:" in text else found
