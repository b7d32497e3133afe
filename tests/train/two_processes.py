"""Started on two gloo processes by test_processes.py: runs what it is told, writes what it found.

``two_processes.py MODEL FOLDER``: the main process writes FOLDER/found.pt; each writes FOLDER/threads-RANK.txt, the
names of the threads that were alive while it ran and when it ended. A run that was stopped is taken up again with
spread parameters where FOLDER/stopped.yaml names one.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import train_runs
from torch.distributed.tensor import DTensor

from sightline.errors import DivergenceError, RecipeError
from sightline.recipes.distorted import DistortedSpec
from sightline.recipes.evaluation import BenchSpec, EvaluationSpec
from sightline.recipes.load import load_recipe
from sightline.recipes.preferences import BufferSpec
from sightline.recipes.schema import DatasetSpec, DataSpec, MixSpec, ModelSpec, NegativeSpec, PartsSpec, Recipe
from sightline.recipes.standardise import StandardiseSpec
from sightline.train.loop import train, train_step
from sightline.train.report import evaluate
from sightline.train.runtime import Runtime
from sightline.train.session import Session, open_session

SHARDED = (
    "sft",
    "text rows on one rank",
    "text without what is trained",
    "dpo",
    "checkpointed",
    "lora",
    "adapter",
    "cache",
    "online",
    "policy gradient",
    "ppo",
    "reward model",
)
"""Runs that are done with spread parameters as well."""


def sharded(recipe: Recipe) -> Recipe:
    train = replace(recipe.train, distribution="fsdp")
    return replace(recipe, output_dir=f"{recipe.output_dir}-fsdp", train=train)


def recipes(model: Path, folder: Path) -> dict[str, Recipe]:
    """Runs whose ranks hold unequal numbers of groups, tokens and pairs; the last step of an epoch leaves one empty."""
    vision = ModelSpec(path=str(model), parts=PartsSpec(vision="full"))
    frozen = ModelSpec(path=str(model), parts=PartsSpec(projector="frozen"))
    eyes = ModelSpec(path=str(model), parts=PartsSpec(language="frozen", vision="full"))
    made = {
        "sft": train_runs.recipe(model, folder / "sft", model=vision, micro_batch_tokens=60),
        "text rows on one rank": train_runs.recipe(model, folder / "text", model=vision, size=2, batch_size=2),
        "text without what is trained": train_runs.recipe(
            model, folder / "eyes", model=eyes, size=3, batch_size=3, micro_batch_tokens=1
        ),
        "dpo": train_runs.recipe(model, folder / "dpo", responses=2, model=frozen, micro_batch_tokens=90),
        "checkpointed": train_runs.recipe(
            model, folder / "gc", responses=2, model=replace(vision, gradient_checkpointing=True, layout="packed")
        ),
        "lora": train_runs.recipe(
            model, folder / "lora", responses=2, model=train_runs.lora(model), reference="adapter"
        ),
        "adapter": train_runs.recipe(
            model,
            folder / "from",
            responses=2,
            model=ModelSpec(path=str(model), adapter=str(adapter(model, folder / "adapter"))),
            reference="adapter",
        ),
        "cache": train_runs.recipe(model, folder / "cache", responses=2, reference="cache"),
        "reward model": train_runs.recipe(
            model,
            folder / "reward",
            responses=2,
            model=frozen,
            micro_batch_tokens=90,
            reference="none",
            algorithm={"name": "reward_model", "objective": "plackett_luce", "center_rewards_coefficient": 0.1},
        ),
        "kto": train_runs.recipe(
            model, folder / "kto", responses=2, micro_batch_tokens=120, algorithm={"name": "kto", "desirable_weight": 8}
        ),
        "aot": train_runs.recipe(model, folder / "aot", responses=2, micro_batch_tokens=90, algorithm={"name": "aot"}),
        "online": train_runs.online(model, folder / "online", "train_runs:CountsE"),
        "policy gradient": policy_gradient(model, folder / "gradient"),
        "ppo": ppo(model, folder / "ppo"),
        "papo": masked(model, folder / "papo", {"name": "papo"}),
        "vppo": masked(model, folder / "vppo", {"name": "vppo"}),
        "buffer": buffered(model, folder / "buffer"),
    }
    labelled = replace(made["kto"].data.train[0], relation="mismatched")
    made["kto"] = replace(made["kto"], data=DatasetSpec(train=(labelled,)))
    world = folder / "world"
    world.mkdir()
    (world / "scenes.json").write_text('{"scenes": 3, "questions": 1}')
    bench = BenchSpec(bench="scenes", data=str(world), max_new_tokens=5, metrics=("hal", "accuracy", "length"))
    made["lora"] = replace(made["lora"], evaluation=EvaluationSpec(every=3, benches=(bench,)))
    text = made["text rows on one rank"]
    rows = Path(text.data.train[0].path)
    lines = [json.dumps(row) for row in map(json.loads, rows.read_text().splitlines())]
    rows.write_text("\n".join([lines[0], without_image(lines[1])]) + "\n")
    evaluated = {
        name: replace(r, data=DatasetSpec(train=r.data.train, eval=r.data.train)) if r.data else r
        for name, r in made.items()
    }
    stored = train_runs.recipe(model, folder / "mixture", size=4, model=frozen, micro_batch_tokens=90)
    sources = (replace(stored.data.train[0], weight=2.0), replace(made["sft"].data.train[0], weight=0.5))
    data = DatasetSpec(train=sources, validation=0.5, cache_dir=str(folder / "cache"))
    evaluated["mixture"] = replace(stored, data=data)
    return {
        name: replace(r, train=replace(r.train, epochs=1.0, eval_every=2, max_grad_norm=0.1))
        for name, r in evaluated.items()
    }


def policy_gradient(model: Path, folder: Path) -> Recipe:
    """Rounds of two steps, each taken twice, whitened over all tokens of a round; ranks hold unequal numbers of groups.
    A high rate would make rounding sample other answers."""
    algorithm = {"name": "reinforce_pp_baseline", "mismatch": "icepop"}
    made = train_runs.online(
        model, folder, "train_runs:CountsE", algorithm=algorithm, micro_batch_tokens=90, learning_rate=1e-4, max_steps=5
    )
    assert made.online is not None
    return replace(made, online=replace(made.online, relation="none", inner_epochs=2))


def masked(model: Path, folder: Path, algorithm: dict[str, Any]) -> Recipe:
    """The same with answers under a masked picture, some of them sampled under noise; ranks hold unequal numbers of
    groups, and the last round has one for two."""
    made = train_runs.online(
        model, folder, "train_runs:CountsE", algorithm=algorithm, micro_batch_tokens=90, learning_rate=1e-4,
        max_steps=3, reference="auto",
    )  # fmt: skip
    assert made.online is not None
    prompts = Path(made.online.prompts.path)
    rows = [row for row in prompts.read_text().splitlines() if json.loads(row)["prompts"][0].get("images")]
    prompts.write_text("\n".join(rows[:3]) + "\n")
    spec = replace(
        made.online,
        relation="none",
        masked=NegativeSpec(kind="patches", patch=7),
        distorted=DistortedSpec(answers=1),
    )
    return replace(made, online=spec)


def buffered(model: Path, folder: Path) -> Recipe:
    """Pairs that wait, some of them trained in two rounds."""
    made = train_runs.online(
        model, folder, "train_runs:CountsE", micro_batch_tokens=90, learning_rate=1e-4, batch_size=3, max_steps=5
    )
    assert made.online is not None
    buffer = BufferSpec(unit="pair", uses=2, fresh=0.5, max_staleness=2)
    return replace(made, online=replace(made.online, relation="ranked", steps_per_round=1, buffer=buffer))


def ppo(model: Path, folder: Path) -> Recipe:
    """A critic with an adapter of its own, scores measured by those before, and SFT beside; the last rows of the mix
    and of the rounds leave one rank empty."""
    made = train_runs.online(
        model, folder, "train_runs:CountsE", algorithm={"name": "ppo", "kl_target": 0.5, "kl_horizon": 20.0},
        micro_batch_tokens=90, learning_rate=1e-4, max_steps=5, model=train_runs.lora(model), reference="adapter",
    )  # fmt: skip
    assert made.online is not None
    measure = StandardiseSpec(window=8, scale=2.0)
    online = replace(made.online, relation="none", inner_epochs=2, standardise=measure)
    rows = DatasetSpec(train=(DataSpec(path=str(train_runs.data(folder / "mixed", 7, 1))),))
    return replace(made, online=online, mix=MixSpec(data=rows, weight=0.5, batch_size=3))


def adapter(model: Path, folder: Path) -> Path:
    """One that changes the LM head, beside a part that is saved whole."""
    from peft import LoraConfig, get_peft_model  # not before sightline.models, which torchvision needs
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    config = LoraConfig(target_modules=["q_proj", "lm_head"], modules_to_save=["multi_modal_projector"])
    adapted = get_peft_model(AutoModelForImageTextToText.from_pretrained(model), config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return folder


def without_image(line: str) -> str:
    row = json.loads(line)
    row["prompts"][0].pop("images")
    row["prompts"][0]["messages"][0]["content"].pop(0)
    return json.dumps(row)


def gradients(recipe: Recipe) -> dict[str, torch.Tensor]:
    """Gradients of the first step, not clipped."""
    apart = replace(recipe, output_dir=f"{recipe.output_dir}-gradients", train=replace(recipe.train, max_grad_norm=0))
    with open_session(apart) as session:
        named = [pair for part in session.policy.parts().values() for pair in part]
        found: dict[str, torch.Tensor] = {}
        session.optimizer.step = lambda: found.update({n: whole(p.grad) for n, p in named if p.grad is not None})
        train_step(session)
    return found


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def held(recipe: Recipe) -> dict[str, float]:
    """Share of the entries of parameters, gradients and moments that this process holds after a step."""
    with open_session(replace(recipe, output_dir=f"{recipe.output_dir}-held")) as session:
        session.optimizer.zero_grad = lambda set_to_none: None
        train_step(session)
        evaluate(session)
        parameters = list(session.policy.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        moments = [state[name] for state in session.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
        return {
            "parameters": share_of(parameters),
            "gradients": share_of(gradients),
            "moments": share_of(moments),
            "of the module": share_of(list(session.model.state_dict().values())),
            "inside": inside(session),
        }


def share_of(tensors: list[torch.Tensor]) -> float:
    here = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum(tensor.numel() for tensor in here) / sum(tensor.numel() for tensor in tensors)


def inside(session: Session) -> float:
    """The same while sampling; then the ranks may also score, as often as each likes."""
    with session.runtime.whole(session.policy), torch.no_grad():
        for group in session.source.take(0).groups[session.runtime.rank :]:
            session.policy(session.lay_out([group]))
        return share_of(list(session.policy.parameters()))


def losses(recipe: Recipe) -> list[dict[str, Any]]:
    train(recipe, quiet=True)
    lines = (Path(recipe.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def refusal(runtime: Runtime) -> str:
    """What is said where the distribution asked for is not the one that runs."""
    said = []
    for wanted in ("single",) if runtime.size > 1 else ("ddp", "fsdp"):
        try:
            Runtime(distribution=wanted)
        except RecipeError as error:
            said.append(str(error))
    return "\n".join(said)


def divergence(recipe: Recipe) -> str:
    """What the main process says when a group of the other rank has a loss that is not finite."""
    with open_session(replace(recipe, output_dir=f"{recipe.output_dir}-bad")) as session:
        score = session.policy.forward

        def forward(batch: Any, heads: Any, reference: bool = False) -> Any:
            scores = score(batch, heads, reference)
            last = session.runtime.rank == session.runtime.size - 1
            return replace(scores, logprobs=scores.logprobs / 0) if last else scores

        session.policy.forward = forward
        try:
            train_step(session)
        except DivergenceError as error:
            return str(error)
    return ""


def measure(model: Path, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    runtime = Runtime()
    made = recipes(model, folder / f"rank{runtime.rank}") if runtime.is_main else None
    made = runtime.gather_objects(made)[0]
    for name, recipe in made.items():
        found[name] = {"gradients": gradients(recipe), "records": losses(recipe), "run": recipe.output_dir}
    for name in SHARDED if runtime.size > 1 else ():
        spread = sharded(made[name])
        found[f"fsdp {name}"] = {"gradients": gradients(spread), "records": losses(spread), "run": spread.output_dir}
    if runtime.size > 1:
        half = replace(made["dpo"], train=replace(made["dpo"].train, mixed_precision="bf16"))
        half = replace(half, output_dir=f"{half.output_dir}-bf16")
        found["bf16"] = {"ddp": gradients(half), "fsdp": gradients(sharded(half))}
        parts = PartsSpec(language="full", projector="lora")
        low = replace(made["lora"], model=replace(made["lora"].model, dtype="bfloat16", parts=parts), evaluation=None)
        low = replace(low, output_dir=f"{low.output_dir}-low")
        found["bfloat16 weights"] = {"ddp": gradients(low), "fsdp": gradients(sharded(low))}
        low = replace(
            made["sft"], model=replace(made["sft"].model, dtype="bfloat16"), output_dir=f"{low.output_dir}-sft"
        )
        found["bfloat16 run"] = {"records": losses(sharded(low)), "run": sharded(low).output_dir}
        found["held"] = runtime.gather_objects(held(sharded(made["sft"])))
    if (folder / "stopped.yaml").exists():
        found["resumed"] = losses(load_recipe(folder / "stopped.yaml"))
    found["refusal"] = refusal(runtime)
    found["divergence"] = divergence(made["sft"])
    found["size"], found["most"] = runtime.size, runtime.most(5 + runtime.rank)
    return found


def threads() -> str:
    """Names of the threads that are alive; one may end between the listing and the reading."""
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):
            names.append(path.read_text().strip())
    return " ".join(sorted(names))


if __name__ == "__main__":
    torch.set_num_threads(1)
    written = Path(sys.argv[2]) / f"threads-{os.environ['RANK']}.txt"
    running: list[str] = []
    atexit.register(lambda: written.write_text("\n".join([*running, threads()])))  # after those of the runtime
    result = measure(Path(sys.argv[1]), Path(sys.argv[2]))
    running.append(threads())
    if Runtime().is_main:
        torch.save(result, Path(sys.argv[2]) / "found.pt")
