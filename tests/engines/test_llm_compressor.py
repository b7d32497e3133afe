"""GPTQ and AWQ by the real LLM Compressor, in an environment of its own; what it wrote is asked by a real vLLM too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import train_runs

from command_line import sightline
from engines.models import loaded, prompts, save_served
from engines.serving import ENVIRONMENT, ROOT, serving
from sightline.recipes.engine import EngineSpec
from sightline.recipes.schema import SamplingSpec
from sightline.rollouts.check import check_engine
from sightline.rollouts.vllm import VLLMEngine
from sightline.rollouts.vllm_sync import NoSync
from sightline.train.engine import score_batch
from sightline.train.loop import train

PYTHON = ROOT / ".engines/compress/bin/python"

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif("SIGHTLINE_COMPRESS" not in os.environ, reason="runs LLM Compressor: make test-compress"),
]


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert PYTHON.is_file(), f"{PYTHON} is missing: make test-compress makes it"
    folder = tmp_path_factory.mktemp(request.param)
    model = save_served(request.param, folder / "model")
    recipe = train_runs.recipe(model, folder, model=train_runs.lora(model), size=24, max_steps=6)
    return train(recipe, quiet=True).run_dir


@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_a_run_in_four_bits_is_learnt_from_its_own_rows(run: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "scenes.json").write_text('{"scenes": 2, "questions": 1}')
    asked = ("--quantize", kind, "--quantizer-python", PYTHON, "--bench", f"scenes={tmp_path / 'scenes'}")
    out = tmp_path / "out"
    done = sightline("export", run, "-o", out, *asked)
    assert done.code == 0, done.err
    found = json.loads((out / "quantised.json").read_text())
    assert found["calibration"] == 8 and found["compared"]["rows"] == 8
    assert 0 < found["moved"]["mean"] < 0.05 and found["picture_kept"]["share"] > 0.8
    settings = json.loads((out / "config.json").read_text())["quantization_config"]
    assert settings["ignore"] and all(name.startswith("re:") for name in settings["ignore"])
    assert not (out / "recipe.yaml").exists()
    if ENVIRONMENT.is_dir() and "avx512f" in Path("/proc/cpuinfo").read_text():
        check_served(out, tmp_path)


def check_served(model: Path, folder: Path) -> None:
    """vLLM answers as the trainer's side does, but for bfloat16."""
    with serving(model, folder, dtype="bfloat16") as server:
        policy, renderer = loaded(model)
        spec = EngineSpec(name="vllm", urls=(server.url,), timeout=120, patience=5)
        found = check_engine(
            VLLMEngine(policy, renderer, spec, NoSync()), renderer, prompts(folder),
            SamplingSpec(n=4, temperature=0.8, max_new_tokens=24), name="vllm",
            score=lambda some: score_batch(policy, some, "rows"),
        )  # fmt: skip
        assert found.answers > 0 and found.largest < 0.2
