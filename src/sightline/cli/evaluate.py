"""``sightline eval`` and ``sightline report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sightline.cli import benchmarks
from sightline.cli.console import out as console_out
from sightline.cli.console import progress_bar, say
from sightline.evaluation.benches import check_name
from sightline.recipes.schema import ModelSpec


class _Benchmarks(TyperGroup):
    """``eval amber pope`` is short for ``eval run amber pope``."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A first word that is no command is a benchmark; so is ``scenes`` with another one behind it."""
        several = len(args) > 1 and not args[1].startswith("-")
        if args[0] not in self.commands or (args[0] == "scenes" and several):
            check_name(args[0])
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Benchmarks,
    no_args_is_help=True,
    help="Measure a model on benchmarks: `sightline eval amber pope --model M --data DIR -o OUT`.",
    rich_markup_mode="markdown",
)
app.command(name="run")(benchmarks.run)
app.command(name="grade")(benchmarks.grade)
app.command(name="diff")(benchmarks.diff)
app.command(name="list")(benchmarks.list_benchmarks)
app.command(name="export")(benchmarks.export)
app.command(name="similarity")(benchmarks.similarity)
app.command(name="aggregate")(benchmarks.aggregate)


def report(
    run_dir: Annotated[Path, typer.Argument(help="output_dir of a training run.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page. Default: report.html in RUN_DIR.", show_default=False)
    ] = None,
) -> None:
    """Write the report of a training run: curves, samples, recipe and versions, in one HTML file.

    Example: `sightline report runs/dpo_llava_lora`
    """
    from sightline.report.run import report_run

    say(f"Report: {report_run(run_dir, out)}")


@app.command()
def scenes(
    model: Annotated[str, typer.Option(help="Folder or hub name of the model.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for answers, figures and report.")],
    adapter: Annotated[str | None, typer.Option(help="Folder of a PEFT adapter.", show_default=False)] = None,
    against: Annotated[
        Path | None, typer.Option(help="answers.jsonl of an earlier run, to compare with.", show_default=False)
    ] = None,
    number: Annotated[int, typer.Option("--scenes", min=1, help="How many held-out drawings.")] = 300,
    questions: Annotated[int, typer.Option(min=0, help="Most yes/no questions about each.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 64,
) -> None:
    """Measure hallucination in the built-in world of drawn scenes, where every fact is known.

    Greedy answers to one caption request and some yes/no questions about each held-out drawing.
    As a benchmark like the others, with protocols, resuming and intervals: `sightline eval run scenes`.
    Writes answers.jsonl, results.json and report.html, and prints the table.

    Example: `sightline eval scenes --model runs/demo/dpo/model -o runs/after --against runs/before/answers.jsonl`
    """
    from sightline.data.schema import read_groups, write_groups
    from sightline.evaluation.benches.scenes import answer_greedily, held_out_prompts
    from sightline.report.page import write_report
    from sightline.report.scenes import GALLERY_NOTE, scenes_gallery, scenes_table
    from sightline.report.table import table_json, terminal_table
    from sightline.rollouts.hf import load_engine
    from sightline.scenes.world import Scenes

    earlier = None if against is None else list(read_groups(against))
    world = Scenes(seed=seed)
    prompts = held_out_prompts(world, number, out / "images", questions=questions)
    engine = load_engine(ModelSpec(path=model, adapter=adapter))
    with progress_bar() as bar:
        task = bar.add_task("answering", total=len(prompts))
        answers = answer_greedily(
            engine, prompts, max_new_tokens=max_tokens, on_progress=lambda done, _: bar.update(task, completed=done)
        )
    write_groups(out / "answers.jsonl", answers)
    graded = [world.grade(side) for side in ([answers] if earlier is None else [earlier, answers])]
    rows = scenes_table(*graded)
    results = {"model": model, "adapter": adapter, "seed": seed, "scenes": number, "metrics": table_json(rows)}
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    compared = f" Before: {against}." if against is not None else ""
    page = write_report(
        out / "report.html",
        title="Hallucination in drawn scenes",
        table=rows,
        gallery=scenes_gallery(answers, *graded),
        notes=[
            f"Model: {model}{f' with {adapter}' if adapter else ''}.{compared} {number} held-out drawings, greedy.",
            GALLERY_NOTE,
        ],
    )
    console_out.print(terminal_table(rows))
    say(f"Report: {page}")
