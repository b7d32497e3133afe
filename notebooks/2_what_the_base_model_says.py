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
# # 2 What the base model says, and where it looks
#
# The model before it is aligned, on pairs that are held out: what it answers, which answer it finds likelier, and
# whether the picture has anything to do with it. Everything later is measured against this.

# %%
import os
from pathlib import Path

if Path("notebooks/drawn.py").is_file():  # started at the root of the repository
    os.chdir("notebooks")  # all paths below start from the folder of the notebooks

# %%
from drawn import preference_rows, small_model
from IPython.display import display
from looking import losses, shaded
from PIL import Image

import sightline as sl

WORK = Path("work")
MODEL = None  # "llava-hf/llava-v1.6-mistral-7b-hf", a folder, or a run
HELD_OUT = None  # rows that will not be trained on: a file, or a datasets name

model = sl.load(MODEL or small_model(WORK / "model"))
held_out = HELD_OUT or preference_rows(WORK / "pictures", 32, start=96)
groups = sl.read_rows(held_out)
model

# %% [markdown]
# ## What it says
#
# One greedy answer, and three samples.

# %%
asked = groups[0].prompts[0]
picture = Image.open(asked.images[0]).convert("RGB")
print(asked.question)
print("greedy: ", model.answer(picture, asked.question, max_tokens=12).texts)
model.answer(picture, asked.question, n=3, max_tokens=12)

# %% [markdown]
# ## What it finds likelier
#
# Log-probabilities in nats, summed over the answer and the end of its turn.

# %%
chosen, rejected = (groups[0].texts[place] for place in (groups[0].edges[0].winner, groups[0].edges[0].loser))
model.score(picture, asked.question, [chosen, rejected])

# %% [markdown]
# ## Does it prefer what people prefer, and because of the picture?
#
# `accuracy/sum` and `accuracy/mean`: share of pairs in which the chosen answer is likelier, by whole answers and by
# token. `accuracy/shorter` is what "always the shorter one" gets. `looking/policy/other`: nats of the margin that are
# gone when another picture is shown. About 0: the preference does not come from the picture.

# %%
base = sl.preferences(model.named.spec.path, held_out, out=WORK / "eval/base")
base

# %% [markdown]
# ## Where it looks
#
# Pieces of the picture are covered one by one. Bright is where that costs the chosen answer most against the rejected
# one.

# %%
lost = losses(model, picture, asked.question, chosen, rejected)
for shown in (picture, shaded(picture, lost)):
    display(shown.resize((288, 288)))
print(f"most that one piece is worth: {lost.max():.2f} nats")

# %% [markdown]
# Next: [align and compare](3_align_and_compare.ipynb).
