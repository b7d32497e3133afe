"""``sightline data check`` on the records and photographs under ../shared/data, as they are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.real

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def look(run: Run, shared_data: Path, tmp_path: Path) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Checks a file of the folder; gives exit code and findings."""

    def call(rows: str, images: str, *arguments: object) -> tuple[int, dict[str, Any]]:
        out = tmp_path / "found.json"
        options = ("--data", shared_data / rows, "--image-dir", shared_data / images, "--json", out)
        code, _, err = run("data", "check", *options, *arguments)
        assert out.is_file(), err
        return code, json.loads(out.read_text(encoding="utf-8"))

    return call


def test_descriptions_that_are_preferred_are_always_the_longer_ones(look: Callable[..., Any]) -> None:
    code, found = look("ovip/preference_60.json", "ovip/ovip_images")
    assert code == 1
    bias = found["answers"]["bias"]
    assert (bias["pairs"], bias["longer"], bias["share"]["value"]) == (60, 60, 1.0)
    assert bias["share"]["low"] == pytest.approx(0.940, abs=1e-3)
    assert (found["pictures"]["files"], found["pictures"]["sharing"]["count"]) == (2, 60)
    assert [problem["kind"] for problem in found["problems"]] == ["bias"]


def test_science_questions_are_clean_and_their_labels_are_read_by_nothing(
    look: Callable[..., Any], tiny: dict[str, Path]
) -> None:
    folder = "vision_llm_alignment/sci_qa_images"
    code, found = look("vision_llm_alignment/sci_qa_60.json", folder, "--model", tiny["qwen2_5_vl"], "--rows", 1)
    assert code == 0
    assert found["sources"][0]["columns"] == {"label": 60}
    pictures = found["pictures"]
    assert (pictures["files"], pictures["distinct"], pictures["copied"]) == (60, 60, 0)
    assert (pictures["width"]["least"], pictures["width"]["most"]) == (103, 750)
    assert found["tokens"]["answer"]["most"] == 2  # the letter and the end of the turn
    pieces = [piece["text"] for piece in found["first"][0]["parts"][0]["pieces"]]
    assert "".join(pieces).startswith("<|im_start|>user\n<|vision_start|><image x")


def test_photographs_that_were_shrunk_and_saved_again_are_found(
    look: Callable[..., Any], shared_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "bench").mkdir()
    for path in sorted((shared_data / "ovip/ovip_images").iterdir()):
        with Image.open(path) as picture:
            small = picture.convert("RGB").resize((picture.width // 2, picture.height // 2))
            small.save(tmp_path / f"bench/{path.stem}.jpg", quality=60)
    folders = ("--against", tmp_path / "bench", "--against", shared_data / "images_misc")
    code, found = look("ovip/ovip_sample.json", "ovip/ovip_images", *folders, "--fail-on", "similar")
    assert code == 1
    copies, others = found["leaks"]
    assert (copies["same"]["count"], copies["similar"]["count"]) == (0, 12)
    assert (others["pictures"], others["same"]["count"], others["similar"]["count"]) == (7, 0, 0)
