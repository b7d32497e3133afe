"""Questions per second of the evaluation harness against ``generate``, one question at a time.

    python -m benchmarks.evaluation                     # 6 yes/no questions about each of 4 pictures, as POPE asks
    python -m benchmarks.evaluation --json out.json

Both answer greedily with the same random model and to the same length, from picture files to stored text, in turn
in one process. Time is CPU time of the process: a busy machine slows wall-clock time of both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from benchmarks.shapes import SHAPES, build, records
from benchmarks.step import machine
from sightline.evaluation.answers import AnswerFile
from sightline.evaluation.bench import Question
from sightline.evaluation.stages import AnswerSpec, answer_questions
from sightline.models.load import hide_loading_bars, load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import ModelSpec
from sightline.rollouts.hf import HFEngine
from sightline.types import Prompt

INSTRUCTION = "Answer the question using a single word or phrase."
OBJECTS = ("person", "car", "dog", "chair", "table", "cup", "bird", "boat", "clock", "bench", "train", "kite")


def pope_like(folder: Path, shape: str, pictures: int, each: int) -> list[Question]:
    """``each`` presence questions about each picture."""
    questions = []
    for index, row in enumerate(records(folder, SHAPES[shape], answers=1, count=pictures)):
        for number in range(each):
            text = f"Is there a {OBJECTS[number % len(OBJECTS)]} in the image?\n{INSTRUCTION}"
            message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
            id = f"{index}/{number}"
            prompt = Prompt(id=id, messages=(message,), images=(str(row["image"]),))
            questions.append(Question(id=id, prompt=prompt))
    return questions


def harness(policy: Policy, questions: list[Question], length: int, batch_size: int) -> Callable[[], list[str]]:
    """Answers through ``answer_questions``; the engine is new in every round, so that no picture is cached."""

    def answer() -> list[str]:
        engine = HFEngine(policy)
        engine.ends = [policy.config.get_text_config().vocab_size - 1]  # an id that hardly comes: equal lengths
        with tempfile.TemporaryDirectory() as folder:
            file = AnswerFile(path=Path(folder) / "answers.jsonl")
            spec = AnswerSpec(max_new_tokens=length, batch_size=batch_size)
            return [one.answer.text for one in answer_questions(engine, questions, file, spec)]

    return answer


def one_at_a_time(policy: Policy, questions: list[Question], length: int) -> Callable[[], list[str]]:
    """Answers with ``generate`` of transformers, one call per question."""
    processor = policy.processor

    def answer() -> list[str]:
        texts = []
        for question in questions:
            with Image.open(question.prompt.images[0]) as picture:
                text = processor.apply_chat_template(
                    list(question.prompt.messages), tokenize=False, add_generation_prompt=True
                )
                inputs = processor(text=text, images=picture.convert("RGB"), return_tensors="pt")
            with torch.no_grad():
                out = policy.base.generate(**inputs, do_sample=False, max_new_tokens=length, min_new_tokens=length)
            new = out[0, inputs["input_ids"].shape[1] :]
            texts.append(processor.tokenizer.decode(new, skip_special_tokens=True).strip())
        return texts

    return answer


def seconds(work: Callable[[], list[str]]) -> float:
    """CPU seconds of one round."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="small")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--each", type=int, default=6, help="questions about one picture")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2, 16], help="tokens of an answer")
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (median is reported)")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    hide_loading_bars()
    report: dict[str, object] = {"machine": machine(), **{k: v for k, v in vars(options).items() if k != "json"}}
    with tempfile.TemporaryDirectory() as folder:
        policy = load_policy(ModelSpec(path=str(build(Path(folder), SHAPES[options.shape]))), trainable=False)
        questions = pope_like(Path(folder), options.shape, options.pictures, options.each)
        print(f"{'tokens':>8}{'harness':>10}{'generate':>10}   questions per CPU second; ratio; same answers")
        for length in options.lengths:
            report[str(length)] = compare(policy, questions, length, options.batch_size, options.rounds)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def compare(policy: Policy, questions: list[Question], length: int, batch_size: int, rounds: int) -> dict[str, float]:
    """Both in turn, after a round that is not timed; prints a line."""
    works = (harness(policy, questions, length, batch_size), one_at_a_time(policy, questions, length))
    same = statistics.fmean(a == b for a, b in zip(*(work() for work in works), strict=True))
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, work in zip(times, works, strict=True):
            side.append(seconds(work))
    speeds = [len(questions) / statistics.median(side) for side in times]
    ratio = speeds[0] / speeds[1]
    print(f"{length:>8}{speeds[0]:>10.2f}{speeds[1]:>10.2f}   {ratio:.2f}x   {same:.0%}")
    return {"harness": speeds[0], "generate": speeds[1], "ratio": ratio, "same_answers": same}


if __name__ == "__main__":
    main()
