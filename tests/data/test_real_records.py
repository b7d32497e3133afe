"""The records and photographs under ../shared/data, as they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sightline.data.load import Account, load_dataset_spec, load_groups, load_prompts
from sightline.data.schema import read_groups, write_groups
from sightline.data.validate import Checks
from sightline.errors import DataError
from sightline.recipes.schema import DatasetSpec, DataSpec
from sightline.types import Group

DATA = Path(__file__).resolve().parents[3] / "shared/data"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="no records: ../shared/data is absent"),
]


def spec(path: str, **options: str) -> DataSpec:
    if "image_dir" in options:
        options["image_dir"] = str(DATA / options["image_dir"])
    return DataSpec(path=str(DATA / path), **options)


def science(**options: str) -> DataSpec:
    folder = "vision_llm_alignment/"
    return spec(f"{folder}sci_qa_60.json", image_dir=f"{folder}sci_qa_images", **options)


def shape(group: Group) -> list[tuple[str, int]]:
    """Role and number of pictures of each message."""
    return [
        (message["role"], sum(part["type"] == "image" for part in message["content"]))
        for message in group.prompts[0].messages
    ]


def test_science_questions_are_supervised_rows_with_one_picture() -> None:
    groups = load_groups(science())
    assert len(groups) == 60
    assert all(shape(group) == [("user", 1)] for group in groups)
    assert [group.responses[0].text for group in groups] == [group.prompts[0].facts["label"] for group in groups]
    assert groups[0].id == "338"
    assert groups[0].responses[0].text == "C"
    assert groups[0].prompts[0].messages[0]["content"][1]["text"].startswith("Which country is highlighted?\nOptions:")


def test_science_labels_make_pairs_of_a_right_and_a_wrong_letter() -> None:
    labels = [group.responses[0].text for group in load_groups(science())]
    pairs = load_groups(science(relation="options"))
    assert [pair.responses[0].text for pair in pairs] == labels
    assert all(pair.responses[1].text != pair.responses[0].text for pair in pairs)
    assert all((pair.edges[0].winner, pair.edges[0].loser) == (0, 1) for pair in pairs)
    assert [pair.responses[1].text for pair in pairs] == [
        pair.responses[1].text for pair in load_groups(science(relation="options"))
    ]


@pytest.mark.parametrize(
    ("source", "rows"),
    [
        (spec("mllm_demo/mllm_demo.json"), 6),
        (spec("mllm_demo/v1_multimodal_demo.jsonl", image_dir="mllm_demo/mllm_demo_data"), 24),
    ],
)
def test_demo_conversations_keep_both_turns_and_the_late_picture(source: DataSpec, rows: int) -> None:
    groups = load_groups(source)
    assert len(groups) == rows
    shapes = Counter(tuple(shape(group)) for group in groups)
    late, early = (("user", 1), ("assistant", 0), ("user", 1)), (("user", 1), ("assistant", 0), ("user", 0))
    assert shapes == {late: rows // 3, early: rows * 2 // 3}
    first = groups[0].prompts[0]
    assert first.messages[1] == {
        "role": "assistant",
        "content": [{"type": "text", "text": "They're Kane and Gretzka from Bayern Munich."}],
        "weight": 1,
    }
    assert first.messages[2]["content"] == [{"type": "text", "text": "What are they doing?"}, {"type": "image"}]
    assert first.images == (str(DATA / "mllm_demo/mllm_demo_data/1.jpg"),) * 2
    assert groups[0].responses[0].text == "They are celebrating on the soccer field."
    assert groups[3].prompts[0].messages[0]["content"][1]["text"] == "他们是谁？"


@pytest.mark.parametrize(
    ("source", "rows", "by_name"),
    [
        (spec("ovip/preference_60.json"), 60, 0),
        (spec("ovip/preference_60.json", image_dir="ovip"), 60, 0),
        (spec("ovip/ovip_sample.json", image_dir="ovip/ovip_images"), 12, 2),
    ],
)
def test_ovip_pairs_have_one_picture_and_one_comparison(source: DataSpec, rows: int, by_name: int) -> None:
    account = Account()
    groups = load_groups(source, account)
    assert len(groups) == rows
    assert len({group.id for group in groups}) == rows
    raw = json.loads(Path(source.path).read_text(encoding="utf-8"))
    for group, row in zip(groups, raw, strict=True):
        assert shape(group) == [("user", 1)]
        assert len(group.prompts) == 1
        assert Path(group.prompts[0].images[0]).name == Path(row["images"][0]).name
        winner, loser = (group.responses[i].text for i in (group.edges[0].winner, group.edges[0].loser))
        assert (winner, loser) == (row["chosen"]["value"], row["rejected"]["value"])
    assert bool(account.report.notes) == bool(by_name)
    assert len({image for group in groups for image in group.prompts[0].images}) == 2


def test_ovip_paths_that_lead_nowhere_say_where_was_looked() -> None:
    with pytest.raises(
        DataError, match=r"row 1 .*'\.\./data/ovip_images/\S+' is missing: looked for \S+\. .*image_dir"
    ):
        load_groups(spec("ovip/ovip_sample.json"))


def test_rlaifv_questions_are_prompts_for_sampling_but_not_rows_to_train_on() -> None:
    source = spec("rlaifv_examples/detail_questions.jsonl")
    groups = load_prompts(source)
    assert len(groups) == 14
    assert all(shape(group) == [("user", 1)] and not group.responses for group in groups)
    assert groups[-1].prompts[0].facts == {"metainfos": {"reference": "Landmark Name: Victoria Falls"}}
    renamed = DataSpec(path=source.path, rename={"question": "prompt"})
    assert [group.prompts for group in load_prompts(renamed)] == [group.prompts for group in groups]
    with pytest.raises(DataError, match=r"row 1 .*no answer to train on"):
        load_dataset_spec(DatasetSpec(train=(source,)), "train")


def test_ranked_answers_and_comma_joined_pictures_are_read_though_their_pictures_are_absent(tmp_path: Path) -> None:
    folder = "vision_llm_alignment/"
    account = Account(checks=Checks(images=False))
    groups = load_groups(spec(f"{folder}reward_samples.json"), account)
    assert [(len(group.responses), len(group.edges)) for group in groups] == [(2, 1)] * 5
    several = load_groups(spec(f"{folder}sft_samples_multi_image.json"), account)
    assert Counter(len(group.prompts[0].images) for group in several) == {2: 26, 1: 13}
    assert all(shape(group)[0][1] == len(group.prompts[0].images) for group in several)
    assert [bool(group.responses) for group in several] == [True] * 38 + [False]
    assert len({group.id for group in groups + several}) == 44


def test_absent_pictures_are_an_error_or_a_list(tmp_path: Path) -> None:
    missing = spec("vision_llm_alignment/reward_samples.json")
    with pytest.raises(DataError, match=r"reward_samples\.json, row 1 .*'000000013249\.jpg' is missing"):
        load_dataset_spec(DatasetSpec(train=(missing,)), "train")
    present = spec("ovip/preference_60.json")
    data = DatasetSpec(train=(present, missing), on_bad_row="skip")
    with pytest.raises(DataError, match=r"reward_samples\.json: none of 5 rows can be used"):
        load_dataset_spec(data, "train", tmp_path)
    lines = (tmp_path / "bad_rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(json.loads(line)["row"], json.loads(line)["reason"]) for line in lines] == [
        (row, "missing image") for row in range(1, 6)
    ]


def test_real_groups_survive_a_group_file(tmp_path: Path) -> None:
    groups = load_groups(spec("mllm_demo/mllm_demo.json")) + load_groups(spec("ovip/preference_60.json"))
    write_groups(tmp_path / "g.jsonl", groups)
    assert list(read_groups(tmp_path / "g.jsonl")) == groups
