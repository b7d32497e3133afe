"""LLaVA-Bench COCO (Liu et al. 2023, arXiv:2304.08485): 90 questions about 30 pictures of COCO val2014.

Graded as LLaVA-Bench in the wild; the judge reads captions and boxes. VLMEvalKit does not have it. Options and
failures: see :mod:`sightline.evaluation.benches.llava_bench`.
"""

from __future__ import annotations

from typing import Final

from sightline.evaluation.benches.llava_bench import COCO, LLaVABench

BENCH: Final = LLaVABench(
    name="llava_bench_coco",
    protocols=("official", "lmms-eval"),
    needs=(
        "qa90_questions.jsonl, qa90_gpt4_answer.jsonl, caps_boxes_coco2014_val_80.jsonl (or the option context) and, "
        "for its wording, rule.json of the LLaVA repository; COCO val2014 pictures in val2014/; a text judge"
    ),
    layout=COCO,
)
