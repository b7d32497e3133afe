# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4 Analyse the results
#
# From the folders that the third notebook wrote; no model is needed. What the run logged, which pairs changed, where it
# still fails, and whether length explains it.

# %%
import os
from pathlib import Path

if Path("notebooks/drawn.py").is_file():  # started at the root of the repository
    os.chdir("notebooks")  # all paths below start from the folder of the notebooks

# %%
from IPython.display import HTML, display

import sightline as sl
from sightline.display import curve, embed, table

WORK = Path("work")
RUN, BASE, TUNED = WORK / "orpo", WORK / "eval/base", WORK / "eval/orpo"
run = sl.open_run(RUN)
run

# %% [markdown]
# ## The curves
#
# Both terms of ORPO on their own, how often the chosen answer was likelier in a step, and how much of what was learnt
# is gone under another picture.

# %%
for name in ("loss/sft", "loss/orpo", "rewards/accuracies", "looking/other"):
    display(HTML(curve(name, [(record["step"], record[name]) for record in run.metrics if name in record])))

# %% [markdown]
# ## Before and after, with intervals
#
# Paired on the same held-out pairs. What is no clear change should not be told as one. `accuracy/shorter` is what
# "always the shorter answer" gets: an accuracy that follows it has learnt length.

# %%
compared = sl.compare(BASE / "preferences", TUNED / "preferences")
compared

# %% [markdown]
# ## Pair by pair
#
# Which pairs it has learnt, which it has lost, and what is left.

# %%
before, after = ({row.id: row for row in side[0].result.graded} for side in (compared.before, compared.after))
margin = {id: (before[id].counts["margin"], after[id].counts["margin"]) for id in after}
learnt = [id for id, (old, new) in margin.items() if old <= 0 < new]
unlearnt = [id for id, (old, new) in margin.items() if new <= 0 < old]
wrong = sorted((id for id, (_, new) in margin.items() if new <= 0), key=lambda id: margin[id][1])
print(f"{len(margin)} pairs: {len(learnt)} learnt, {len(unlearnt)} lost, {len(wrong)} wrong afterwards")

# %% [markdown]
# ## The failures
#
# The pairs that are furthest on the wrong side, as they were asked.

# %%
for id in wrong[:3]:
    told = after[id].details
    cells = [
        ("asked", told["question"]),
        ("chosen", told["chosen"]),
        ("rejected", told["rejected"]),
        ("margin before", f"{margin[id][0]:.2f}"),
        ("margin after", f"{margin[id][1]:.2f}"),
    ]
    pictures = "".join(f'<img src="{embed(path)}" width="160">' for path in told["images"])
    display(HTML(pictures + table(("", ""), cells)))

# %% [markdown]
# ## By the length of what is preferred
#
# A model that has learnt length is right where the chosen answer is the shorter one, or the longer one, and nowhere
# else.

# %%
sides = [side[0].result.by_category for side in (compared.before, compared.after)]
rows = [(name, *(f"{side[name]['accuracy/sum']:.0%}" for side in sides)) for name in sides[1]]
HTML(table(("pairs", "accuracy before", "after"), rows))

# %% [markdown]
# ## Pages to send to others
#
# Self-contained HTML: the run with its recipe and versions, and both evaluations side by side with their worst answers.

# %%
print(sl.report(run))
print(compared.write_page(WORK / "compare.html"))
