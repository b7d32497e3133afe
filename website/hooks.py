"""What MkDocs does beside its own work, so that the same pages read well on GitHub and on the site.

Links that leave ``docs/`` lead to the repository, links to folders to their README; formulas become MathML; headings
have the anchors that GitHub gives them; pages of the API are made here.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from mathml import to_mathml  # the folder of a hook is on the path while it loads
from navigation import placed

ALGORITHMS = (
    "sft", "reward_model", "dpo", "listwise", "aot", "orpo", "simpo", "cpo", "kto", "policy_gradient", "ppo",
)  # fmt: skip
REPOSITORY = "https://github.com/sightline-vlm/sightline"
API = {
    "python": (
        "In Python",
        tuple(
            f"sightline.api.{name}"
            for name in ("model", "training", "run", "groups", "evaluating", "checking", "league", "folders")
        ),
    ),
    "types": ("The nouns", ("sightline.types",)),
    "errors": ("Errors", ("sightline.errors",)),
    "recipes": (
        "Recipes",
        (
            "sightline.recipes.schema",
            "sightline.recipes.load",
            "sightline.recipes.sampling",
            "sightline.recipes.preferences",
            "sightline.recipes.negatives",
            "sightline.recipes.critic",
            "sightline.recipes.engine",
            "sightline.recipes.evaluation",
        ),
    ),
    "rewards": ("Rewards", ("sightline.recipes.terms", "sightline.rewards.base")),
    "loops": (
        "Loops",
        (
            "sightline.recipes.loop",
            "sightline.recipes.self_rewarding",
            "sightline.recipes.csr",
            "sightline.recipes.rlaif_v",
            "sightline.recipes.ovip",
        ),
    ),
    "algorithms": (
        "Algorithms",
        tuple(f"sightline.algorithms.{name}" for name in ALGORITHMS),
    ),
    "ops": (
        "Formulas on tensors",
        tuple(f"sightline.ops.{name}" for name in ("logprobs", "kl", "ratios", "advantages", "gae", "odds")),
    ),
    "data": ("Group files", ("sightline.data.schema",)),
    "benchmarks": ("Benchmarks", ("sightline.evaluation.bench", "sightline.evaluation.statistics")),
    "families": ("Model families", ("sightline.models.family",)),
}
"""Page below ``api/`` to its title and the modules that it documents."""

_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(#[^)\s]*)?(?=\))")
_ROLE = re.compile(r":(?:func|class|meth|mod|data):<code>")
"""Of Sphinx, in docstrings."""
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def github_slug(text: str, separator: str) -> str:
    """The anchor of a heading on GitHub."""
    return re.sub(r"[^\w\- ]", "", html.unescape(text).lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    config.mdx_configs.setdefault("toc", {})["slugify"] = github_slug
    config.nav = placed(config.nav, Path(config.docs_dir))
    return config


def on_files(files: Any, config: Any) -> Any:
    for page, (title, modules) in API.items():
        lines = [f"# {title}", "", *(line for module in modules for line in (f"::: {module}", ""))]
        files.append(File.generated(config, f"api/{page}.md", content="\n".join(lines)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)

    def placed(match: re.Match[str]) -> str:
        link, anchor = match[1], match[2] or ""
        target = posixpath.normpath(posixpath.join(folder, link))
        if not target.startswith(".."):
            return link + anchor if not (docs / target).is_dir() else posixpath.join(link, "README.md") + anchor
        outside = posixpath.normpath(posixpath.join(docs.name, target))
        kind = "tree" if (root / outside).is_dir() else "blob"
        return f"{REPOSITORY}/{kind}/main/{outside}{anchor}"

    return _LINK.sub(placed, markdown)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    def drawn(match: re.Match[str]) -> str:
        try:
            block = match[1] == "div"
            formula = to_mathml(html.unescape(match[3]).strip(), block=block)
            return formula if block else f'<span class="formula">{formula}</span>'
        except ValueError as error:
            raise PluginError(f"{page.file.src_uri}: {error}") from None

    return _ROLE.sub("<code>", _FORMULA.sub(drawn, content))
