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
# # 1 Look at preference data
#
# Before a model is trained on pairs of answers: what is asked, what is preferred, and whether something simpler than
# quality (length, a word) tells the preferred answer from the other. A model learns that first.
#
# Without a name below, everything runs on drawn shapes within seconds. For the data of LLaVA-ORPO set
# `ROWS = "openbmb/RLAIF-V-Dataset"`; a `.json`, `.jsonl` or `.parquet` file works as well.

# %%
import os
from pathlib import Path

if Path("notebooks/drawn.py").is_file():  # started at the root of the repository
    os.chdir("notebooks")  # all paths below start from the folder of the notebooks

# %%
from collections import Counter
from statistics import mean, median

from drawn import preference_rows, small_model
from IPython.display import display

import sightline as sl

WORK = Path("work")
ROWS = None  # "openbmb/RLAIF-V-Dataset", or a file
MODEL = None  # whose tokenizer counts and whose pictures are made: "llava-hf/llava-v1.6-mistral-7b-hf"

rows = ROWS or preference_rows(WORK / "pictures", 96)
model = MODEL or small_model(WORK / "model")

# %% [markdown]
# ## The rows as a model sees them
#
# Every layout becomes Groups: a question with its pictures, answers, and which is preferred over which.

# %%
groups = sl.read_rows(rows)
print(len(groups), "rows,", len({image for group in groups for image in group.prompts[0].images}), "pictures")
for group in groups[:3]:
    display(group)

# %% [markdown]
# ## How long is what is preferred?
#
# Where the preferred answer is mostly the longer one, preference accuracy says little, and a model learns to talk. The
# figures of `sl.preferences` stand beside the accuracy of "the longer one" and "the shorter one" for that reason.

# %%
lengths = [tuple(len(group.texts[place].split()) for place in (edge.winner, edge.loser))
           for group in groups for edge in group.edges]  # fmt: skip
longer = mean(won > lost for won, lost in lengths)
shorter = mean(won < lost for won, lost in lengths)
print(f"chosen {median(won for won, _ in lengths)} words, rejected {median(lost for _, lost in lengths)} (medians)")
print(f"the chosen answer is longer in {longer:.0%} of pairs, shorter in {shorter:.0%}")

# %%
won, lost = (Counter(side) for side in zip(*lengths, strict=True))
for words in sorted(won | lost):
    bars = [("█" * round(40 * side[words] / len(lengths))).ljust(40) for side in (won, lost)]
    print(f"{words:4} words   chosen {bars[0]}   rejected {bars[1]}")

# %% [markdown]
# ## Which words tell them apart?
#
# Words that stand in chosen answers more often than in rejected ones, or the other way round. A style ("Sure!", "As an
# AI") that one side has is learnt before what is in the picture.

# %%
won, lost = Counter(), Counter()
for group in groups:
    for edge in group.edges:
        won.update(set(group.texts[edge.winner].lower().split()))
        lost.update(set(group.texts[edge.loser].lower().split()))
apart = sorted(won | lost, key=lambda word: abs(won[word] - lost[word]), reverse=True)[:8]
for word in apart:
    print(f"{word:12} chosen {won[word]:4}   rejected {lost[word]:4}")

# %% [markdown]
# ## Everything else that goes wrong
#
# `sl.check` reads the rows as a run would: bad rows and pictures, doubles, leaks from a benchmark
# (`against=["pope=eval_data/pope"]`), biases, tokens, and what the run would take in memory and time.

# %%
recipe = sl.load_recipe(
    "../recipes/orpo.yaml", f"model.path={model}", "model.dtype=float32", f"output_dir={WORK / 'orpo'}"
)
look = sl.check(recipe, rows, html=WORK / "check.html")
print(look)

# %% [markdown]
# Next: [what the base model says, and where it looks](2_what_the_base_model_says.ipynb).
