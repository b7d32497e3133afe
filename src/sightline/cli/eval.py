"""``sightline eval run | grade | diff | list | export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from sightline.cli import complete
from sightline.cli.console import out as console_out
from sightline.cli.console import say
from sightline.cli.json_result import Document, JsonFile
from sightline.cli.model_options import Picture, Quantization, asked_model
from sightline.evaluation.similarity import SPACY_MODEL, THRESHOLD

DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Folder of the benchmark, or one with a folder for each; NAME=DIR for a single one. Repeatable.",
        show_default=False,
    ),
]
ProtocolOption = Annotated[
    list[str] | None,
    typer.Option(
        "--protocol",
        help="How answers are graded; NAME=P for one benchmark. Default: the first that `eval list` shows.",
        show_default=False,
    ),
]
BenchOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="key=value of the benchmark, NAME.key=value of one. Repeatable.", show_default=False),
]
JudgeOption = Annotated[
    str | None,
    typer.Option(help="openai[:MODEL], http://ADDRESS, local:FOLDER or replay:FILE.", show_default=False),
]
JudgeSetting = Annotated[
    list[str] | None,
    typer.Option("--judge-option", help="key=value: model, url, timeout, tries, workers, ...", show_default=False),
]
ModelOption = Annotated[
    str, typer.Option(help="Folder or hub name of the model; a run directory; an adapter.", show_default=False)
]
BenchName = Annotated[
    str,
    typer.Argument(
        metavar="BENCH", help="Name of the benchmark.", show_default=False, autocompletion=complete.benchmark
    ),
]
BenchNames = Annotated[
    list[str],
    typer.Argument(
        metavar="BENCH...", help="Names of benchmarks.", show_default=False, autocompletion=complete.benchmark
    ),
]

OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for answers, figures and the page. Default: eval/NAME, after the adapter or the model.",
        show_default=False,
    ),
]
PromptsOption = Annotated[
    list[str] | None,
    typer.Option(help="Word the questions as this protocol does; NAME=P for one benchmark.", show_default=False),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Categories to ask about, separated by commas; NAME=C for one benchmark: amber=generative.",
        show_default=False,
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of an answer. Default: the protocol's.", show_default=False)
]
BatchSize = Annotated[int, typer.Option(min=1, help="Questions generated together. In float32 it changes no answer.")]
TopP = Annotated[float, typer.Option(min=1e-6, max=1, help="Sample from the likeliest tokens that hold this share.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: the GPU if there is one.", show_default=False)
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Answer the first questions only, to look at; not graded.", show_default=False),
]
EarlierRun = Annotated[Path | None, typer.Option(help="--out of an earlier run, to stand beside.", show_default=False)]


def run(
    benches: BenchNames,
    model: ModelOption,
    adapter: Annotated[str | None, typer.Option(help="Folder of a PEFT adapter.", show_default=False)] = None,
    data: DataOption = None,
    out: OutOption = None,
    protocol: ProtocolOption = None,
    option: BenchOption = None,
    judge: JudgeOption = None,
    judge_option: JudgeSetting = None,
    against: EarlierRun = None,
    prompts: PromptsOption = None,
    only: OnlyOption = None,
    max_tokens: MaxTokens = None,
    batch_size: BatchSize = 32,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy, as the protocols say.")] = 0.0,
    top_p: TopP = 1.0,
    seed: Annotated[int, typer.Option(help="Of sampled answers.")] = 0,
    dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Type of the weights. In bfloat16 an answer may depend on what it is batched with."),
    ] = "float32",
    quantization: Quantization = "none",
    picture: Picture = None,
    device: Device = None,
    limit: Limit = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew if answers are there.")] = False,
) -> Document:
    """Answer benchmarks with a model and grade the answers. `run` may be left out.

    Questions about one picture share its encoding. Answers are stored as they come, so a stopped
    command goes on where it was; they are graded when all are there, and can be graded again
    without the model (`eval grade`). Writes answers.jsonl and results.json for each benchmark,
    and report.html. The benchmark `scenes` is drawn and needs no data.

    Example: `sightline eval run amber pope --model runs/dpo/model --data eval_data -o eval/dpo --against eval/base`
    """
    from sightline.cli.eval_run import Lines, answer_all, check_earlier, grade_all
    from sightline.evaluation.run import Evaluation, default_out
    from sightline.evaluation.stages import AnswerSpec

    spec = AnswerSpec(max_new_tokens=max_tokens, batch_size=batch_size, temperature=temperature, top_p=top_p, seed=seed)
    chosen = asked_model(model, adapter, dtype=dtype, quantization=quantization, picture=picture)
    evaluation = Evaluation(out=out or default_out(chosen.path, chosen.adapter), model=chosen, spec=spec)
    lines = Lines(
        data=data or [],
        prompts=prompts or [],
        only=only or [],
        protocols=protocol or [],
        options=option or [],
        judge=judge,
        judge_options=judge_option or [],
    )
    check_earlier(against, benches)
    tasks = answer_all(evaluation, lines, benches, device=device, limit=limit, overwrite=overwrite)
    return grade_all(evaluation, tasks, against=against, asked=len(dict.fromkeys(benches)))


def grade(
    bench: BenchName,
    responses: Annotated[
        Path, typer.Option(help="answers.jsonl, or the official submission file.", show_default=False)
    ],
    data: DataOption = None,
    protocol: ProtocolOption = None,
    option: BenchOption = None,
    judge: JudgeOption = None,
    judge_option: JudgeSetting = None,
    json_file: JsonFile = None,
) -> Document:
    """Grade stored answers: needs no model and no GPU.

    Example: `sightline eval grade pope --data pope/ --responses answers.jsonl --protocol lmms-eval --json out.json`
    """
    from sightline.cli.eval_options import (
        check_kept,
        check_owners,
        options_of,
        parsed_judge,
        protocol_of,
        show_result,
    )
    from sightline.evaluation.benches import load_bench
    from sightline.evaluation.results import graded_path, results_document, write_measured
    from sightline.evaluation.run import Grading, data_folder, grade_stored, stored_answers

    chosen = load_bench(bench)
    check_owners([bench], [*(data or []), *(protocol or [])], option or [])
    check_kept([responses], [] if json_file is None else [json_file, graded_path(json_file)])
    grading = Grading(
        protocol=protocol_of(chosen, protocol or []),
        options=options_of(chosen.name, option or []),
        judge=judge,
        judge_options=parsed_judge(judge_option or []),
    )
    stored = stored_answers(chosen, responses)
    place = data_folder(chosen, data or [], responses.parent / "data")
    folder = (json_file or responses).parent
    measured = grade_stored(chosen, stored, place, grading, source=str(responses), folder=folder, tell=say)
    if json_file is not None:
        write_measured(measured, json_file)
    show_result(measured)
    return results_document(measured)


def diff(
    before: Annotated[
        list[Path],
        typer.Argument(metavar="A B", help="Results, or runs of several benchmarks (--out).", show_default=False),
    ],
    seeds: Annotated[
        bool,
        typer.Option("--seeds", help="The first half of the results are seeds of A, the second half of B, in pairs."),
    ] = False,
    page: Annotated[
        Path | None, typer.Option(help="Write A and B side by side to this HTML file.", show_default=False)
    ] = None,
    json_file: JsonFile = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 2000,
) -> Document:
    """Is B better than A, and by how much: paired differences on the same questions, with intervals.

    Example: `sightline eval diff eval/base eval/dpo --page compare.html`
    """
    from rich.text import Text

    from sightline.cli.eval_options import check_kept, write_json
    from sightline.evaluation.results import changes, length_words
    from sightline.evaluation.sides import comparisons, other_pictures, other_wording
    from sightline.report.evaluation import change_rows, write_results_page
    from sightline.report.table import changes_table, table_json

    check_kept(before, [json_file, page], what="the results that are read")
    compared = comparisons(before, seeds=seeds, tell=say)
    documents = []
    for a, b in compared:
        result = a[0].result
        rows = change_rows(changes(a, b, resamples=resamples), result)
        title = f"{result.bench} ({result.protocol}): A against B, on the same questions"
        console_out.print(Text(title, style="bold"))
        console_out.print(changes_table(rows, width=console_out.width))
        for name in ("better", "worse"):
            named = [row.name for row in rows if row.verdict == name]
            say(f"{result.bench}: B is {name} in {', '.join(named) or 'nothing'}.")
        for side, some in (("A", a), ("B", b)):
            say(f"Length of answers of {side}: {'; '.join(filter(None, map(length_words, some))) or 'not known'}.")
        for warning in filter(None, (other_wording((a, b)), other_pictures((a, b)))):
            say(warning)
        documents.append({"bench": result.bench, "protocol": result.protocol, "metrics": table_json(rows)})
    document = documents[0] if len(documents) == 1 else {"benchmarks": documents}
    if json_file is not None:
        write_json(json_file, document)
    if page is not None:
        pairs = [pair for a, b in compared for pair in zip(a, b, strict=True)]
        say(f"Page: {write_results_page(page, pairs)}")
    return document


def list_benchmarks() -> Document:
    """Show benchmarks, their protocols, and what each needs and where it is found.

    Example: `sightline eval list`
    """
    from rich.table import Table
    from rich.text import Text

    from sightline.evaluation.benches import MODULES, load_bench

    table, known = Table(box=None, show_header=False, padding=(0, 2, 1, 0)), {}
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name in MODULES:
        bench = load_bench(name)
        what = Text(f"protocols: {', '.join(bench.protocols)}\n")
        table.add_row(Text(name, style="bold"), what.append(f"needs: {bench.needs}", style="dim"))
        known[name] = {"protocols": list(bench.protocols), "needs": bench.needs}
    console_out.print(table)
    return {"benchmarks": known}


def export(
    bench: BenchName,
    responses: Annotated[Path, typer.Option(help="answers.jsonl.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The submission file.", show_default=False)],
    data: DataOption = None,
) -> Document:
    """Write stored answers in the benchmark's official submission format.

    Example: `sightline eval export amber --data amber/ --responses eval/dpo/amber/answers.jsonl -o amber.json`
    """
    from sightline.cli.eval_options import check_kept
    from sightline.evaluation.answers import failed_answers, read_responses, read_stored_or_plain
    from sightline.evaluation.benches import load_bench
    from sightline.evaluation.run import data_folder
    from sightline.evaluation.stages import answers_named

    chosen = load_bench(bench)
    check_kept([responses], [out])
    answers = read_responses(chosen, responses)
    out.parent.mkdir(parents=True, exist_ok=True)
    with answers_named(str(responses)):
        chosen.export(data_folder(chosen, data or [], responses.parent / "data"), answers, out)
    failed = failed_answers(read_stored_or_plain(responses, answers))
    if failed:
        say(
            f"{len(failed)} questions could not be answered: their answers are empty there ({next(iter(failed))}, ...)."
        )
    say(f"{len(answers)} answers: {out}")
    return {"submission": out, "answers": len(answers), "failed": list(failed)}


def similarity(
    data: Annotated[Path, typer.Option(help="AMBER's folder, with relation.json.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table.", show_default=False)],
    spacy_model: Annotated[str, typer.Option(help="Installed spaCy model with word vectors.")] = SPACY_MODEL,
    above: Annotated[float, typer.Option(help="Least similarity that is written.")] = THRESHOLD,
) -> Document:
    """Write AMBER's near synonyms once from a spaCy model: with the table, grading is exact and needs no spaCy.

    Example: `sightline eval similarity --data amber/ -o amber_similarity.json`
    """
    from sightline.evaluation.similarity import export_similarity

    pairs = export_similarity(data / "relation.json", out, spacy_model=spacy_model, above=above)
    say(f"{pairs} pairs: {out}. Grade with --option amber.similarity={out}")
    return {"table": out, "pairs": pairs}


def aggregate(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="--out of `eval run`.", show_default=False)],
    reference: Annotated[
        Path | None,
        typer.Option(help="JSON file with name, base and reference values of the index.", show_default=False),
    ] = None,
    json_file: JsonFile = None,
) -> Document:
    """Show models side by side: OViP's experiment row, its hallucination index and its sum of general benchmarks.

    Example: `sightline eval aggregate eval/base eval/dpo`
    """
    from dataclasses import asdict

    from sightline.cli.eval_options import side_by_side, write_json
    from sightline.errors import DataError
    from sightline.evaluation.aggregate import OVIP_7B, hri, load_reference, ovip_row, read_evaluation

    scale = OVIP_7B if reference is None else load_reference(reference)
    rows, protocols = {}, {}
    for folder in folders:
        results = read_evaluation(folder)
        row = ovip_row(results)
        protocols[str(folder)] = {name: measured.result.protocol for name, measured in results.items()}
        try:
            row["hri"] = hri(row, scale)
        except DataError as error:
            say(f"{folder}: no HRI: {error}")
        rows[str(folder)] = row
    for table in side_by_side(rows, console_out.width):
        console_out.print(table)
    for name, used in protocols.items():
        say(f"{name}: {', '.join(f'{bench} {protocol}' for bench, protocol in used.items())}.")
    say(f"HRI is scaled from 0 to 10 by: {scale.summary()}.")
    document = {"reference": asdict(scale), "rows": rows, "protocols": protocols}
    if json_file is not None:
        write_json(json_file, document)
    return document
