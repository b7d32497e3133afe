"""The shape of a recipe: one YAML file, complete, read top to bottom. Imports no torch.

Every field is documented under the field and its default stands only here. The fields of an
algorithm are those of its dataclass in ``sightline.algorithms``; they are kept as plain options
here and checked when the algorithm is built (``sightline show`` does both).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from sightline.recipes.critic import CriticSpec
from sightline.recipes.direct import said_plainly
from sightline.recipes.distorted import DistortedSpec
from sightline.recipes.engine import EngineSpec
from sightline.recipes.evaluation import EvaluationSpec
from sightline.recipes.looking import LookingSpec
from sightline.recipes.negatives import GeneratedSpec, StagesSpec
from sightline.recipes.pictures import PictureSpec
from sightline.recipes.preferences import BufferSpec, OnlineRelation, SelectionSpec
from sightline.recipes.rewards import RewardSpec
from sightline.recipes.sampling import SamplingSpec
from sightline.recipes.segments import SegmentSpec
from sightline.recipes.standardise import StandardiseSpec

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)
_MOST = 2**31 - 1
"""Of everything that is counted."""

Decay = Annotated[float, Field(ge=0, lt=1)]
Part = Literal["language", "projector", "vision"]
Mode = Literal["full", "lora", "frozen"]


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class LoraSpec:
    """LoRA through PEFT, for the parts whose mode is ``lora``."""

    rank: int = Field(default=16, ge=1, le=_MOST)
    alpha: float = Field(default=32, gt=0, le=1e6)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Drawn for all rows that are computed together: above 0, results depend on ``train.micro_batch_tokens``."""
    targets: Literal["all-linear", "attention", "mlp"] = "all-linear"
    """Which linear layers of a part get an adapter."""
    dora: bool = False
    """DoRA (Liu et al. 2024, arXiv 2402.09353): LoRA turns each column of a weight, and its length is trained apart.
    Norms of whole weights are computed in every pass."""
    rslora: bool = False
    """rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): adapters are scaled by alpha / sqrt(rank), not alpha / rank."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class PartsSpec:
    """How each part of the model is trained."""

    language: Mode = "full"
    projector: Mode = "full"
    vision: Mode = "frozen"


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ModelSpec:
    """Which model, and which of it is trained."""

    path: str
    """Local folder, or hub name."""
    adapter: str | None = None
    """Folder of a PEFT adapter to continue from: it trains as it is."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type the weights are loaded in. What is trained is float32 in either, and with bfloat16 computed in bfloat16 and
    saved in it (a whole model; adapters are saved in float32)."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """Type the linear layers of the decoder are held in, frozen, under adapters (bitsandbytes, extra ``quantize``): 4
    bits (QLoRA) or 8. Projector, vision tower, embeddings and LM head are left out. Results of ``int8`` depend a little
    on what is computed together."""
    double_quant: bool = True
    """Of ``nf4``: the scales of blocks are held in 8 bits, which saves 0.4 bits a weight."""
    compute_dtype: Literal["float32", "bfloat16"] | None = None
    """Of ``nf4``: type of the products. None: ``dtype``."""
    layout: Literal["rows", "packed", "tree"] = "tree"
    attention: Literal["auto", "segments", "gather", "merge", "dense"] = "auto"
    """How ``packed`` and ``tree`` are computed: segment by segment; in one variable-length call over copied keys; in
    two calls whose results are merged; or with one dense mask. All give the same numbers. auto: ``gather`` or
    ``merge`` on a GPU in half precision, otherwise ``segments``."""
    parts: PartsSpec | None = None
    """None: with ``adapter``, the parts that it holds; otherwise language and projector in full. With ``adapter`` a
    part may be what the adapter holds, or ``frozen``."""
    lora: LoraSpec | None = None
    """None: the defaults. With ``adapter``: what it was made with, or None."""
    gradient_checkpointing: bool = False
    image_size: dict[str, Annotated[int, Field(ge=1, le=_MOST)]] | None = None
    """Overrides the processor's ``size`` (for example ``{shortest_edge: 3136, longest_edge: 200704}``)."""
    pictures: PictureSpec = PictureSpec()
    """Tiles, limits of pixels, bars. As ``image_size`` it is kept with the processor that the run saves."""
    chat_template: str | None = None
    """Path of a Jinja chat template; None: the processor's own."""

    def __post_init__(self) -> None:
        """Fills what the defaults say; what an adapter holds is known when it is loaded."""
        if self.adapter is not None:
            return
        parts = self.parts or PartsSpec()
        object.__setattr__(self, "parts", parts)
        if self.lora is None and "lora" in (parts.language, parts.projector, parts.vision):
            object.__setattr__(self, "lora", LoraSpec())


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class NegativeSpec:
    """The picture that an answer is not about. Made files lie in ``negatives`` of the run directory."""

    kind: Literal["crop", "noise", "patches", "blank", "none", "other", "column"] = "crop"
    """``crop``: a random piece, enlarged to the size of the whole; ``noise``: the picture under Gaussian noise;
    ``patches``: some of its squares black; ``blank``: white, or black where the picture is white; ``none``: the
    question without its picture; ``other``: a picture of another row; ``column``: the second picture of the row."""
    area: tuple[float, float] = (0.01, 0.2)
    """Of ``crop``: least and most share of the picture's area, in (0, 1], least below 1."""
    step: int = Field(default=500, ge=0, le=999)
    """Of ``noise``: step of a diffusion of 1000 steps, 999 the noisiest."""
    patch: int = Field(default=14, ge=1, le=_MOST)
    """Of ``patches``: side of a square in pixels."""
    share: float = Field(default=0.6, gt=0, le=1)
    """Of ``patches``: probability that a square is black (PAPO 0.6, VPPO 0.5)."""
    size: Literal["small", "same"] = "small"
    """Of white pictures: 64 x 64 pixels, or as large as the picture they replace."""
    replace: Literal["all", "first", "last"] = "all"
    """Which pictures of a prompt that has several; not with ``column``."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class VisualSpec:
    """Comparisons of pictures, added to or put in the place of the comparison of two answers. Written
    answer|picture, + chosen or true, - rejected or negative, 0 the picture in between."""

    relation: Literal["mdpo", "svco", "svco_noref", "ovip"]
    """``mdpo``: +|+ over -|+, +|+ over +|-. ``svco``: +|+ over +|0, +|0 over +|-. ``svco_noref``: +|+ over -|-.
    ``ovip``: +|+ over -|+, +|+ over +|0, +|0 over +|-."""
    negative: NegativeSpec = NegativeSpec()
    between: Literal["none", "blank"] = "none"
    """Of ``svco`` and ``ovip``: the question without its picture, or with a white one."""
    symmetric: bool = False
    """The rejected answer is preferred under the negative picture as well: for negatives that it describes."""
    image_weight: float = Field(default=1.0, gt=0, le=1e6)
    """Multiplies the weights of all comparisons of pictures."""


@said_plainly
@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DataSpec:
    """One source of rows."""

    path: str
    """A .json, .jsonl, .csv, .tsv (each also .gz or .zst), .parquet or .tar file, a glob of such files, a folder of
    shards or one written by ``datasets``, or a datasets name. With ``entry``: a ``dataset_info.json``."""
    entry: str | None = None
    """Name of an entry in the ``dataset_info.json`` (LLaMA-Factory) that ``path`` names; None: ``path`` holds rows."""
    format: Literal[
        "auto", "groups", "trl", "llava", "povid", "llava_rlhf", "rlhf_v", "mdpo", "sentinel", "vlfeedback", "swift",
        "alpaca",
    ] = "auto"  # fmt: skip
    """Layout of the rows; ``auto`` looks at the columns of the first row."""
    split: str = "train"
    """Split of a datasets name or folder."""
    image_dir: str | None = None
    """Folder that relative image paths start from; None: the folder of the file."""
    rename: dict[str, str] = Field(default_factory=dict)
    """Column renames, old to new (``question: prompt``)."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Rows of a subset only: column to the values that are taken (``origin_dataset: [COCO, OpenImages]``);
    ``limit`` counts these."""
    limit: int | None = Field(default=None, ge=1, le=_MOST)
    """First rows only."""
    train_on: Literal["all", "last"] = "all"
    """Multi-turn supervised rows: train every assistant turn, or the last."""
    relation: Literal["text", "best_worst", "options", "mismatched", "none"] = "text"
    """``text``: chosen over rejected in every row that has both, of ranked or rated answers each over all that are
    worse; ``best_worst``: of these the best answer over the worst, and no others; ``options``: the letter of the right
    option over a wrong one, from a question that lists (A), (B), ...; ``mismatched``: single answers, each desirable
    or not, with an answer to another question of the source beside them (KTO); ``none``: no edges."""
    visual: VisualSpec | None = None
    """Comparisons of pictures made from each comparison of answers; None: none."""
    weight: float = Field(default=1.0, gt=0, le=1e4)
    """How often an epoch takes each row: 2 takes each twice, 0.5 half of them and the others in the next. No row comes
    again before all of its source have come. A source's share of training is its rows times its weight."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class ReadsSpec:
    """What a reward model reads in place of the rows as they are. It is kept with the reward model, so that
    scoring reads the same. A policy never reads any of it."""

    images: Literal["keep", "drop", "caption"] = "keep"
    """``drop``: text only; ``caption``: each picture is replaced by the text that ``captions`` has for it."""
    captions: str = "captions"
    """Key of ``Prompt.facts``: a text or a list of texts; with several pictures, a list with one entry for each."""
    facts: tuple[str, ...] = ()
    """Keys of ``Prompt.facts`` (``captions``, ``rationales``) whose texts are added to what is read, in this order."""
    missing_facts: Literal["error", "leave_out"] = "error"
    """What to do about a prompt that lacks one of ``facts``."""
    criteria: str | None = None
    """``default``, or the text of a request to judge the last answer, with ``{facts}`` where the facts go. The
    request follows the answer and the score is read at the end of ``lead_in``; None: at the end of the answer."""
    lead_in: str = "By these criteria, the score of the last response is"
    """How the reply to ``criteria`` begins, right before where a score would stand."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class DatasetSpec:
    """What is trained on and what is held out."""

    train: tuple[DataSpec, ...] = ()
    """Empty only where ``online`` makes the groups."""
    eval: tuple[DataSpec, ...] = ()
    validation: float = Field(default=0.0, ge=0, lt=1)
    """Share of the rows of ``train`` that is held out in place of ``eval``: by a hash of their pictures, so that none
    is on both sides; rows without pictures by a hash of their question. 0: none."""
    cache_dir: str | None = None
    """Folder for what is kept of rows and pictures that were checked, so that the next start finds it. None:
    ``SIGHTLINE_CACHE``, or ``sightline`` in ``XDG_CACHE_HOME`` or ``~/.cache``, and rows of less than 8 MB are not
    kept: they are read again."""
    on_bad_row: Literal["error", "skip"] = "error"
    """``skip``: count bad rows and list them in ``bad_rows.jsonl`` of the run directory."""
    max_length: int = Field(default=4096, ge=8)
    """Longest prompt plus response, in tokens with every placeholder counted. Longer rows are bad
    rows: nothing is cut."""
    reads: ReadsSpec | None = None
    """For reward models: what is read in place of the rows as they are."""
    segments: SegmentSpec | None = None
    """Weights of tokens by where compared answers differ; None: every token weighs 1."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class TrainSpec:
    """The optimisation."""

    epochs: float = Field(default=1.0, gt=0, le=1e6)
    max_steps: int | None = Field(default=None, ge=1, le=_MOST)
    """Stop after so many optimizer steps; None: as ``epochs`` say."""
    batch_size: int = Field(default=16, ge=1, le=_MOST)
    """Groups per optimizer step, over all processes."""
    micro_batch_tokens: int = Field(default=8192, ge=1, le=_MOST)
    """Most tokens of one forward pass; one group is always allowed."""
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = "adamw"
    """``8bit``: both moments of tensors of 4096 numbers or more in 8 bits, 2 bytes a trained parameter for 8.
    ``paged``: moments move to main memory where the GPU runs short. All but ``adamw`` through bitsandbytes (extra
    ``quantize``)."""
    learning_rate: float = Field(default=1e-5, gt=0, le=1)
    projector_learning_rate: float | None = Field(default=None, gt=0, le=1)
    """None: ``learning_rate``."""
    vision_learning_rate: float | None = Field(default=None, gt=0, le=1)
    """None: ``learning_rate``."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """Applied to matrices, not to biases and norms."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0, le=1)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: float = Field(default=0.03, ge=0, le=_MOST)
    """Below 1: share of all steps; otherwise a number of steps."""
    max_grad_norm: float = Field(default=1.0, ge=0, le=1e9)
    """0: no clipping."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """bf16: float32 weights under autocast."""
    compile: bool = False
    """Compile each layer of the decoder (torch.compile, dynamic lengths). The first steps take a minute more; changes
    no result beyond rounding."""
    distribution: Literal["auto", "single", "ddp", "fsdp"] = "auto"
    """Kind of distribution asked for; ``auto`` takes what the launcher set up: one process, or ``ddp``. ``fsdp``
    spreads parameters, gradients and optimizer state over the processes. A run whose real kind differs stops."""
    shuffle: bool = True
    log_every: int = Field(default=1, ge=1, le=_MOST)
    eval_every: int | None = Field(default=None, ge=1, le=_MOST)
    save_every: int | None = Field(default=100, ge=1, le=_MOST)
    """Optimizer steps between checkpoints, which a stopped run goes on from; there is one at the end as well. None:
    only at the end."""
    keep_checkpoints: int = Field(default=2, ge=1, le=_MOST)
    """How many of the newest stay."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Beside ``metrics.jsonl``, which is always written."""
    workers: int = Field(default=1, ge=0, le=_MOST)
    """Threads that prepare the next groups; 0: none."""
    looking: LookingSpec = LookingSpec()


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class OnlineSpec:
    """Fresh groups from the policy itself: prompts, samples, rewards, relations."""

    prompts: DataSpec
    """Where the prompts come from; their responses are ignored."""
    reward: RewardSpec
    """``scenes``, the run directory of a reward model, or ``package.module:Name`` of a reward; or a mapping of named
    terms whose weighted sum it is (``docs/rewards.md``): ``{objects: {world: scenes}, length: {weight: -0.1}}``."""
    failed_rewards: Literal["drop", "stop"] = "drop"
    """What becomes of an answer whose reward fails for good. ``drop``: it is left out, counted and told; ``stop``: the
    run ends with an error, and goes on from its last checkpoint."""
    sampling: SamplingSpec = SamplingSpec(n=8)
    relation: OnlineRelation = "best_worst"
    """``best_worst``: the best answer over the worst; ``ranked``: every higher reward over every lower (with
    ``min_gap`` the margin rule); ``length_balanced``: two pairs, the chosen answer longer in one and shorter in the
    other; ``ovip``: by ``selection``; ``best``: the best answer alone, to train by SFT (RAFT); ``none``: rewards are
    used as they are."""
    min_gap: float = Field(default=0.0, ge=0, le=1e9)
    """Least difference of reward for an edge; of ``best``, between best and worst. Not read by ``ovip``."""
    selection: SelectionSpec | None = None
    """Of ``relation: ovip``; None: its published values."""
    buffer: BufferSpec | None = None
    """Comparisons wait between their sampling and their training; None: a round trains what it sampled."""
    visual: VisualSpec | None = None
    """Comparisons of pictures made from each comparison of answers; None: none."""
    negatives: GeneratedSpec | None = None
    """Pictures that show what the rejected answer says, in the place of ``visual.negative``; None: none is made."""
    stages: StagesSpec | None = None
    """How sampling, scoring and picture making overlap; None: a round goes through each as a whole, in turn."""
    masked: NegativeSpec | None = None
    """The picture under which every answer is read a second time, for algorithms that ask whether the picture mattered
    (``papo``, ``vppo``, ``ves_rft``); drawn once for each prompt. None: none."""
    distorted: DistortedSpec | None = None
    """Some of the answers are sampled under a distorted picture (NoisyRollout); None: none."""
    steps_per_round: int = Field(default=1, ge=1, le=_MOST)
    """Parts that the groups of one round of sampling are split in, each an optimizer step of ``train.batch_size``."""
    inner_epochs: int = Field(default=1, ge=1, le=_MOST)
    """Times that the steps of a round are taken, in the same order: it has ``steps_per_round`` times as many optimizer
    steps (TRL's ``num_iterations``)."""
    max_staleness: int = Field(default=0, ge=0, le=1000)
    """Rounds between the sampling of an answer and its training. 0: on-policy. Above it rounds are sampled so far
    ahead, each with the policy as it then is, and a policy gradient needs ``algorithm.mismatch``. With ``buffer`` as
    many prompts are sampled ahead as the pairs found so far say are needed."""
    truncated: Literal["train", "mask"] = "train"
    """Answers cut at the limit. ``mask``: their rewards count in the group, their tokens are not trained (DAPO's
    overlong filtering). Needs ``relation: none``."""
    overlong_buffer: int = Field(default=0, ge=0, le=_MOST)
    """Last tokens before ``sampling.max_new_tokens`` over which the reward falls by up to 1 (DAPO's soft overlong
    punishment), as the part ``overlong``. 0: none."""
    dynamic_sampling: int = Field(default=0, ge=0, le=1000)
    """Most times in a round that other prompts are sampled in the place of those whose answers all have the same
    reward, which are left out (DAPO). 0: they stay. Needs ``relation: none``."""
    standardise: StandardiseSpec | None = None
    """Rewards as they are trained, measured by the last ones; files and figures have them as they are. None: trained as
    they are. Needs ``relation: none``."""
    greedy: bool = False
    """One greedy answer per prompt beside the sampled ones, scored and never trained: ReMax measures by it."""
    replay: str | None = None
    """A ``samples.jsonl``: its answers and rewards are taken in place of sampled ones. To a prompt those of the same
    policy version; from a file without that version, those of its k-th appearance in epoch k. Prompts that it lacks are
    left out and counted."""
    engine: EngineSpec = EngineSpec()
    """What samples the answers, and how it is checked against the trainer."""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class MixSpec:
    """What is learnt beside the run's own algorithm: another one, on rows from disk, in every optimizer step (the
    pretraining mix of Ouyang et al. 2022, arXiv 2203.02155, PPO-ptx)."""

    data: DatasetSpec
    """Its rows; none is held out."""
    algorithm: dict[str, Any] = Field(default_factory=lambda: {"name": "sft"})
    """As ``algorithm`` of the recipe, of those that learn from rows. It has the recipe's reference."""
    weight: float = Field(default=1.0, gt=0, le=1e6)
    """Times its loss, which is a mean over its own tokens, answers or pairs."""
    batch_size: int = Field(default=16, ge=1, le=_MOST)
    """Its groups per optimizer step, over all processes. The rows are gone through again and again."""


