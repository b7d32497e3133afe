"""The index of papers that have a recipe, from the heads of ``recipes/papers/*.yaml`` and from what they say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "recipes/papers"

_SIGMA = r"-\log\sigma\big(\beta(\Delta_w - \Delta_l)\big)"
_ALGORITHMS = {
    "sft": (r"$-\log\pi(y)$ per token", "algorithms/sft.md"),
    "dpo": (f"${_SIGMA}$", "algorithms/dpo.md"),
    "dpo_listwise": ("the likelihood of the order", "algorithms/dpo_listwise.md"),
    "reward_model": (r"$-\log\sigma(r_w - r_l)$, of lists Plackett-Luce", "algorithms/reward_model.md"),
    "ppo": (r"$-\min(\rho A, \text{clip}(\rho)A)$ with a critic", "algorithms/ppo.md"),
    "orpo": (r"$-\log\pi(y_w)$ and $-\beta\log\sigma$ of the log odds ratio", "algorithms/orpo.md"),
    "simpo": (r"$-\log\sigma(\beta(\bar p_w - \bar p_l) - \gamma)$", "algorithms/simpo.md"),
    "kto": (r"$1 - \sigma(\pm\beta(\Delta - z))$", "algorithms/kto.md"),
    "grpo": (r"$-\min(r_t A, \text{clip}(r_t)A)$, $A$ within the group", "algorithms/policy_gradient.md"),
}
"""Algorithm to its formula, and the page that has it whole."""
_BETWEEN = "preferred under its picture over the one in between, and there over the negative one"
_VISUAL = {
    "mdpo": "beside it the chosen answer, preferred under its picture over the negative one",
    "svco": f"the chosen answer, {_BETWEEN}",
    "svco_noref": "the chosen answer under its picture over the rejected one under the negative",
    "ovip": f"beside it the chosen answer, {_BETWEEN}",
}
_METHODS = {
    "csr": ("sentences scored by likelihood and by relevance, the best answer over the worst", "guides/csr.md"),
    "rlaif_v": ("answers scored by their rejected claims, fewer over more", "guides/rlaif_v.md"),
    "ovip": ("pairs by OViP's rule, negatives painted", "guides/ovip.md"),
    "self_rewarding": ("the best over the worst by a reward", "guides/loops.md"),
}


def head(path: Path) -> dict[str, list[str]]:
    """What stands at the top of a recipe: ``# Key: text``, over as many lines as begin with more blanks."""
    found: dict[str, list[str]] = {}
    key = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"# (Paper|Data|Published|Differs|Run): ?(.*)", line):
            key = match[1]
            found.setdefault(key, []).append(match[2])
        elif line.startswith("#   ") and key:
            found[key][-1] += " " + line[1:].strip()
        else:
            key = ""
    return found


def formula(recipe: Mapping[str, Any]) -> str:
    """What a recipe minimises, in a line, with the page that says it in full."""
    learner = recipe.get("algorithm", {"name": "dpo"})
    text, page = _ALGORITHMS[learner["name"]]
    parts = [f"[{learner['name']}]({page}): {text}"]
    source = recipe.get("online") or ((recipe.get("data") or {}).get("train") or [{}])[0]
    if visual := source.get("visual"):
        parts.append(_VISUAL[visual["relation"]])
    if learner.get("anchor_weight"):
        parts.append("an anchor on the chosen answer")
    if "segments" in (recipe.get("data") or {}):
        parts.append("tokens weighed by whether the two answers differ there")
    if method := recipe.get("method"):
        told, where = _METHODS[method["name"]]
        parts.insert(0, f"[{method['name']}]({where}): {told}; then")
    return "; ".join(parts).replace("then;", "then")


def papers() -> str:
    """A section for each paper: its recipes, their formulas, their rows, and what differs."""
    by_paper: dict[str, list[Path]] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        by_paper.setdefault(head(path)["Paper"][0], []).append(path)
    lines = []
    for paper in sorted(by_paper):
        title, arxiv = paper, re.search(r"arXiv (\d{4}\.\d{5})", paper)
        if arxiv:
            title = paper.replace(arxiv[0], f"[arXiv {arxiv[1]}](https://arxiv.org/abs/{arxiv[1]})")
        lines += [f"### {paper.partition(' (')[0]}", "", f"{title.partition(' (')[2].rstrip(')')}", ""]
        for path in by_paper[paper]:
            lines += _entry(path)
    return "\n".join(lines) + "\n" if lines else ""


def _entry(path: Path) -> list[str]:
    told = head(path)
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    place = path.relative_to(FOLDER.parents[1]).as_posix()
    lines = [f"**[{path.stem}](../{place})** — {formula(recipe)}.", ""]
    lines += [f"- Rows: {_text(text)}" for text in told.get("Data", [])]
    differs = [_text(text) for text in told.get("Differs", [])]
    if len(differs) == 1:
        lines.append(f"- Differs: {differs[0]}")
    elif differs:
        lines += ["- Differs:", *(f"    - {text}" for text in differs)]
    return [*lines, ""]


def _text(text: str) -> str:
    """A comment as a sentence of a page: nothing in it is a placeholder or a tag."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"(?<!\w)<(?=\w)", "&lt;", part) for part in parts)
