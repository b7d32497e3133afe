"""The command line: help, errors, and the stages from prompts to a trained model."""

import errno
import json
import os
import shutil
import sys
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from sightline import __version__, cli
from sightline.data.schema import read_groups, write_groups
from sightline.errors import RecipeError
from sightline.recipes.load import load_recipe
from sightline.scenes.world import Scenes
from sightline.types import Response

COMMANDS = [
    "demo",
    "train",
    "show",
    "sample",
    "score",
    "pairs",
    "report",
    "merge",
    "export",
    "chat",
    "convert",
    "assemble",
]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        f"name: r\noutput_dir: {tmp_path}/run\nmodel: {{path: nowhere}}\nalgorithm: {{name: dpo}}\nreference: copy\n"
        "data: {train: [{path: rows.jsonl}]}\n"
    )
    return path


def test_version(run):
    assert run("--version") == (0, f"sightline {__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run(*command.split(), "--help")
    assert code == 0
    assert f"Example: sightline {command} " in " ".join(out.split())


def test_errors_are_one_message_and_code_2(run, recipe):
    code, out, err = run("show", recipe, "train.learning_rat=1")
    assert (code, out) == (2, "")
    assert err.startswith("error: override 'train.learning_rat=1': unknown key 'learning_rat' in train. Did you mean")
    assert "Traceback" not in err


def test_debug_shows_the_error_itself(monkeypatch, recipe):
    monkeypatch.setattr(sys, "argv", ["sightline", "show", str(recipe), "seed=x", "--debug"])
    with pytest.raises(RecipeError, match="expected a whole number"):
        cli.main()


def test_a_full_disk_is_one_message_and_other_failures_are_not_hidden(run, recipe, monkeypatch):
    def fail(number, *named):
        def load(*_):
            raise OSError(number, os.strerror(number), *named)

        monkeypatch.setattr("sightline.cli.train.load_recipe", load)

    fail(errno.ENOSPC, "run/metrics.jsonl")
    code, _, err = run("show", recipe)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(
        "error: run/metrics.jsonl: No space left on device. Make room, and run the same command again"
    )
    fail(errno.EACCES, "/proc/x.jsonl")
    assert run("show", recipe)[2].startswith("error: /proc/x.jsonl: Permission denied. Correct the path, or who may")
    fail(errno.EIO)
    monkeypatch.setattr(sys, "argv", ["sightline", "show", str(recipe)])
    with pytest.raises(OSError, match="Input/output error"):
        cli.main()


@pytest.mark.parametrize(
    ("checkpoints", "flags", "said"),
    [
        (
            [],
            [],
            "The same command starts from the beginning: there is no checkpoint yet (the first comes",
        ),
        ([], ["train.save_every=null"], "there is no checkpoint yet (train.save_every is off)"),
        ([], ["train.save_every=7"], "(the first comes after step 7)"),
        (
            ["step-00000100", "step-00000200", "step-00000300.tmp"],
            [],
            "The same command goes on from step 200, the",
        ),
        (["step-00000100"], ["--overwrite"], "The same command without --overwrite goes on from step 100, the last"),
    ],
)
def test_an_interrupted_run_says_what_is_there_to_go_on_from(
    run, recipe, tmp_path, monkeypatch, checkpoints, flags, said
):
    def stop(*_, **__):
        for name in checkpoints:
            (tmp_path / "run/checkpoints" / name).mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("sightline.train.loop.train", stop)
    code, _, err = run("train", recipe, *flags)
    assert code == 130
    assert "Stopped. " in err and said in err
    assert "Traceback" not in err


def test_a_reward_is_asked_for_and_its_kinds_are_listed(run, tmp_path):
    code, _, err = run("score", tmp_path / "groups.jsonl", "-o", tmp_path / "scored.jsonl")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: found no --reward, expected what scores the answers. Give the run directory of a ")
    assert "package.module:Name" in err and "scenes" in err


def test_show_prints_the_resolved_recipe(run, recipe, tmp_path):
    for flags in ([], ["--explain"]):
        code, out, _ = run("show", recipe, "train.learning_rate=1e-4", *flags)
        assert code == 0
        resolved = tmp_path / "resolved.yaml"
        resolved.write_text(out)
        shown = load_recipe(resolved)
        assert shown.train.learning_rate == 1e-4
        assert shown.algorithm["beta"] == 0.1 and shown.algorithm["link"] == "sigmoid"
    assert "# Strength of the pull towards the reference" in out


def test_show_checks_the_algorithm(run, recipe):
    assert "algorithm.betta" in run("show", recipe, "algorithm.betta=1")[2]
    assert "found reference: none" in run("show", recipe, "reference=none")[2]


def test_wrong_options_are_told_like_wrong_recipes(run, tmp_path):
    code, _, err = run("sample", "m", "d", "-o", tmp_path / "o.jsonl", "--top-p", 0)
    assert code == 2 and err == "error: sampling options: top_p: found 0.0 (number), expected a value > 0.\n"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Ten caption prompts of the built-in world as a Group file."""
    folder = tmp_path_factory.mktemp("prompts")
    path = folder / "prompts.jsonl"
    write_groups(path, Scenes(seed=0).prompts("train", 10, folder / "images"))
    return path


def test_sampling_goes_on_where_it_was_stopped(run, tiny, prompts, tmp_path):
    sample = ["sample", tiny["llava"], prompts, "-n", 2, "--max-tokens", 6, "--batch-size", 2]
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert run(*sample, "-o", whole)[0] == 0
    assert run(*sample, "-o", cut, "--limit", 4)[0] == 0
    with cut.open("a") as file:
        file.write('{"prompts": [{"id": "half a li')
    code, _, err = run(*sample, "-o", cut)
    assert code == 0 and "4 of 10 are in" in err and "6 prompts answered, 12 answers" in err
    assert list(read_groups(cut)) == list(read_groups(whole))

    before = cut.read_text()
    code, _, err = run(*sample, "-o", cut, "--temperature", 0.5)
    assert code == 2 and "made with other settings (temperature: 1.0 there, 0.5 here)" in err
    assert cut.read_text() == before
    assert run(*sample, "-o", cut, "--temperature", 0.5, "--limit", 1, "--overwrite")[0] == 0
    assert len(list(read_groups(cut))) == 1


def test_another_model_in_the_same_folder_is_another_model(run, tiny, prompts, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny["llava"], model)
    sample = ["sample", model, prompts, "--max-tokens", 2, "-o", tmp_path / "samples.jsonl"]
    assert run(*sample, "--limit", 1)[0] == 0
    (weights,) = model.glob("*.safetensors")
    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    code, _, err = run(*sample, "--limit", 2)
    assert code == 2 and "made with other settings (weights: " in err


def test_an_id_that_stands_twice_is_refused(run, prompts, tmp_path):
    twice = tmp_path / "twice.jsonl"
    group = next(read_groups(prompts))
    write_groups(twice, [group, group])
    score = ["score", twice, "--reward", "scenes", "-o", tmp_path / "scored.jsonl"]
    code, _, err = run(*score)
    assert code == 2 and f"{twice}: none of 2 groups has an answer. Run `sightline sample` first" in err
    answered = replace(group, responses=(Response(text="There is a moon."),))
    write_groups(twice, [answered, answered])
    code, _, err = run(*score)
    assert code == 2 and f"the id '{group.id}' stands twice" in err


def test_from_samples_to_a_trained_model_and_its_report(run, tiny, prompts, recipe, tmp_path):
    samples, scored, paired = (tmp_path / f"{name}.jsonl" for name in ("samples", "scored", "pairs"))
    sampled = run("sample", tiny["llava"], prompts, "-n", 2, "--max-tokens", 12, "-o", samples, "--json")[1]
    assert json.loads(sampled) == {"groups": str(samples), "prompts": 10, "answers": 20}
    code, _, err = run("pairs", samples, "-o", paired)
    assert code == 2 and "Run `sightline score` first" in err

    code, told, err = run("score", samples, "--reward", "scenes", "-o", scored, "--json")
    assert "10 groups scored, mean reward" in err
    assert f", mean reward {json.loads(told)['mean_reward']:.3f}" in err and json.loads(told)["without_reward"] == 0
    groups = list(read_groups(scored))
    assert all(response.reward is not None for group in groups for response in group.responses)
    # A random model's answers all score alike: give the first of each pair the higher reward.
    rows = [json.loads(line) for line in scored.read_text().splitlines()]
    for row in rows[:-1]:
        row["responses"][0]["reward"], row["responses"][1]["reward"] = 2.0, 1.0
    rows[-1]["responses"][0]["reward"] = rows[-1]["responses"][1]["reward"]
    scored.write_text("".join(json.dumps(row) + "\n" for row in rows))

    code, told, err = run("pairs", scored, "-o", paired, "--json")
    assert "9 pairs in 9 groups, 1 groups without a pair" in err
    assert json.loads(told) == {"groups": str(paired), "kept": 9, "left_out": 1, "pairs": 9}
    assert all((edge.winner, edge.loser) == (0, 1) for group in read_groups(paired) for edge in group.edges)
    assert "no pair among 10 groups" in run("pairs", scored, "--min-gap", 5, "-o", paired)[2]

    settings = [f"model.path={tiny['llava']}", f"data.train.0.path={paired}", "train.max_steps=2", "train.batch_size=4"]
    code, told, err = run("train", recipe, *settings, "--quiet", "--json")
    assert code == 0 and "2 steps done" in err
    report = tmp_path / "run" / "report.html"
    done = json.loads(told)
    assert (done["steps"], done["resumed_from"], done["report"]) == (2, 0, str(report))
    assert done["model_dir"] == str(tmp_path / "run/model") and done["last"]["step"] == 2
    assert "2 optimizer steps. Last logged: loss 0." in report.read_text()
    code, _, err = run("train", recipe, *settings, "--overwrite", "--resume")
    assert code == 2 and "found overwrite and resume" in err
    assert "has all its 2 steps" in run("train", recipe, *settings, "--quiet")[2]
    assert run("report", tmp_path / "run", "-o", tmp_path / "again.html")[0] == 0
    assert (tmp_path / "again.html").read_text() == report.read_text()


def test_pairs_from_labelled_options(run, shared_data, tmp_path):
    folder = shared_data / "vision_llm_alignment"
    out = tmp_path / "pairs.jsonl"
    arguments = ["pairs", folder / "sci_qa_60.json", "--relation", "options", "--image-dir", folder / "sci_qa_images"]
    assert "60 pairs in 60 groups" in run(*arguments, "-o", out)[2]
    group = next(read_groups(out))
    assert group.responses[group.edges[0].winner].text == group.prompts[0].facts["label"] == "C"
