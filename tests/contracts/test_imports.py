"""Imports point one way, heavy packages are imported behind their fence, and recipes need no torch."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from sightline import _HOMES

PACKAGE = Path(__file__).parents[2] / "src/sightline"
MODULES = sorted(PACKAGE.rglob("*.py"))

GROUND = {"types", "rendered", "errors", "files", "progress", "addresses", "pixels", "display", "callable_package"}
CORE = GROUND | {"ops", "recipes"}
MIDDLE = CORE | {"models", "data", "relations", "scenes"}
OUTER = MIDDLE | {"rollouts", "rewards", "negatives", "evaluation"}
UPPER = OUTER | {"algorithms", "train", "report", "services", "loops"}
EVERYTHING = UPPER | {"app", "demo", "api", "cli", "__init__"}
MAY_IMPORT = {
    "types": {"display"},
    "pixels": set(),
    "display": {"pixels"},
    "callable_package": set(),
    "rendered": {"types"},
    "errors": set(),
    "files": {"errors"},
    "progress": set(),
    "addresses": set(),
    "ops": GROUND,
    "recipes": GROUND,
    "algorithms": GROUND | {"ops"},
    "relations": CORE,
    "models": CORE,
    "data": CORE | {"models", "relations"},
    "scenes": CORE | {"data", "relations"},
    "rollouts": MIDDLE,
    "rewards": MIDDLE | {"evaluation"},
    "negatives": MIDDLE | {"evaluation", "rewards"},
    "evaluation": OUTER - {"rewards", "negatives"},
    "report": OUTER,
    "train": OUTER | {"algorithms"},
    "services": OUTER,
    "app": OUTER | {"train", "report", "services"},
    "loops": OUTER | {"algorithms", "train", "report", "services"},
    "demo": UPPER,
    "api": UPPER | {"demo"},
    "cli": EVERYTHING,
    "__init__": UPPER | {"demo", "api"},
    "__main__": {"cli"},
}
"""What each top-level part of the package may import beside itself."""

FENCED = {
    "accelerate": ("train/runtime.py",),
    "deepspeed": ("train/runtime.py",),
    "vllm": ("rollouts/vllm_plugin.py",),
    "ray": ("rollouts/ray.py",),
    "transformers": ("models/", "data/render.py", "rollouts/hf.py", "rewards/clip.py", "rewards/model.py"),
    "peft": ("models/", "data/render.py", "rollouts/hf.py", "rewards/clip.py", "rewards/model.py"),
    "torchvision": ("models/",),
    "datasets": ("data/",),
    "pyarrow": ("data/",),
    "diffusers": ("negatives/diffusion.py",),
    "fastapi": ("services/", "app/"),
    "uvicorn": ("services/", "app/"),
    "gradio": ("app/",),
    "typer": ("cli/", "cli.py"),
    "jinja2": ("report/", "data/template.py"),
    "bitsandbytes": ("models/", "train/optim.py"),
    "llmcompressor": ("models/quantisers/",),
    "compressed_tensors": ("models/quantisers/",),
    "trl": (),
    "matplotlib": (),
}
"""Where each heavy package may be imported: a file, or a folder (ends in a slash)."""


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def import_nodes(path):
    """Those inside functions too."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(path):
    """(dotted module, line) of every import in a file."""
    for node in import_nodes(path):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        else:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield node.module, node.lineno
            if node.module == "sightline":
                yield from ((f"sightline.{alias.name}", node.lineno) for alias in node.names if alias.name[0] != "_")


def test_the_package_is_where_this_test_looks():
    assert len(MODULES) > 20


def test_every_part_has_a_place_in_the_order():
    assert {part_of(path) for path in MODULES} <= set(MAY_IMPORT)


def test_the_order_has_no_cycle():
    seen: set[str] = set()
    left = {part: targets - {part} for part, targets in MAY_IMPORT.items()}
    while left:
        free = {part for part, targets in left.items() if not (targets & set(left)) - {part}}
        assert free, f"cycle among {sorted(left)}"
        seen |= free
        left = {part: targets for part, targets in left.items() if part not in free}


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows():
    """Module to the modules of the package that it imports anywhere in its file."""
    paths = {module_of(path): path for path in MODULES}
    names = {}
    for name, path in paths.items():
        found = set()
        for node in import_nodes(path):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            else:
                deeper = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {one if one in paths else node.module for one in deeper}
        names[name] = (found & set(paths)) - {name} - REGISTRIES.get(name, set())
    return names


REGISTRIES = {
    "sightline.models.family": {"sightline.models.families"},
    "sightline": {f"sightline.{home}" for home in _HOMES},
}
"""Modules that look up, when asked, what is made of them."""


def test_no_module_imports_its_way_back_to_itself():
    """An import inside a function counts: it hides a circle, it does not open it."""
    left = arrows()
    assert left["sightline.evaluation.judge"], "the walk sees imports inside functions"
    while free := [name for name, targets in left.items() if not targets & set(left)]:
        left = {name: targets for name, targets in left.items() if name not in free}
    while unused := set(left) - {target for targets in left.values() for target in targets}:
        left = {name: targets for name, targets in left.items() if name not in unused}
    assert not left, f"a circle among {', '.join(sorted(left))}"


def test_imports_point_one_way():
    wrong = []
    for path in MODULES:
        allowed = MAY_IMPORT[part_of(path)] | {part_of(path)}
        for module, line in imported(path):
            top, target, *_ = [*module.split("."), ""]
            if top == "sightline" and target and target not in allowed:
                wrong.append(f"{name_of(path)}:{line} imports {module}")
    assert not wrong


def test_heavy_packages_stay_behind_their_fence():
    wrong = []
    for path in MODULES:
        name = name_of(path)
        for module, line in imported(path):
            places = FENCED.get(module.partition(".")[0], (name,))
            if not any(name == place or (place.endswith("/") and name.startswith(place)) for place in places):
                wrong.append(f"{name}:{line} imports {module}, which belongs in {' or '.join(places) or 'no module'}")
    assert not wrong


def test_recipes_import_no_torch():
    recipes = [path for path in MODULES if part_of(path) == "recipes"]
    assert len(recipes) > 5
    heavy = {"torch", "numpy", "transformers"}
    assert not [name_of(p) for p in recipes for module, _ in imported(p) if module.partition(".")[0] in heavy]


@pytest.mark.parametrize("module", ["sightline", "sightline.types", "sightline.errors", "sightline.cli"])
def test_light_modules_load_without_heavy_packages(module):
    heavy = {"torch", "transformers", "peft", "accelerate", "datasets", "jinja2"}
    code = f"import sys, {module}; sys.exit(' '.join(sorted({heavy!r} & set(sys.modules))) or None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
