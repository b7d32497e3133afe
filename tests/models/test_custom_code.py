"""Code in a model folder is never run, and nobody is asked whether to run it."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from sightline.errors import RecipeError
from sightline.models.load import load_policy
from sightline.models.text import load_text_model, sees_pictures
from sightline.recipes.schema import ModelSpec
from tiny_models import byte_level_tokenizer

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
MAPPED = ("AutoConfig", "AutoModelForImageTextToText", "AutoModelForCausalLM", "AutoProcessor", "AutoImageProcessor")


def loading_calls() -> list[tuple[str, ast.Call]]:
    """Calls that may run what a folder holds: ``X.from_pretrained``, ``X.from_config``. PEFT knows no such code."""
    found = []
    for path in FILES:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in calls:
            named = isinstance(call.func, ast.Attribute) and call.func.attr in ("from_pretrained", "from_config")
            if named and "Peft" not in ast.unparse(call.func):  # type: ignore[attr-defined]
                found.append((f"{path.relative_to(ROOT)}:{call.lineno}", call))
    return found


def test_every_call_that_loads_says_no_to_custom_code() -> None:
    calls = loading_calls()
    assert len(calls) > 3
    says = {where: {word.arg: ast.unparse(word.value) for word in call.keywords} for where, call in calls}
    assert [where for where, words in says.items() if words.get("trust_remote_code") != "False"] == []


def with_code(folder: Path, ran: Path) -> Path:
    """Lets every config of a model folder ask for a module that leaves a mark when it runs."""
    (folder / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass C: pass\n")
    asked = dict.fromkeys(MAPPED, "mine.C") | {"AutoTokenizer": ["mine.C", "mine.C"]}
    for file in folder.glob("*config.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": asked}))
    return folder


def test_a_folder_with_code_is_loaded_without_it_or_refused(
    tiny: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run the code"))
    ran = tmp_path / "ran"
    folder = with_code(Path(shutil.copytree(tiny["llava"], tmp_path / "llava")), ran)
    load_policy(ModelSpec(path=str(folder)), trainable=False)  # a known model type: its code is not needed
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine"}))
    with pytest.raises(RecipeError, match="code from model folders is never run"):
        load_policy(ModelSpec(path=str(folder)))
    assert not ran.exists()


def test_a_judge_with_code_is_loaded_without_it_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run the code"))
    ran, folder = tmp_path / "ran", tmp_path / "judge"
    config = LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer = byte_level_tokenizer(["<s>", "</s>"], 300)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": "{{ messages }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with_code(folder, ran)
    load_text_model(ModelSpec(path=str(folder)), "cpu")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mine"}))
    with pytest.raises(RecipeError, match="code from model folders is never run"):
        sees_pictures(str(folder))
    assert not ran.exists()
