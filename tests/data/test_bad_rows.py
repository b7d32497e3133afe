"""Rows that would train on something else than they say, or end the run: bad rows, named by file, row and key."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_runs
from groups import user
from PIL import Image

from sightline.data.load import Account, groups_from_records, load_dataset_spec, load_groups
from sightline.data.picture import read_picture
from sightline.data.render import MOST_PIXELS, Renderer
from sightline.data.schema import write_groups
from sightline.errors import DataError
from sightline.models.layout import lay_out
from sightline.models.limits import Limits
from sightline.models.load import load_policy
from sightline.models.policy import Policy
from sightline.recipes.schema import DatasetSpec, DataSpec, ModelSpec
from sightline.train.loop import train
from sightline.types import Edge, Group, Prompt, Response

CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "training"
SCREEN = 1920


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 30), (90, 9, 200)).save(tmp_path / "0.png")
    return tmp_path


def policy_of(path: Path) -> Policy:
    return load_policy(ModelSpec(path=str(path)), trainable=False)


def told(folder: Path, row: Any, **options: Any) -> str:
    """The error of the second of two rows, which names its file and row; with ``skip`` the first is kept."""
    path = folder / "rows.jsonl"
    first = {"prompt": "q", "completion": "fine"} if "prompts" not in row else group_row()
    path.write_text(f"{json.dumps(first)}\n{json.dumps(row)}\n")
    spec = DatasetSpec(train=(DataSpec(path=str(path)),))
    with pytest.raises(DataError) as caught:
        load_dataset_spec(spec, "train", **options)
    groups, report = load_dataset_spec(replace(spec, on_bad_row="skip"), "train", folder / "run", **options)
    assert len(groups) == 1 and report.bad[0].row == 2
    message = str(caught.value)
    assert message.startswith(f"{path}, row 2 (counted from 1): ") and len(message) < SCREEN
    return message


def group_row(**response: Any) -> dict[str, Any]:
    prompt = {"id": "0", "messages": [{"role": "user", "content": "q"}]}
    return {"prompts": [prompt], "responses": [{"text": "a", **response}]}


# --- the model's context ------------------------------------------------------------------------


def test_rows_beyond_the_context_of_the_model_are_bad_rows(tiny: dict[str, Path], folder: Path) -> None:
    policy = policy_of(tiny["llava"])
    assert Limits.of(policy.config).context == 4096
    renderer = Renderer(policy.processor, policy.family, limits=Limits.of(policy.config))
    row = {"prompt": "q", "completion": "one two " * 2500}
    assert "and may take 4096 (data.max_length, or the model's context" in told(
        folder, row, num_tokens=renderer.num_tokens
    )
    group = Group(prompts=(Prompt(id="0", messages=(user("q"),)),), responses=(Response(text="one two " * 2500),))
    with pytest.raises(DataError, match="may take 4096"):
        renderer.render(group)
    short = replace(group, responses=(Response(text="one"),))
    assert renderer.num_tokens(short, new=4000) < 4096
    with pytest.raises(DataError, match="may take 4096"):
        renderer.num_tokens(short, new=4096)


@pytest.mark.parametrize("online", [False, True])
def test_a_run_refuses_them_before_its_first_step(tiny: dict[str, Path], tmp_path: Path, online: bool) -> None:
    if online:
        recipe = train_runs.online(tiny["llava"], tmp_path, "train_runs:CountsE", max_steps=1)
    else:
        recipe = train_runs.recipe(tiny["llava"], tmp_path, max_steps=1)
        recipe = replace(recipe, data=replace(recipe.data, max_length=100_000))
    rows = Path(recipe.online.prompts.path if online else recipe.data.train[0].path)
    long = Prompt(id="long", messages=(user("describe " * 3000),))
    short = train_runs.group(0, train_runs.draw(rows.parent), 1)
    write_groups(rows, [short, Group(prompts=(long,), responses=(Response(text="a"),))])
    with pytest.raises(DataError, match=r"row 2 \(counted from 1\): prompt, images and response take .* may take 4096"):
        train(recipe, quiet=True)


# --- texts --------------------------------------------------------------------------------------

HALF = "cut emoji \ud83d"


@pytest.mark.parametrize(
    ("row", "place"),
    [
        ({"prompt": "q", "completion": HALF}, "'completion' holds half of a character"),
        ({"prompt": HALF, "completion": "a"}, "'prompt' holds half"),
        ({"prompt": "q", "completion": "a", "id": HALF}, "'id' holds half"),
        ({"prompt": "q", "completion": "a", "images": [HALF]}, r"'images\[0\]' holds half"),
        ({"prompt": "q", "completion": "a", HALF: 1}, "'a key of ' holds half"),
        ({"prompt": "q", "completion": "a", "facts": {"deep": [{HALF: 1}]}}, r"'a key of facts.deep\[0\]' holds half"),
        ({"messages": [{"role": "user", "content": HALF}]}, r"'messages\[0\].content' holds half"),
        (group_row(text=HALF), r"'responses\[0\].text' holds half"),
    ],
)
def test_half_an_emoji_is_a_bad_row_and_its_key_is_named(folder: Path, row: dict[str, Any], place: str) -> None:
    with pytest.raises(DataError, match=place):
        raise DataError(told(folder, row))


@pytest.mark.real
def test_the_case_of_a_lone_surrogate() -> None:
    if not CASES.is_dir():
        pytest.skip("the folder of small failing inputs (../shared/cases) is absent")
    account = Account(on_bad_row="skip")
    groups = load_groups(DataSpec(path=str(CASES / "lone_surrogate.jsonl")), account)
    assert [group.responses[0].text for group in groups] == ["fine"]
    assert account.report.bad[0].row == 1 and "'completion' holds half" in account.report.bad[0].error


@pytest.mark.parametrize(
    "text", ["a small blue star " * 60_000, "a" * 1_000_000, "\n" * 1_000_000, "a/" * 500_000, "\U0001f600" * 250_000]
)
def test_a_megabyte_is_refused_in_seconds(tiny: dict[str, Path], folder: Path, text: str) -> None:
    policy = policy_of(tiny["llava"])
    backend = policy.processor.tokenizer.backend_tokenizer
    backend.pre_tokenizer = type(backend.pre_tokenizer)(add_prefix_space=False, use_regex=False)  # one word, as Llama's
    renderer = Renderer(policy.processor, policy.family, limits=Limits.of(policy.config), max_length=2000)
    pieces = [text[place : place + 5000] for place in range(0, len(text), 5000)]
    turns = [{"role": ("user", "assistant")[i % 2], "content": piece} for i, piece in enumerate(pieces)]
    start = time.process_time()
    for row in ({"prompt": text, "completion": "a"}, {"prompt": "q", "completion": text}, {"messages": turns}):
        message = told(folder, row, num_tokens=renderer.num_tokens)
        assert "and may take 2000" in message or "is empty" in message
    told(folder, {"prompt": "q", "completion": "a", "images": [text]}, num_tokens=renderer.num_tokens)
    assert time.process_time() - start < 5


def test_many_turns_take_the_time_of_their_length(tiny: dict[str, Path], folder: Path) -> None:
    policy = policy_of(tiny["llava"])
    renderer = Renderer(policy.processor, policy.family, max_length=4000)
    turns = [{"role": ("user", "assistant")[i % 2], "content": "a"} for i in range(4000)]
    start = time.process_time()
    assert "and may take 4000" in told(folder, {"messages": turns}, num_tokens=renderer.num_tokens)
    assert time.process_time() - start < 5


# --- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        {"image_path": "0.png"}, {"img": "0.png"}, {"picture": ["0.png"]}, {"image_url": "https://x.org/0"},
        {"videos": ["a.mp4"]}, {"video": "a"}, {"photo": {"path": "0.png"}}, {"shown": "folder/0.jpeg"},
        {"shown": "data:image/png;base64,AAAA"}, {"shown": "iVBORw0KGgo" + "A" * 12_000}, {"media": ["a.WEBP?size=3"]},
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "chosen": "a", "rejected": "b"},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
    ],
)
def test_pictures_under_another_name_are_refused(folder: Path, row: dict[str, Any], column: dict[str, Any]) -> None:
    path = folder / "rows.jsonl"
    path.write_text(f"{json.dumps({**row, **column})}\n")
    with pytest.raises(DataError, match=f"column '{next(iter(column))}' looks like a picture or a video") as caught:
        load_groups(DataSpec(path=str(path)))
    assert f"rename: {{{next(iter(column))}: images}}" in str(caught.value) and len(str(caught.value)) < SCREEN


@pytest.mark.parametrize("name", ["videos", "image_2", "rejected_images"])
def test_what_stands_beside_the_picture_of_a_row_is_refused_as_well(folder: Path, name: str) -> None:
    row = {"prompt": "q", "completion": "a", "images": ["0.png"], name: ["0.png"]}
    with pytest.raises(DataError, match=f"column '{name}' looks like a picture or a video"):
        groups_from_records([row], DataSpec(path="rows", image_dir=str(folder)))


def test_a_video_under_any_name_is_refused_beside_a_picture(folder: Path) -> None:
    row = {"prompt": "q", "completion": "a", "images": ["0.png"], "clip": ["shown/1.mp4"]}
    with pytest.raises(DataError, match="column 'clip' looks like a picture or a video"):
        groups_from_records([row], DataSpec(path="rows", image_dir=str(folder)))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"type": "text", "text": "q", "image": "0.png"},
            "unknown key 'messages.0..content.0..image' in a part of type",
        ),
        ({"type": "image", "image": "0.png", "text": "also"}, "unknown key 'messages.0..content.0..text'"),
        ({"type": "image", "image": "0.png", "max_pixels": 99}, "unknown key 'messages.0..content.0..max_pixels'"),
        ({"type": "image", "image": "0.png", "url": "1.png"}, "has image and url. Keep one"),
        ({"type": "text", "text": "q", "value": "p"}, "has text and value. Keep one"),
    ],
)
def test_nothing_of_a_typed_part_is_passed_over(folder: Path, part: dict[str, Any], message: str) -> None:
    content = [part, {"type": "text", "text": "What?", "image": None, "index": 0}]
    row = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a"}]}
    with pytest.raises(DataError, match=message):
        groups_from_records([row], DataSpec(path="rows", image_dir=str(folder)))


@pytest.mark.parametrize(
    "columns",
    [
        {"images": ["0.png"], "image_path": "COCO_val2014_000000000042.jpg"},  # RLAIF-V: the picture, and its name
        {"facts": {"image_path": "0.png"}},
        {"image_path": None},
        {"image_id": 3, "source": "a book", "videos": []},
    ],
)
def test_notes_about_pictures_are_kept_as_facts(folder: Path, columns: dict[str, Any]) -> None:
    row = {"prompt": "q", "completion": "a", **columns}
    (group,) = groups_from_records([row], DataSpec(path="rows", image_dir=str(folder)))
    assert len(group.prompts[0].images) == len(columns.get("images", ()))


def test_pictures_of_other_names_are_read_once_they_are_renamed(folder: Path) -> None:
    pair = {"question": "q", "chosen": "a", "rejected": "b", "image_path": "0.png"}
    account, spec = Account(), DataSpec(path="r", image_dir=str(folder), rename={"image_path": "images"})
    groups = groups_from_records([pair, {"prompt": "q", "completion": "a", "image_path": None}], spec, account)
    assert [len(group.prompts[0].images) for group in groups] == [1, 0]
    assert account.report.summary() == "2 of 2 rows kept, 1 with pictures"


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_pictures_in_memory_are_kept_upright(folder: Path, orientation: int) -> None:
    picture = Image.new("RGB", (8, 4), (255, 0, 0))
    picture.putpixel((0, 0), (0, 0, 255))
    turned = Image.Exif()
    turned[0x0112] = orientation
    picture.save(folder / "a.png", exif=turned)
    account = Account(cache_dir=folder / "cache")
    with Image.open(folder / "a.png") as opened:
        rows = [{"prompt": "q", "completion": "a", "image": opened}]
        (group,) = groups_from_records(rows, DataSpec(path="rows"), account)
    found, expected = read_picture(group.prompts[0].images[0]), read_picture(str(folder / "a.png"))
    assert found.size == expected.size == ((8, 4) if orientation == 3 else (4, 8))
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"bytes": "aGVsbG8gd29ybGQ="}, "the bytes of a picture are a str, 'aGVsbG8gd29ybGQ='"),
        ({"bytes": [1, 2]}, "the bytes of a picture are a list"),
        ("a" * 300 + ".png", "a picture is given as a text of 304 characters"),
        ("é" * 140 + ".png", "a picture is given as a text of 144 characters"),
        ("iVBORw0KGgo" + "A" * 12_000, "is no base64 (Incorrect padding)"),
        ("a\x00b.png", "a picture is given as str 'a"),
    ],
)
@pytest.mark.parametrize("image_dir", [True, False])
def test_what_is_no_path_of_a_picture(folder: Path, value: Any, message: str, image_dir: bool) -> None:
    row = {"prompt": "q", "completion": "a", "images": [value]}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    spec = DataSpec(path=str(folder / "rows.jsonl"), image_dir=str(folder) if image_dir else None)
    with pytest.raises(DataError) as caught:
        load_groups(spec, Account(cache_dir=folder / "cache"))
    assert message in str(caught.value) and len(str(caught.value)) < SCREEN


# --- Group files --------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [604, 2**31, 2**33, 2**70])
def test_ids_outside_the_vocabulary_are_refused(tiny: dict[str, Path], folder: Path, token: int) -> None:
    policy = policy_of(tiny["llava"])
    limits = Limits.of(policy.config)
    renderer = Renderer(policy.processor, policy.family, limits=limits)
    row = group_row(tokens=[68, max(token, limits.vocabulary)])
    message = told(folder, row, num_tokens=renderer.num_tokens)
    assert f"and the model's vocabulary ends below {limits.vocabulary}" in message


@pytest.mark.parametrize("number", [10**400, 1e39, -1e39])
def test_numbers_that_32_bits_do_not_hold_are_refused(folder: Path, number: float) -> None:
    assert "expected a finite number" in told(folder, group_row(reward=number))


def test_weights_of_one_answer_and_trained_tokens_of_another(tiny: dict[str, Path]) -> None:
    policy = policy_of(tiny["llava"])
    renderer = Renderer(policy.processor, policy.family)
    answers = (
        Response(text="ab", tokens=(68, 69), weights=(0.5, 2.0)),
        Response(text="ab", tokens=(68, 69), trained=(True, False)),
        Response(text="ab", tokens=(68, 69), trained=(False, True), weights=(3.0, 4.0)),
    )
    group = Group(prompts=(Prompt(id="0", messages=(user("q"),)),), responses=answers, edges=(Edge(winner=0, loser=1),))
    batch = lay_out([renderer.render(group)], "tree", policy.family, policy.config)
    assert batch.weights.tolist() == [0.5, 2.0, 1.0, 4.0]


# --- thin pictures ------------------------------------------------------------------------------


def most_memory() -> int:
    """Bytes that this process has held at most since the last call."""
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("memory is read from /proc")
    found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(found.split()[1]) * 1024


PATCHES = {"shortest_edge": 3136, "longest_edge": 10**6}
SIZES = {"llava": {"shortest_edge": 336}, "llava_next": None, "qwen2_5_vl": PATCHES}


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (1, 8000), (3, 900), (40, 1), (1, 1)])
def test_thin_pictures_take_no_gigabytes(
    tiny: dict[str, Path], tmp_path: Path, family: str, size: tuple[int, int]
) -> None:
    policy = policy_of(tiny[family])
    processor: Mapping[str, Any] = policy.processor
    if SIZES[family] is not None:
        policy.processor.image_processor.size = SIZES[family]
    renderer = Renderer(processor, policy.family)
    path = str(tmp_path / "thin.png")
    Image.new("RGB", size, (200, 10, 90)).save(path)
    most_memory()
    before = most_memory()
    try:
        tokens = renderer.image_tokens(path)
    except DataError as error:
        assert "Resize or crop the picture" in str(error)
        with pytest.raises(DataError):
            renderer.image(path)
        assert family != "llava_next" and max(size) > 200
    else:
        made = renderer.image(path)
        assert made.num_tokens == tokens
        if SIZES[family] is None:  # the model as well takes it so
            group = Group(
                prompts=(Prompt(id="0", messages=(user(None, "q"),), images=(path,)),), responses=(Response(text="a"),)
            )
            with torch.no_grad():
                batch = lay_out([renderer.render(group)], "tree", policy.family, policy.config)
                assert torch.isfinite(policy(batch).logprobs).all()
    assert most_memory() - before < 600e6


def test_the_bound_is_on_what_would_be_made(tiny: dict[str, Path], tmp_path: Path) -> None:
    policy = policy_of(tiny["llava"])
    policy.processor.image_processor.size = {"shortest_edge": 336}
    renderer = Renderer(policy.processor, policy.family)
    ratio = MOST_PIXELS // 336**2
    for name, length, fits in (("a", ratio, True), ("b", ratio + 1, False)):
        path = tmp_path / f"{name}.png"
        Image.new("L", (1, length)).save(path)
        if fits:
            assert renderer.image_tokens(str(path)) > 0
            continue
        with pytest.raises(DataError, match=r"of 1x298 pixels \(it is so thin that it would be enlarged to 34 million"):
            renderer.image_tokens(str(path))
