"""Records that a policy is asked about online, what its answers are worth by the facts, and what SFT teaches of them.

ScienceQA and RLAIF-V lie beside the checkout with their pictures. POPE, COCO and AMBER come without: photographs of
RLAIF-V stand in their places under their names, so that rewards are by the true annotations, and no figure says
anything of a picture.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sightline.evaluation.bench import Answer
from sightline.evaluation.benches import chair
from sightline.types import Prompt

ROWS = 4
WORDS = 20
"""What ``verdict`` is a share of."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Some records."""

    prompts: dict[str, Any]
    """``online.prompts``: the file as it is published, but for AMBER, whose facts lie in a file of their own."""
    facts: dict[str, Any]
    """The term of the reward that reads the facts."""
    worth: Callable[[Prompt, str], float]
    """The same, computed anew."""
    asked: Sequence[tuple[str, Path]]
    """Question and picture of each record, as the file has them."""
    taught: Sequence[dict[str, Any]] = ()
    """Rows of SFT: to each question answers that are right and that are wrong, so that the policy samples both."""


def choice(data: Path, _: Path) -> Source:
    """ScienceQA with its diagrams: the letter of the label."""
    path, images = data / "vision_llm_alignment/sci_qa_60.json", data / "vision_llm_alignment/sci_qa_images"
    asked = json.loads(path.read_text())[:ROWS]
    return Source(
        prompts={"path": str(path), "image_dir": str(images), "limit": ROWS},
        facts={"kind": "multiple_choice", "fact": "label", "letters": "ABCDE", "reader": "mmstar"},
        worth=lambda prompt, text: float(text.upper()[:1] == prompt.facts["label"]),
        asked=[(r["conversations"][0]["value"], images / r["image"]) for r in asked],
        taught=[row(r["conversations"][0]["value"], letter, images / r["image"]) for r in asked for letter in "ABCD"],
    )


def yes_no(data: Path, pictures: Path) -> Source:
    """POPE: whether an object is there."""
    path = data / "pope/coco_pope_random.json"
    asked = json_lines(path)[:ROWS]
    stand_in(data, pictures, [r["image"] for r in asked])
    rename = {"text": "prompt"}
    return Source(
        prompts={"path": str(path), "image_dir": str(pictures), "limit": ROWS, "rename": rename},
        facts={"kind": "yes_no", "fact": "label"},
        worth=lambda prompt, text: float(words(text)[:1] == [prompt.facts["label"]]),
        asked=[(r["text"], pictures / r["image"]) for r in asked],
        taught=[row(r["text"], word, pictures / r["image"]) for r in asked for word in ("Yes", "No")],
    )


def coco(data: Path, pictures: Path) -> Source:
    """Pictures of LLaVA-Bench, to describe: objects against COCO's annotations and captions, found by the picture."""
    path, folder = data / "llava_bench_coco/qa90_questions.jsonl", pictures.parent / "coco"
    folder.mkdir()
    (folder / "synonyms.txt").symlink_to(data / "chair/synonyms.txt")
    for part in ("instances", "captions"):
        (folder / f"{part}_val2014.json").symlink_to(data / f"chair/coco80_{part}_val2014.json")
    captions = {r["image"]: r["captions"] for r in json_lines(data / "chair/caps_boxes_coco2014_val_80.jsonl")}
    asked = [r for r in json_lines(path) if r["category"] == "detail"][:ROWS]
    stand_in(data, pictures, [r["image"] for r in asked])

    @functools.cache  # runs of one policy sample the same answers
    def f1(picture: int, text: str) -> float:
        (graded,) = chair.BENCH.grade(folder, [Answer(id=str(picture), text=text)], "lmms-eval", {}, None).graded
        named = graded.counts
        precision = 1 - named["hallucinated"] / named["mentions"] if named["mentions"] else 1.0
        recall = named["found"] / named["objects"]
        return 2 * precision * recall / (precision + recall) if recall else 0.0

    of = {"limit": ROWS, "where": {"category": ["detail"]}, "rename": {"text": "prompt"}}
    return Source(
        prompts={"path": str(path), "image_dir": str(pictures), **of},
        facts={"kind": "objects", "world": "coco", "data": str(folder)},
        worth=lambda prompt, text: f1(int(Path(prompt.images[0]).stem), text),
        asked=[(r["text"], pictures / r["image"]) for r in asked],
        taught=[row(r["text"], told, pictures / r["image"]) for r in asked for told in captions[r["image"]][:3]],
    )


def amber(data: Path, pictures: Path) -> Source:
    """AMBER's descriptions: how many of the annotated objects are named. Taught: some of them, and some that the
    picture tempts to say."""
    facts = {r["id"]: r for r in json.loads((data / "amber/annotations.json").read_text())[:ROWS]}
    asked = json.loads((data / "amber/query/query_generative.json").read_text())[:ROWS]
    stand_in(data, pictures, [r["image"] for r in asked])
    path, relation = pictures.parent / "amber.jsonl", json.loads((data / "amber/relation.json").read_text())
    path.write_text("".join(json.dumps(r | {"truth": facts[r["id"]]["truth"]}) + "\n" for r in asked))

    def worth(prompt: Prompt, text: str) -> float:
        owners = {word: word for word in reversed(prompt.facts["truth"])}
        for word in reversed(prompt.facts["truth"]):  # the first object that lists a word is the one it stands for
            owners |= dict.fromkeys(relation[word], word)
        return len({owners[word] for word in words(text) if word in owners}) / len(prompt.facts["truth"])

    return Source(
        prompts={"path": str(path), "image_dir": str(pictures), "rename": {"query": "prompt"}},
        facts={"kind": "objects", "world": "amber", "data": str(data / "amber"), "measure": "coverage"},
        worth=worth,
        asked=[(r["query"], pictures / r["image"]) for r in asked],
        taught=[
            row(r["query"], f"There is {', '.join(facts[r['id']][key][:3])}.", pictures / r["image"])
            for r in asked
            for key in ("truth", "hallu")
        ],
    )


SOURCES: dict[str, Callable[[Path, Path], Source]] = {"choice": choice, "yes_no": yes_no, "coco": coco, "amber": amber}


def judged(data: Path, url: str) -> Source:
    """RLAIF-V's photographs, to describe; a judge scores from 0 to 20."""
    path, options = data / "rlaifv_examples/detail_questions.jsonl", {"url": url, "model": "m", "tries": 1}
    return Source(
        prompts={"path": str(path), "limit": ROWS},
        facts={"kind": "judge", "judge": "openai", "options": options, "highest": WORDS},
        worth=lambda _, text: verdict(text) / WORDS,
        asked=[(r["question"], path.parent / r["image"]) for r in json_lines(path)[:ROWS]],
    )


def verdict(answer: str) -> int:
    """What the judge of these tests says of an answer: different words."""
    return min(WORDS, len(set(answer.split())))


def row(question: str, answer: str, picture: Path) -> dict[str, Any]:
    return {"prompt": question, "completion": answer, "images": [str(picture)]}


def words(text: str) -> list[str]:
    return text.lower().replace(",", " ").replace(".", " ").split()


def stand_in(data: Path, folder: Path, names: Iterable[str]) -> None:
    """A photograph for each name, a picture's own for all of its questions."""
    photographs = sorted((data / "rlaifv_examples/images").glob("0*.jpg"))
    for photograph, name in zip(photographs, dict.fromkeys(names), strict=False):
        (folder / name).symlink_to(photograph)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
