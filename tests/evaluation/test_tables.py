"""Question files in the layouts that are published, and the pictures in them."""

import base64
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from sightline.errors import DataError
from sightline.evaluation.benches.mmstar import BENCH
from sightline.evaluation.submissions import read_answers
from sightline.evaluation.tables import PictureFiles, find_files, read_table


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_json_objects_lists_and_lines(tmp_path):
    (tmp_path / "a.json").write_text('{\n "data": [1]\n}')
    (tmp_path / "b.json").write_text('[{"x": 1}, {"x": 2}]')
    (tmp_path / "c.json").write_text('{"x": 1}\n{"x": 2}\n')
    (tmp_path / "a.jsonl").write_text('{\n "data": [1]\n}')
    assert list(read_table(tmp_path / "a.json")) == [{"data": [1]}] == list(read_table(tmp_path / "a.jsonl"))
    assert list(read_table(tmp_path / "b.json")) == [{"x": 1}, {"x": 2}] == list(read_table(tmp_path / "c.json"))


def test_a_tsv_with_long_cells_and_line_ends(tmp_path):
    long = "Q" * 200_000
    (tmp_path / "a.tsv").write_text(f'index\tquestion\tA\timage\n1\t"two\nlines ""x"""\t\t{long}\n')
    assert list(read_table(tmp_path / "a.tsv")) == [{"index": "1", "question": 'two\nlines "x"', "image": long}]
    assert list(read_table(tmp_path / "a.tsv", pictures=False)) == [
        {"index": "1", "question": 'two\nlines "x"', "image": {}}
    ]


def test_embedded_pictures_are_written_once(tmp_path):
    table = pyarrow.table({"id": [1, 2, 3], "image": [{"bytes": png(c)} for c in ("red", "red", "blue")]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    images = PictureFiles(tmp_path)
    paths = [images.of_row(row, "x.jpg", "a") for row in read_table(tmp_path / "a.parquet")]
    assert paths[0] == paths[1] != paths[2]
    assert len(list((tmp_path / "images").iterdir())) == 2
    assert Image.open(paths[2]).getpixel((0, 0)) == (0, 0, 255)
    assert list(read_table(tmp_path / "a.parquet", pictures=False)) == [{"id": n, "image": {}} for n in (1, 2, 3)]


def test_a_tsv_names_a_repeated_picture_by_its_row(tmp_path):
    images = PictureFiles(tmp_path)
    first = images.of_row({"index": "7", "image": base64.b64encode(png("red")).decode()}, "x.jpg", "a")
    assert images.of_row({"index": "8", "image": "7"}, "x.jpg", "a") == first
    with pytest.raises(DataError, match="row '9', which did not come before"):
        images.of_row({"index": "10", "image": "9"}, "x.jpg", "a")


def test_named_pictures_are_found_where_they_lie(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"")
    images = PictureFiles(tmp_path)
    assert images.named("a.jpg") == str(tmp_path / "a.jpg")
    assert images.named("b.jpg") == str(tmp_path / "images/b.jpg")
    assert images.of_row({"image": "sub/c.png"}, "x.jpg", "a") == str(tmp_path / "images/sub/c.png")


def test_a_broken_picture_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.parquet:3: the 4 bytes of the picture are no image"):
        PictureFiles(tmp_path).of_row({"image": {"bytes": b"oops"}}, "x.jpg", "data.parquet:3")


def test_a_missing_file_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"(?s)none of a\.json, b\.json.*Lin-Chen/MMStar"):
        find_files(tmp_path, ("a.json", "b.json"), BENCH)


def test_rows_without_id_or_text_are_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"question_id": 1, "text": ""}) + "\n" + json.dumps({"question_id": 2}) + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl:2: has no 'text'"):
        read_answers(file, "question_id", ("text",))


def test_a_release_of_which_a_part_is_missing_is_refused(tmp_path):
    """Half of the questions gave figures that look like those of all."""
    for number in (0, 2):
        (tmp_path / f"val-0000{number}-of-00003.parquet").touch()
    with pytest.raises(DataError, match=r"val-00001-of-00003 is missing, and others of these 3 files are there"):
        find_files(tmp_path, ("val-*.parquet",), BENCH)
    (tmp_path / "val-00001-of-00003.parquet").touch()
    assert len(find_files(tmp_path, ("val-*.parquet",), BENCH)) == 3
