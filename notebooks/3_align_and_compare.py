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
# # 3 Align and compare
#
# ORPO: the likelihood of the chosen answer, and its odds against the rejected one, in one stage and without a
# reference model. Then the same questions as before, to both.
#
# For a real model take the recipe of LLaVA-ORPO (a decoder in 4 bits, adapters, the projector in full) and its data:
#
# ```python
# recipe = sl.load_recipe("../recipes/papers/llava_orpo.yaml", "train.trackers=[]")
# run = sl.train(recipe)
# ```

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
MODEL = None  # "llava-hf/llava-1.5-7b-hf"
ROWS = None  # "openbmb/RLAIF-V-Dataset", or a file
HELD_OUT = None  # rows that are not trained on

small = MODEL is None
model = MODEL or small_model(WORK / "model")
rows = ROWS or preference_rows(WORK / "pictures", 96)
held_out = HELD_OUT or preference_rows(WORK / "pictures", 32, start=96)

# %% [markdown]
# ## Train
#
# A small model is trained in full and in float32; anything else of the recipe stays as it is in the file.

# %%
changes = [f"model.path={model}", f"output_dir={WORK / 'orpo'}"]
if small:
    changes += [
        "model.dtype=float32",
        "model.parts={language: full, projector: full, vision: full}",
        "model.lora=null",
        "train.max_steps=30",
        "train.batch_size=16",
        "train.learning_rate=1e-3",
        "train.looking.every=10",
    ]
recipe = sl.load_recipe("../recipes/orpo.yaml", *changes)
run = sl.train(recipe, rows)
run

# %% [markdown]
# ## The same pairs, before and after
#
# On pairs that were not trained on. `looking/policy/other` tells whether the preference now comes from the picture.

# %%
base = sl.preferences(model, held_out, out=WORK / "eval/base")
tuned = sl.preferences(run, held_out, out=WORK / "eval/orpo")
for name in ("accuracy/sum", "accuracy/mean", "logps_mean/chosen", "logps_mean/rejected", "looking/policy/other"):
    print(f"{name:24} {base.metrics[name]:8.3f} -> {tuned.metrics[name]:8.3f}")

# %% [markdown]
# ## The same picture, to both
#
# Bright is where covering the picture costs the chosen answer most.

# %%
before, after = sl.load(model), sl.load(run)
group = sl.read_rows(held_out)[3]
asked, edge = group.prompts[0], group.edges[0]
picture = Image.open(asked.images[0]).convert("RGB")
print(asked.question)
for name, one in (("before", before), ("after", after)):
    print(f"{name:7}", one.answer(picture, asked.question, max_tokens=12).texts)
    lost = losses(one, picture, asked.question, group.texts[edge.winner], group.texts[edge.loser])
    display(shaded(picture, lost).resize((192, 192)))

# %% [markdown]
# ## A benchmark, paired
#
# The same questions to both; `compare` says which differences are clear. Here the built-in world, drawn; put the name
# and the folder of a benchmark in its place (`"pope", "eval_data"`). So small a model was taught colours alone, and
# need not be good at it.

# %%
BENCH, DATA = "scenes", WORK / "scenes"
if small:
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "scenes.json").write_text('{"scenes": 4, "questions": 1}')
for name, one in (("base", before), ("orpo", after)):
    sl.evaluate(one, BENCH, DATA, out=WORK / "eval" / name)
sl.compare(WORK / "eval/base/scenes", WORK / "eval/orpo/scenes")

# %% [markdown]
# Next: [analyse the results](4_analyse_results.ipynb). To use the model elsewhere: `sightline export --quantize`.
