"""Every recipe of a paper says what it reproduces, and trains two steps on rows in the columns of its release."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from fake_judge import FakeJudge
from paper_rows import block_of, places_of, run_in
from paper_servers import Painter, every_model
from PIL import Image
from tiny_clip import save_clip

from recipe_files import FOLDER, LOOPS, PAPERS, T4, head_of
from sightline.data.load import load_prompts
from sightline.loops.methods import build_method
from sightline.loops.prompts import read_prompts, round_prompts
from sightline.loops.stages import Round
from sightline.recipes.load import load_recipe
from sightline.recipes.load_loop import load_loop
from sightline.recipes.loop import LoopRecipe, training_recipe
from sightline.recipes.schema import Recipe
from sightline.train.loop import train
from sightline.train.metrics import read_metrics
from tiny_families import save_family

DATA = FOLDER.parents[1] / "shared/data"
RECIPES = [*PAPERS, *T4]
FAMILY = {"llava_orpo": "llava_next"} | dict.fromkeys(("dpo_t4", "mdpo_t4", "orpo_t4"), "qwen2_vl")
"""Family of the recipe's model, where it is not LLaVA 1.5."""
STEPS = ["train.max_steps=2", "train.batch_size=2", "train.warmup=0"]
SHORT = "online.sampling.max_new_tokens=6"
SMALL = {
    "llava_orpo": ["train.trackers=[]"],
    "llava_rlhf_ppo": [SHORT],
    "vision_llm_alignment_ppo": ["online.sampling.max_new_tokens=24", "algorithm.critic_warmup=1"],
    "csr": [
        "prompts.limit=2", "method.search.max_new_tokens=5", "method.search.max_sentences=2",
        "method.search.junk=keep",
    ],
    "rlaif_v": [
        "prompts_per_round=null", "prompts.limit=2", "method.sampling.n=3",
        "method.sampling.max_new_tokens=16", "method.pairs.balance=null",
    ],
    **{name: [SHORT] for name in ("ovip_online", "ovip_online_dpo", "ovip_online_sft", "ovip_grpo")},
}  # fmt: skip
"""Overrides beside those that name a model, rows and servers: lengths and numbers alone."""
STARTS_AT = {
    **dict.fromkeys(
        (
            "csr", "csr_dpo", "dpo_t4", "ha_dpo", "ovip_dpo", "ovip_online_dpo", "ovip_svco_noref", "ovip_svco_ref",
            "ovip_svco_textref", "povid", "rlaif_v", "rlaif_v_dpo", "rlhf_v", "sentinel", "vision_llm_alignment_dpo",
        ),
        1,
    ),
    **dict.fromkeys(("ovip_mdpo", "ovip_ori_mdpo"), 2),
    **dict.fromkeys(("mdpo", "mdpo_t4", "ovip_offline", "ovip_online"), 3),
    "svco": 4,
}  # fmt: skip
"""Comparisons of a row by their weights, the anchor among them: so often ln 2 is the loss before the first step."""


