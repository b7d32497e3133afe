"""Names of policy gradients: each is a set of choices of ``policy_gradient.PolicyGradient``, with its source."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One published method."""

    title: str
    source: str
    """Paper, or where there is none the program that made the name known."""
    formula: str
    """In TeX: what a token of answer i adds to the loss, and how it is averaged."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the defaults of ``PolicyGradient``."""
    remark: str = ""
    """What of the method is set elsewhere in a recipe, or differs here."""


_CLIP = r"\min(r_t A_i,\ \text{clip}(r_t, 1-\varepsilon, 1+\varepsilon_h) A_i)"
_PAPO = r"\gamma\,k3(\pi, \pi_\text{masked}) - \eta_1\log\pi(y_t) - \eta_2\log\pi_\text{masked}(y_t)"
_GROUP = r"A_i = \frac{R_i - \bar R}{\sigma + 10^{-4}}"

PRESETS: Mapping[str, Preset] = {
    "grpo": Preset(
        title="GRPO",
        source="Shao et al. 2024, arXiv 2402.03300",
        formula=rf"{_GROUP};\ -\frac1{{n_i}}\sum_t {_CLIP}, mean over answers",
    ),
    "dr_grpo": Preset(
        title="Dr. GRPO",
        source="Liu et al. 2025, arXiv 2503.20783",
        formula=rf"A_i = R_i - \bar R;\ -\frac1L\sum_t {_CLIP}, mean over answers",
        fields={"scale": "none", "normaliser": "constant"},
        remark="L is `length`",
    ),
    "dapo": Preset(
        title="DAPO",
        source="Yu et al. 2025, arXiv 2503.14476",
        formula=rf"{_GROUP};\ -{_CLIP},\ \varepsilon=0.2,\ \varepsilon_h=0.28, mean over tokens",
        fields={"normaliser": "token", "epsilon_high": 0.28},
        remark="with `online.dynamic_sampling`, `online.overlong_buffer` and `online.truncated: mask`",
    ),
    "bnpo": Preset(
        title="BNPO",
        source="TRL's `loss_type: bnpo`",
        formula=rf"{_GROUP};\ -{_CLIP}, mean over tokens",
        fields={"normaliser": "token"},
        remark="TRL's mean is over a micro-batch, this one over the step; not the Beta one of arXiv 2506.02864",
    ),
    "gspo": Preset(
        title="GSPO",
        source="Zheng et al. 2025, arXiv 2507.18071, equations 5 to 7",
        formula=r"s_i = \exp\frac1{n_i}\sum_t\log r_t;\ -\min(s_i A_i, \text{clip}(s_i) A_i), mean over answers",
        fields={"ratio": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
    "gspo_token": Preset(
        title="GSPO-token",
        source="Zheng et al. 2025, arXiv 2507.18071, equations 13 and 14",
        formula=(
            r"s_{i,t} = \text{sg}(s_i)\, r_t / \text{sg}(r_t);\ "
            r"-\frac1{n_i}\sum_t \min(s_{i,t} A_i, \text{clip}(s_{i,t}) A_i)"
        ),
        fields={"ratio": "sequence_token", "epsilon": 3e-4, "epsilon_high": 4e-4},
    ),
    "gmpo": Preset(
        title="GMPO",
        source="Zhao et al. 2025, arXiv 2507.20673",
        formula=r"-A_i \exp\frac1{n_i}\sum_t \text{clip}_{\text{sign} A_i}(\log r_t, -0.4, 0.4), mean over answers",
        fields={"ratio": "geometric", "epsilon": 0.4},
    ),
    "cispo": Preset(
        title="CISPO",
        source="MiniMax 2025, arXiv 2506.13585",
        formula=r"-\text{sg}(\min(r_t, c)) A_i \log\pi(y_t), mean over tokens",
        fields={"objective": "detached", "normaliser": "token"},
        remark="c is `cap`",
    ),
    "sapo": Preset(
        title="SAPO",
        source="Gao et al. 2025, arXiv 2511.20347",
        formula=(
            r"-\frac1{n_i}\sum_t \frac4\tau\sigma(\tau(r_t - 1)) A_i,\ "
            r"\tau = 1 \text{ if } A_i > 0 \text{ else } 1.05"
        ),
        fields={"objective": "soft"},
    ),
    "luspo": Preset(
        title="LUSPO",
        source="arXiv 2602.05261",
        formula=r"-n_i \min(s_i A_i, \text{clip}(s_i) A_i), mean over answers",
        fields={"ratio": "sequence", "normaliser": "sum", "epsilon": 2e-3, "epsilon_high": 2.5e-3},
    ),
    "rloo": Preset(
        title="RLOO",
        source="Ahmadian et al. 2024, arXiv 2402.14740",
        formula=(
            r"R'_i = R_i - \beta\sum_t k1_t,\ A_i = R'_i - \frac1{G-1}\sum_{j\neq i} R'_j;\ "
            r"-\min(r A_i, \text{clip}(r) A_i),\ r = \pi(y_i)/\pi_\text{old}(y_i)"
        ),
        fields={
            "baseline": "leave_one_out",
            "scale": "none",
            "ratio": "product",
            "beta": 0.05,
            "kl": "k1",
            "kl_in": "reward",
        },
    ),
    "reinforce_pp": Preset(
        title="REINFORCE++",
        source="Hu 2025, arXiv 2501.03262",
        formula=(
            r"A_{i,t} = R_i - \beta\sum_{s\ge t} k1_s \text{ whitened over all tokens of the round};\ "
            rf"-{_CLIP}, mean over tokens"
        ),
        fields={
            "baseline": "none",
            "scale": "whiten_tokens",
            "std_epsilon": 1e-8,
            "normaliser": "token",
            "beta": 0.01,
            "kl": "k1",
            "kl_in": "reward",
        },
    ),
    "reinforce_pp_baseline": Preset(
        title="REINFORCE++-baseline",
        source="Hu 2025, arXiv 2501.03262",
        formula=(
            r"A_i = R_i - \bar R \text{ whitened over all tokens of the round};\ "
            rf"-{_CLIP} + \beta\, k2_t, mean over tokens"
        ),
        fields={"scale": "whiten_tokens", "std_epsilon": 1e-8, "normaliser": "token", "beta": 0.01, "kl": "k2"},
    ),
    "opo": Preset(
        title="OPO",
        source="Hao et al. 2025, arXiv 2505.23585",
        formula=r"A_i = R_i - \frac{\sum_j n_j R_j}{\sum_j n_j};\ -r_t A_i, mean over tokens",
        fields={"baseline": "length", "scale": "none", "objective": "plain", "normaliser": "token"},
        remark="the paper takes one step per round",
    ),
    "remax": Preset(
        title="ReMax",
        source="Li et al. 2023, arXiv 2310.10505",
        formula=r"A_{i,t} = R_i - R_\text{greedy} - \beta\sum_{s\ge t} k1_s;\ -r_t A_{i,t}, mean over tokens",
        fields={"baseline": "greedy", "scale": "none", "objective": "plain", "normaliser": "token"},
        remark="with `online.greedy: true`; β is 0 unless set, then with `kl: k1` and `kl_in: reward`",
    ),
    "max_rl": Preset(
        title="MaxRL",
        source="Maximum likelihood reinforcement learning, 2026 (prime-rl's `max_rl`)",
        formula=rf"A_i = \frac{{R_i - \bar R}}{{\bar R}};\ -{_CLIP}, mean over tokens",
        fields={"scale": "mean", "std_epsilon": 1e-6, "normaliser": "token"},
        remark="rewards of 0 or more; a group without success has advantage 0",
    ),
    "gdpo": Preset(
        title="GDPO",
        source="arXiv 2601.05242",
        formula=(
            r"S_i = \sum_k w_k \frac{R_{k,i} - \bar R_k}{\sigma_k + 10^{-4}},\ "
            rf"A = S \text{{ whitened over the round}};\ -\frac1{{n_i}}\sum_t {_CLIP}, mean over answers"
        ),
        fields={"per_part": True, "scale": "whiten"},
        remark="w are the weights of the terms in `online.reward`, or `part_weights`",
    ),
    "papo": Preset(
        title="PAPO-G",
        source="Wang et al. 2025, arXiv 2507.06448",
        formula=rf"-{_CLIP} - {_PAPO}, mean over tokens",
        fields={
            "normaliser": "token",
            "epsilon_high": 0.3,
            "beta": 0.01,
            "perception": {"kind": "papo", "gamma": 0.02, "entropy": 0.05, "masked_entropy": 0.05},
        },
        remark="GRPO's advantage; with `online.masked`; values of the 7B model",
    ),
    "papo_d": Preset(
        title="PAPO-D",
        source="Wang et al. 2025, arXiv 2507.06448",
        formula=rf"-{_CLIP} - {_PAPO}, mean over tokens",
        fields={"normaliser": "token", "epsilon_high": 0.28, "perception": {"kind": "papo"}},
        remark="as `papo`, with DAPO's choices",
    ),
    "vppo": Preset(
        title="VPPO",
        source="Huang et al. 2025, arXiv 2510.09285",
        formula=r"-\text{clip}(r_t)\,\alpha_i m_{i,t} A_i - 0.06\log\pi(y_t), mean over tokens",
        fields={"normaliser": "token", "epsilon_high": 0.28, "perception": {"kind": "vppo"}},
        remark="DAPO's choices; with `online.masked`; α and m in [looking.md](looking.md)",
    ),
    "ves_rft": Preset(
        title="VES-RFT",
        source="CVPR 2026",
        formula=(
            rf"R_i + 0.1\,(H_\text{{masked}} - H) \text{{ in the place of }} R_i;\ -\frac1{{n_i}}\sum_t {_CLIP}"
            ", mean over answers"
        ),
        fields={"perception": {"kind": "visual_entropy"}},
        remark="GRPO's advantage; with `online.masked: {kind: none}`",
    ),
}
"""By name."""


def presets_table() -> str:
    """The presets as a table in Markdown, for ``docs/algorithms/policy_gradient.md``."""
    rows = ["| `name` | method | loss | set by | remark |", "|---|---|---|---|---|"]
    for name, preset in PRESETS.items():
        chosen = ", ".join(f"`{key}: {_plain(value)}`" for key, value in preset.fields.items()) or "the defaults"
        formula, _, average = preset.formula.partition(", mean over")
        average = f", mean over{average}" if average else ""
        cells = (f"`{name}`", f"{preset.title}: {preset.source}", f"${formula}${average}", chosen, preset.remark)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.stdout.write(presets_table())
