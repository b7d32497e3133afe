"""The recipe in the folder of a run is that of this folder, wherever it was moved or copied to."""

import dataclasses
import json
import shutil

import pytest

from sightline.recipes.load import load_recipe
from sightline.train.run_folder import RunDirectory, changed_fields, write_run

TEXT = """\
name: {name}
output_dir: {name}
model: {{path: {name}/model, parts: {{language: lora}}}}
algorithm: {{name: {algorithm}}}
data: {{train: [{{path: {rows}}}]}}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run named as its algorithm, a folder on the hub and itself are, with a relative ``output_dir``."""
    monkeypatch.chdir(tmp_path)

    def make(name, algorithm="dpo", rows="{name}/rows/train.jsonl"):
        (tmp_path / "r.yaml").write_text(TEXT.format(name=name, algorithm=algorithm, rows=rows.format(name=name)))
        recipe = load_recipe("r.yaml")
        write_run(RunDirectory(path=tmp_path / name), recipe, {})
        return recipe

    return make


def is_of(folder, recipe):
    loaded = load_recipe(folder / "recipe.yaml")
    rows = dataclasses.replace(recipe.data.train[0], path=str(folder / "rows/train.jsonl"))
    data = dataclasses.replace(recipe.data, train=(rows,))
    return loaded == dataclasses.replace(recipe, output_dir=str(folder), data=data)


def test_a_run_goes_on_where_it_lies_whatever_is_at_its_old_place(run, tmp_path, monkeypatch):
    recipe, folder = run("dpo"), tmp_path / "dpo"
    assert load_recipe("dpo/recipe.yaml") == recipe
    shutil.copytree(folder, tmp_path / "copy")
    assert is_of(tmp_path / "copy", recipe), "not in the run that it is a copy of"
    folder.rename(tmp_path / "kto")
    assert is_of(tmp_path / "kto", recipe), "what only is called as the folder was stays: the algorithm, the model"
    run("dpo")
    assert is_of(tmp_path / "kto", recipe), "not in the new run"
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder, elsewhere / "dpo")
    monkeypatch.chdir(elsewhere)
    assert is_of(folder, recipe), "not in the run that has its name here"
    (elsewhere / "link").symlink_to("dpo")
    assert load_recipe("link/recipe.yaml") == recipe
    (folder / "model").mkdir()
    assert load_recipe(folder / "recipe.yaml").model.path == str(folder / "model"), "a path that is there"


def test_a_run_in_the_working_folder_is_found_from_others(run, tmp_path, monkeypatch):
    recipe, folder = run("dpo"), tmp_path / "dpo"
    monkeypatch.chdir(folder)
    assert load_recipe("recipe.yaml") == load_recipe(folder / "recipe.yaml"), "'.' would be another folder elsewhere"
    here = dataclasses.replace(recipe.data.train[0], path="rows/train.jsonl")
    recipe = dataclasses.replace(recipe, output_dir=".", data=dataclasses.replace(recipe.data, train=(here,)))
    write_run(RunDirectory(path=folder), recipe, {})
    assert load_recipe("recipe.yaml") == recipe
    shutil.copytree(folder, tmp_path / "other")
    monkeypatch.chdir(tmp_path / "other")
    assert is_of(folder, recipe), "not in the run of the working folder"


def test_other_recipes_are_read_as_they_stand(run, tmp_path):
    recipe = run("dpo")
    folder = tmp_path / "conda"
    folder.mkdir()
    shutil.copy(tmp_path / "dpo/recipe.yaml", folder)
    shutil.rmtree(tmp_path / "dpo")
    for facts in (None, {"packages": ["sightline"]}, {"packages": {"torch": "2"}}, []):
        assert load_recipe(folder / "recipe.yaml") == recipe
        (folder / "environment.json").write_text(json.dumps(facts))
    assert load_recipe(folder / "recipe.yaml") == recipe


def test_runs_that_are_called_as_their_algorithms_are_not_the_same(run):
    dpo, kto = run("dpo"), run("kto", algorithm="kto")
    assert [text.partition(":")[0] for text in changed_fields(dpo, kto)] == ["model.path", "algorithm.name"]


def test_a_training_of_a_loop_reads_the_models_of_the_loop_that_it_lies_in(run, tmp_path):
    """The loop was moved or copied between a training and its merge: the model of the round before moved with it."""
    loop, recipe = tmp_path / "here", run("here/round-2/train")
    (loop / "round-1/model").mkdir(parents=True)
    (loop / "loop.yaml").touch()
    model = dataclasses.replace(recipe.model, path=str(loop / "round-1/model"))
    recipe = dataclasses.replace(recipe, model=model, output_dir=str(loop / "round-2/train"))
    write_run(RunDirectory(path=loop / "round-2/train"), recipe, {})

    def model_of(folder):
        return load_recipe(folder / "recipe.yaml").model.path

    shutil.copytree(loop, tmp_path / "copy")
    assert model_of(tmp_path / "copy/round-2/train") == str(tmp_path / "copy/round-1/model")
    loop.rename(tmp_path / "there")
    assert model_of(tmp_path / "there/round-2/train") == str(tmp_path / "there/round-1/model")
    shutil.copytree(tmp_path / "there/round-2/train", tmp_path / "there/round-3/train")
    assert model_of(tmp_path / "there/round-3/train") == model.path, "not of this round"
    shutil.copytree(tmp_path / "there/round-2/train", tmp_path / "alone")
    assert model_of(tmp_path / "alone") == model.path, "no loop is around it"