@pytest.fixture(scope="module")
def other_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Overrides that name every other model of a recipe, by the text of the recipe that asks for it."""
    clip = save_clip(tmp_path_factory.mktemp("clip"))["clip"]
    with FakeJudge(every_model) as server, Painter() as painter:
        named = f"{{model: 'openai:m', options: {{url: '{server.url}'}}, attempts: 2}}"
        yield {
            "  reward:\n    judge:": f"online.reward.judge.judge={server.url}",
            "    describe:": f"online.negatives.describe.judge={server.url}",
            "    paint:": f"online.negatives.paint={{urls: [{painter.url}], width: 24, height: 24}}",
            "    gate:": "online.negatives.gate=null",
            "    clip: {path:": f"method.relevance.clip.path={clip}",
            "  claims:\n": f"method.claims.writer={named}",
            "  questions:\n": f"method.questions.writer={named}",
            "  labeller:\n": f"method.labeller={{model: 'openai:m', options: {{url: '{server.url}'}}}}",
        }


@pytest.fixture(scope="module")
def smoke(
    tiny: dict[str, Path],
    pictures: list[str],
    other_models: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Path], Path]:
    """Runs a recipe, once, on its rows and a tiny model; gives the run directory. What it builds on runs before it."""
    done: dict[Path, Path] = {}
    models = {"qwen2_vl": save_family("qwen2_vl", tmp_path_factory.mktemp("qwen2_vl"))} | tiny

    def run(path: Path) -> Path:
        if path in done:
            return done[path]
        text, folder = path.read_text(encoding="utf-8"), tmp_path_factory.mktemp(path.stem)
        overrides = small(path, models[FAMILY.get(path.stem, "llava")], folder, places_of(path, folder, pictures))
        overrides += [override for words, override in other_models.items() if words in text]
        for key, name in re.findall(r"(path|adapter|start): runs/(\w+)(?=[/}\n])", text):
            place = run(path.with_stem(name))
            where = {"path": "online.reward.model.path", "adapter": "model.adapter", "start": "critic.start"}[key]
            overrides.append(f"{where}={place / 'model' if key == 'adapter' else place}")
        if path in LOOPS:
            done[path] = one_round(load_loop(path, overrides))
        else:
            train(load_recipe(path, overrides), quiet=True)
            done[path] = folder / "run"
        return done[path]

    return run


def small(path: Path, model: Path, folder: Path, places: list[str]) -> list[str]:
    """Overrides for two small steps of a tiny model; all else is as it stands."""
    common = [f"model.path={model}", "model.dtype=float32", f"output_dir={folder / 'run'}"]
    return [*common, *places, *STEPS, *SMALL.get(path.stem, [])]


def one_round(loop: LoopRecipe) -> Path:
    """The stages of a round and its training, without the merged model, which every loop makes alike."""
    root = Path(loop.output_dir)
    root.mkdir()
    method, prompts = build_method(loop.method), read_prompts(loop, root)
    method.check(prompts)
    (root / "round-1").mkdir()
    round = Round(
        number=1, folder=root / "round-1", spec=loop.model, prompts=round_prompts(loop, root, 1), seed=loop.seed
    )
    for stage in method.stages(round):
        stage.run()
    plain = training_recipe(loop, 1, loop.model, str(round.folder))
    train(method.training(round, plain), quiet=True)
    return Path(plain.output_dir)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_its_head_says_what_it_reproduces(path: Path) -> None:
    head = head_of(path)
    assert set(head) == {"Paper", "Data", "Published", "Differs", "Run"}, "one of the keys is missing or misspelt"
    (paper,), (data,), (published,) = head["Paper"], head["Data"], head["Published"]
    assert re.fullmatch(r"[^()]+ \(arXiv \d{4}\.\d{5}, [^()]+\)", paper), "title (arXiv id, venue)"
    assert len(data) > 40 and (re.search(r"\d\.\d|\d %", published) or re.search(r"\b[Nn]o(?:ne)?\b", published))
    assert head["Differs"] and all(len(one) > 20 and one.endswith(".") for one in head["Differs"])
    name = path.relative_to(FOLDER.parent).as_posix()
    assert any(re.match(rf"sightline (?:train|loop) {re.escape(name)}\b", line) for line in head["Run"])
    assert load_any(path).name == path.stem


def load_any(path: Path) -> Recipe | LoopRecipe:
    return load_loop(path) if path in LOOPS else load_recipe(path)


def test_pictures_are_padded_where_the_code_of_the_paper_pads() -> None:
    padded = {path.stem for path in PAPERS if load_any(path).model.pictures.pad_to_square}
    assert padded == {"csr", "csr_dpo", "llava_rlhf_init", "llava_rlhf_ppo", "llava_rlhf_rm", "llava_rlhf_sft"}


def test_what_is_trained_in_full_is_float32_under_bfloat16() -> None:
    """The combination whose steps tests/train/test_precision.py holds against float32."""
    for path in RECIPES:
        recipe = load_any(path)
        parts = recipe.model.parts
        if parts is not None and "full" in vars(parts).values() and recipe.model.quantization == "none":
            shared = recipe.train.mixed_precision if isinstance(recipe, Recipe) else "loop"
            assert (recipe.model.dtype, shared) in (("float32", "bf16"), ("bfloat16", "loop")), path


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_trains_two_steps_on_the_rows_of_its_paper(path: Path, smoke: Callable[[Path], Path]) -> None:
    if ("quantization:" in path.read_text() or "8bit" in path.read_text()) and find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed (extra: quantize)")
    run = smoke(path)
    records = read_metrics(run / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    assert max(record["grad_norm"] for record in records) > 0
    if "\n  name: dpo\n" in path.read_text():
        assert records[0]["loss"] == pytest.approx(STARTS_AT[path.stem] * math.log(2), rel=1e-4)
    assert not (run / "bad_rows.jsonl").exists() or not (run / "bad_rows.jsonl").read_text()


REAL = {
    "ovip_dpo": ("ovip/preference_60.json", "ovip"),
    "ovip_ori_mdpo": ("ovip/preference_60.json", "ovip"),
    "vision_llm_alignment_sft": ("vision_llm_alignment/sft_samples.json", None),
    "vision_llm_alignment_dpo": ("vision_llm_alignment/reward_samples.json", None),
}
"""Records of the papers, and the folder of their pictures; None: they are of COCO, and drawn here."""


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="no records: ../shared/data is absent")
@pytest.mark.parametrize("name", REAL)
def test_it_trains_on_records_of_its_paper(name: str, tiny: dict[str, Path], tmp_path: Path) -> None:
    path, (rows, pictures) = FOLDER / f"papers/{name}.yaml", REAL[name]
    for row in [] if pictures else json.loads((DATA / rows).read_text()):
        Image.new("RGB", (40, 30), (len(row["id"]) * 9, 80, int(row["id"][-2:]))).save(tmp_path / row["image"])
    folder = tmp_path if pictures is None else DATA / pictures
    places = [f"data.train.0.path={DATA / rows}", f"data.train.0.image_dir={folder}", "data.train.0.limit=5"]
    overrides = small(path, tiny["llava"], tmp_path, [*places, "data.on_bad_row=error"])
    result = train(load_recipe(path, overrides), quiet=True)
    records = read_metrics(result.run_dir / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    if name in STARTS_AT:
        assert records[0]["loss"] == pytest.approx(STARTS_AT[name] * math.log(2), rel=1e-4)


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="no records: ../shared/data is absent")
def test_prompts_of_papers_are_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/ovip.json").write_bytes((DATA / "ovip/preference_60.json").read_bytes())
    run_in(tmp_path, block_of("docs/guides/ovip.md", "ovip_prompts.json"))
    recipe = load_recipe(FOLDER / "papers/ovip_online.yaml", [f"online.prompts.path={tmp_path}/data/ovip_prompts.json"])
    assert recipe.online is not None
    prompts = load_prompts(replace(recipe.online.prompts, image_dir=str(DATA / "ovip")))
    assert len(prompts) == 60 and len({prompt.prompts[0].facts["answer"] for prompt in prompts}) == 2
    questions = DATA / "rlaifv_examples/detail_questions.jsonl"
    loop = load_loop(FOLDER / "papers/rlaif_v.yaml", [f"prompts.path={questions}"])
    assert len(load_prompts(loop.prompts)) == 14
