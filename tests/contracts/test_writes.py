"""Files are written through ``sightline.files``, so that a kill never leaves half of one."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src/sightline"
INSIDE = {
    "files.py": {"replace_file"},
    "train/checkpoint.py": {"write"},
    "train/periodic_eval.py": {"write"},
    "train/run_folder.py": {"mark_model"},
    "models/assemble.py": {"write"},
    "models/named_adapters.py": {"write"},
    "models/llava_parts.py": {"write"},
    "models/policy.py": {"save"},
    "models/precision.py": {"save_model"},
    "models/score_head.py": {"save"},
    "models/value_head.py": {"save"},
    "models/base_model.py": {"save"},
    "data/schema.py": {"write_groups"},
    "train/columns.py": {"save"},
    "train/export.py": {"write", "_save"},
    "models/compress.py": {"_by_bitsandbytes", "_by_llm_compressor", "_name_towers"},
    "models/quantisers/llm_compressor.py": {"quantise"},
    "train/quantise.py": {"make"},
    "models/reload.py": {"read_fresh", "answer_request"},
}
"""Functions that write below a name that ``replacing`` or ``replace_folder`` gave them."""
WRITERS = {"write_text", "write_bytes", "save_file", "save_pretrained"}


def writes(tree):
    """Name of the innermost function, and line, of every call that writes a file under its own name."""
    found = []

    def visit(node, inside):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = node.name
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            modes = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            saves = name == "save" and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "torch"
            if name in WRITERS or saves or (name == "open" and any(mode[:1] in ("w", "x") for mode in modes)):
                found.append((inside, node.lineno))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree, "")
    return found


def test_nothing_is_written_under_its_own_name_and_the_list_is_needed():
    own, unused, seen = [], [], 0
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        found, allowed = writes(ast.parse(path.read_text(encoding="utf-8"))), INSIDE.get(name, set())
        seen += name in INSIDE
        own += [f"{name}:{line}" for function, line in found if function not in allowed]
        unused += [f"{name}: {function}" for function in allowed - {function for function, _ in found}]
    assert not own, "write through sightline.files: replace_file, replacing or replace_folder"
    assert not unused and seen == len(INSIDE)


def test_the_search_finds():
    code = "def f(p):\n  p.write_text('')\n  p.open('wb')\n  open(p)\n  torch.save(1, p)\n  p.open('a')\n"
    assert writes(ast.parse(code)) == [("f", 2), ("f", 3), ("f", 5)]
