"""Small folders of benchmarks in their official layout, their pictures drawn by the built-in world."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

from sightline.scenes.world import Scenes

PICTURES = 3


def write(path: Path, content) -> None:
    """A JSON file, or JSON lines where the name ends in jsonl or the rows of POPE."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl" or "_pope_" in path.name
    text = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
    path.write_text(text, encoding="utf-8")


class Slices:
    """Makes the folders below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        groups = Scenes(seed=5).prompts("held_out", PICTURES, root / "drawn")
        prompts = [group.prompts[0] for group in groups]
        self.drawn = [prompt.images[0] for prompt in prompts]
        self.shapes = [[thing["shape"] for thing in prompt.facts["scene"]["objects"]] for prompt in prompts]

    def place(self, *names: str) -> None:
        for name, picture in zip(names, self.drawn, strict=True):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, path)

    def everything(self) -> list[str]:
        """Makes all of them; their names."""
        makers = (
            *(self.amber, self.pope, self.chair, self.object_halbench, self.mmhal, self.hallusionbench),
            *(self.mmstar, self.realworldqa, self.textvqa, self.cvbench, self.llava_bench, self.reefknot),
            *(self.mm_instruct, self.scienceqa, self.mme, self.scenes, self.llava_bench_coco),
        )
        for maker in makers:
            maker()
        return [maker.__name__ for maker in makers]

    def scenes(self) -> None:
        write(self.root / "scenes/scenes.json", {"scenes": 2, "questions": 2})

    def amber(self) -> None:
        self.place(*(f"amber/image/AMBER_{n}.jpg" for n in range(1, PICTURES + 1)))
        kinds = ("generative", "discriminative-hallucination", "discriminative-attribute-state", "relation")
        annotations, queries = [], []
        for kind in kinds:
            for number, shapes in enumerate(self.shapes, start=1):
                id = len(queries) + 1
                told = {"truth": shapes, "hallu": ["dog"]} if kind == kinds[0] else {"truth": "no"}
                annotations.append({"id": id, "type": kind, **told})
                text = "Describe this image." if kind == kinds[0] else "Is there a dog in this image?"
                queries.append({"id": id, "image": f"AMBER_{number}.jpg", "query": text})
        write(self.root / "amber/annotations.json", annotations)
        words = {shape: [] for shapes in self.shapes for shape in shapes}
        write(self.root / "amber/relation.json", {**words, "dog": ["cat"]})
        (self.root / "amber/safe_words.txt").write_text("picture\nimage")
        write(self.root / "amber/query/query_all.json", queries)

    def pope(self) -> None:
        names = [f"COCO_val2014_{n:012}.jpg" for n in range(PICTURES)]
        self.place(*(f"pope/val2014/{name}" for name in names))
        rows = [
            {"question_id": 2 * n + k, "image": name, "text": f"Is there a {shape} in the image?", "label": label}
            for n, name in enumerate(names)
            for k, (shape, label) in enumerate([(self.shapes[n][0], "yes"), ("dog", "no")])
        ]
        write(self.root / "pope/coco_pope_random.json", rows)

    def mmstar(self) -> None:
        self.place(*(f"mmstar/images/{n}.jpg" for n in range(PICTURES)))
        row = {"question": "What is it?\nOptions: A: a star, B: a dog", "answer": "A"}
        where = {"category": "coarse perception", "l2_category": "image scene and topic"}
        write(self.root / "mmstar/mmstar.jsonl", [{"index": n, **row, **where} for n in range(PICTURES)])

    def realworldqa(self) -> None:
        self.place(*(f"realworldqa/images/{n}.webp" for n in range(PICTURES)))
        text = "How many shapes are there? Please answer directly with a single word or number."
        rows = [{"question_id": str(n), "image": f"{n}.webp", "text": text, "answer": "2"} for n in range(PICTURES)]
        write(self.root / "realworldqa/llava_test_realworldqa.jsonl", rows)

    def cvbench(self) -> None:
        self.place(*(f"cvbench/img/{n}.png" for n in range(PICTURES)))
        rows = []
        for number, (source, kind) in enumerate([("ADE20K", "2D"), ("COCO", "2D"), ("Omni3D", "3D")]):
            asked = {"question": "How many?", "choices": ["1", "2"], "answer": "(A)", "prompt": "How many? (A) 1 (B) 2"}
            task = "Count" if kind == "2D" else "Depth"
            rows.append(
                {"idx": number, "type": kind, "task": task, "image": f"{number}.png", "source": source, **asked}
            )
        write(self.root / "cvbench/test.jsonl", rows)

    def textvqa(self) -> None:
        self.place(*(f"textvqa/train_images/p{n}.jpg" for n in range(PICTURES)))
        rows = [
            {"question": "what does it say?", "image_id": f"p{n}", "answers": ["stop"] * 10, "question_id": n}
            for n in range(PICTURES)
        ]
        write(self.root / "textvqa/TextVQA_0.5.1_val.json", {"data": rows})

    def mmhal(self) -> None:
        self.place(*(f"mmhal/images/m{n}.jpg" for n in range(PICTURES)))
        rows = [
            {
                "question_type": "attribute",
                "question_topic": "indoor",
                "image_id": f"m{n}",
                "image_src": f"https://example.org/m{n}.jpg",
                "image_content": ["Star"],
                "question": "What colour is it?",
                "gt_answer": "Red.",
                "model_answer": "",
            }
            for n in range(PICTURES)
        ]
        write(self.root / "mmhal/response_template.json", rows)

    def llava_bench(self) -> None:
        names = [f"{n:03}.jpg" for n in range(PICTURES)]
        self.place(*(f"llava_bench/images/{name}" for name in names))
        folder = self.root / "llava_bench"
        kinds = ("conv", "detail", "complex")
        asked = [
            {"question_id": n, "image": name, "text": "What is it?", "category": kinds[n]}
            for n, name in enumerate(names)
        ]
        write(folder / "questions.jsonl", asked)
        captions = [{"id": name[:3], "image": name, "caption": "A drawing."} for name in names]
        write(folder / "context.jsonl", captions)
        answers = [{"question_id": n, "text": "A star.", "answer_id": str(n)} for n in range(PICTURES)]
        write(folder / "answers_gpt4.jsonl", answers)

    def llava_bench_coco(self) -> None:
        names = [f"{n:012}.jpg" for n in range(PICTURES)]
        self.place(*(f"llava_bench_coco/val2014/COCO_val2014_{name}" for name in names))
        folder = self.root / "llava_bench_coco"
        kinds = ("conv", "detail", "complex")
        asked = [
            {"question_id": n, "image": name, "text": "What is it?", "category": kinds[n]}
            for n, name in enumerate(names)
        ]
        write(folder / "qa90_questions.jsonl", asked)
        box = {"category": "dog", "bbox": [0.1, 0.2, 0.3, 0.4]}
        captions = [{"id": name[:-4], "image": name, "captions": ["A drawing."], "instances": [box]} for name in names]
        write(folder / "caps_boxes_coco2014_val_80.jsonl", captions)
        answers = [{"question_id": n, "text": "A star.", "answer_id": str(n)} for n in range(PICTURES)]
        write(folder / "qa90_gpt4_answer.jsonl", answers)

    def mme(self) -> None:
        self.place(*(f"mme/existence/{n}.jpg" for n in range(PICTURES)))
        for number, shapes in enumerate(self.shapes):
            lines = (
                f"Is there a {name} in this image? Please answer yes or no.\t{truth}\n"
                for name, truth in ((shapes[0], "Yes"), ("dog", "No"))
            )
            (self.root / f"mme/existence/{number}.txt").write_text("".join(lines))

    def chair(self) -> None:
        self.coco("chair", "synonyms.txt")
        write(self.root / "chair/image_ids.json", list(range(PICTURES)))

    def object_halbench(self) -> None:
        self.coco("object_halbench", "synonyms_refine.txt")
        rows = [
            {"image_id": n, "question": "Describe it.", "image": base64.b64encode(Path(picture).read_bytes()).decode()}
            for n, picture in enumerate(self.drawn)
        ]
        write(self.root / "object_halbench/obj_halbench_300_with_image.jsonl", rows)

    def coco(self, name: str, synonyms: str) -> None:
        """Annotations, synonyms and pictures; every picture holds a dog."""
        names = [f"COCO_val2014_{n:012}.jpg" for n in range(PICTURES)]
        self.place(*(f"{name}/val2014/{picture}" for picture in names))
        images = [{"id": n, "file_name": picture} for n, picture in enumerate(names)]
        boxes = [{"image_id": n, "category_id": 18} for n in range(PICTURES)]
        categories = [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}]
        instances = {"images": images, "annotations": boxes, "categories": categories}
        captions = [{"image_id": n, "caption": "A puppy."} for n in range(PICTURES)]
        folder = self.root / name / "annotations"
        write(folder / "instances_val2014.json", instances)
        write(folder / "captions_val2014.json", {"images": images, "annotations": captions})
        (folder.parent / synonyms).write_text("dog, puppy\ncat, kitten\n")

    def hallusionbench(self) -> None:
        """Two figures of a set and the question without a figure."""
        kinds = [("VD", "illusion", 0, "1"), ("VD", "illusion", 1, "0"), ("VS", "chart", 0, "1")]
        rows = [
            {
                "category": kind,
                "subcategory": topic,
                "set_id": "0",
                "figure_id": str(figure),
                "question_id": "0",
                "visual_input": "0" if kind == "VS" else "1",
                "gt_answer": truth,
                "filename": None if kind == "VS" else f"./{kind}/{topic}/0_{figure}.png",
                "question": "Is there a star?",
                "gt_answer_details": "There is a star.",
            }
            for kind, topic, figure, truth in kinds
        ]
        folder = self.root / "hallusionbench"
        write(folder / "HallusionBench.json", rows)
        for figure in range(2):
            path = folder / f"hallusion_bench/VD/illusion/0_{figure}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.drawn[figure], path)

    def reefknot(self) -> None:
        self.place(*(f"reefknot/VG_100K/{n}.jpg" for n in range(PICTURES)))
        kinds = (("YESNO", "Yes/No", "Yes"), ("Multichoice", "Multichoice", "B"), ("VQA", "VQA", "A star is on a dog."))
        for stem, kind, label in kinds:
            row = {"query_prompt": "Is a star on a dog?", "label": label, "type": kind, "relation_type": "perception"}
            rows = [{"image_id": str(n), **row} for n in range(PICTURES)]
            write(self.root / f"reefknot/Dataset/{stem}.jsonl", rows)

    def mm_instruct(self) -> None:
        names = [f"SA1B/{n}.jpg" for n in range(PICTURES)]
        self.place(*(f"mm_instruct/images/{name}" for name in names))
        folder = self.root / "mm_instruct"
        asked = [{"question_id": n, "image": name, "text": "Write a poem."} for n, name in enumerate(names)]
        lines = "".join(json.dumps({**row, "category": "poem", "caption": "A star."}) + "\n" for row in asked)
        (folder / "MM-Instruct-Eval-question.json").write_text(lines)
        lines = "".join(json.dumps({"question_id": n, "text": "Once."}) + "\n" for n in range(PICTURES))
        (folder / "baseline_answers").mkdir()
        (folder / "baseline_answers/llava-v1.5-13b.json").write_text(lines)

    def scienceqa(self) -> None:
        """The release; the problem without a picture is not asked."""
        self.place(*(f"scienceqa/images/test/{n}/image.png" for n in range(PICTURES)))
        problem = {"question": "Which is it?", "choices": ["star", "dog"], "answer": 0, "hint": "", "subject": "nature"}
        pictures = [*(["image.png"] * PICTURES), None]
        problems = {str(n): {**problem, "image": picture} for n, picture in enumerate(pictures)}
        write(self.root / "scienceqa/problems.json", problems)
        write(self.root / "scienceqa/pid_splits.json", {"test": list(problems), "train": []})