@said_plainly
@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Recipe:
    """A training run."""

    name: str = Field(min_length=1)
    output_dir: str = Field(min_length=1)
    """Run directory: resolved recipe, versions, metrics, checkpoints, report."""
    model: ModelSpec
    algorithm: dict[str, Any]
    """``name`` (``sft``, ``dpo`` or ``package.module:Class``) and the fields of its dataclass."""
    reference: Literal["auto", "none", "adapter", "copy", "cache"] = "auto"
    """Where reference log-probabilities come from. ``adapter``: the same module with its new adapters off, or with a
    frozen copy of ``model.adapter``; ``copy``: a frozen copy of the whole; ``cache``: numbers computed once before
    training and stored with a fingerprint. auto: ``adapter`` with LoRA or ``model.adapter``, otherwise ``copy``; none
    where the algorithm reads no reference."""
    data: DatasetSpec | None = None
    online: OnlineSpec | None = None
    """Exactly one of ``data.train`` and ``online``; ``data.eval`` may stand beside ``online``."""
    critic: CriticSpec | None = None
    """For ``algorithm.name: ppo``; None: its defaults."""
    mix: MixSpec | None = None
    """Another algorithm on rows from disk in the same steps (SFT beside PPO); None: none."""
    train: TrainSpec = TrainSpec()
    evaluation: EvaluationSpec | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
