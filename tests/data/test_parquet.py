"""Parquet files as Hugging Face writes them are read like folders."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cifar_fast.data.sources import load_images
from cifar_fast.errors import InputError

NAMES = ["airplane", "cat", "zebra"]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(i):
    pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return pixels, file.getvalue()


def write(path, rows, names=NAMES, image="img", label="label"):
    "Rows are (number of the image, label)."
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}} if names else {}
    fields = [pa.field(image, IMAGE), pa.field(label, pa.int64())]
    schema = pa.schema(fields, metadata={"huggingface": json.dumps(about)})
    columns = [[{"bytes": png(i)[1], "path": f"{i}.png"} for i, _ in rows], [y for _, y in rows]]
    pq.write_table(pa.table([pa.array(o, f.type) for o, f in zip(columns, fields)], schema=schema), path)


@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_splits_and_shards_become_one_data_set(tmp_path, image, label):
    rows = [(i, i % 3) for i in range(12)]
    names = dict(image=image, label=label)
    write(tmp_path / "hub/plain_text/train-00000-of-00002.parquet", rows[:5], **names)
    write(tmp_path / "hub/plain_text/train-00001-of-00002.parquet", rows[5:9], **names)
    write(tmp_path / "hub/plain_text/test-00000-of-00001.parquet", rows[9:], **names)
    images = load_images(tmp_path / "hub")
    assert (images.name, images.vocab, len(images.train_y), len(images.test_y)) == ("hub", NAMES, 9, 3)
    for i, y in rows[:9]:
        pixels = torch.from_numpy(png(i)[0]).permute(2, 0, 1)
        assert y in images.train_y[(images.train_x == pixels).flatten(1).all(1)]
    assert load_images(tmp_path / "hub").train_x.equal(images.train_x)


def test_numbers_stand_for_classes_without_names(tmp_path):
    write(tmp_path / "hub/train.parquet", [(i, i % 2 + 5) for i in range(20)], names=None)
    assert load_images(tmp_path / "hub").vocab == ["5", "6"]


def test_two_classes_of_one_name_stay_two(tmp_path):
    write(tmp_path / "hub/train.parquet", [(i, i % 3) for i in range(15)], names=["crane", "cat", "crane"])
    assert load_images(tmp_path / "hub").vocab == ["cat", "crane (0)", "crane (2)"]


def of_labels(path, labels, kind):
    path.parent.mkdir(exist_ok=True)
    images = [{"bytes": png(i)[1], "path": f"v1.{i}"} for i in range(len(labels))]
    pq.write_table(pa.table({"image": pa.array(images, IMAGE), "label": pa.array(labels, kind)}), path)


def test_names_that_no_folder_may_have_and_suffixes_that_nobody_knows_are_read(tmp_path):
    of_labels(tmp_path / "hub/train.parquet", [".a", "a", "../a", "a/b"] * 5, pa.string())
    images = load_images(tmp_path / "hub")
    assert len(images.vocab) == 4 and images.train_y.bincount().tolist() == [4] * 4


def damaged(path):
    path.write_bytes(b"PAR1" + bytes(50))


def without_images(path):
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), path)


def with_several_labels(path):
    of_labels(path, [[0, 1], [1]], pa.list_(pa.int64()))


def with_an_empty_label(path):
    of_labels(path, ["a", ""], pa.string())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (damaged, "cannot be read"),
        (without_images, "the columns text, label"),
        (with_several_labels, r"several labels \(\[0, 1\]\)"),
        (with_an_empty_label, "no image or no label"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, spoil, said):
    (tmp_path / "hub").mkdir()
    spoil(tmp_path / "hub/train-0.parquet")
    with pytest.raises(InputError, match=said) as error:
        load_images(tmp_path / "hub")
    assert "\n" not in str(error.value) and "train-0.parquet" in str(error.value)


@pytest.mark.parametrize("label", [-1, None])
def test_a_test_split_that_nobody_labelled_is_not_used_and_a_line_says_so(tmp_path, capsys, label):
    write(tmp_path / "hub/train-0.parquet", [(i, i % 3) for i in range(15)])
    write(tmp_path / "hub/test-0.parquet", [(i, label) for i in range(20, 26)])
    images = load_images(tmp_path / "hub")
    assert (len(images.train_y), images.test_y.tolist()) == (12, [0, 1, 2])
    assert "split test of" in (said := capsys.readouterr().out) and "a fifth of each class" in said
    write(tmp_path / "hub/validation-0.parquet", [(i, i % 3) for i in range(30, 36)])
    for _ in range(2):  # the second time from the cache
        images = load_images(tmp_path / "hub")
        assert (len(images.train_y), len(images.test_y), images.n_valid) == (15, 6, 0)
        assert "has no labels" in (said := capsys.readouterr().out) and "a fifth" not in said


def test_minus_one_is_a_class_where_training_images_are_of_it(tmp_path):
    write(tmp_path / "hub/train.parquet", [(i, i % 2 * 2 - 1) for i in range(10)], names=None)
    write(tmp_path / "hub/test.parquet", [(i, -1) for i in range(20, 24)], names=None)
    images = load_images(tmp_path / "hub")
    assert images.vocab == ["-1", "1"] and images.test_y.tolist() == [0] * 4


def test_a_test_split_without_a_column_of_labels_is_not_used(tmp_path, capsys):
    write(tmp_path / "hub/train.parquet", [(i, i % 3) for i in range(15)])
    pq.write_table(
        pa.table({"img": pa.array([{"bytes": png(20)[1], "path": "a"}], IMAGE)}), tmp_path / "hub/test.parquet"
    )
    assert len(load_images(tmp_path / "hub").test_y) == 3 and "split test of" in capsys.readouterr().out


def test_a_test_split_of_which_a_part_is_labelled_is_refused(tmp_path):
    write(tmp_path / "hub/train-0.parquet", [(i, i % 3) for i in range(15)])
    write(tmp_path / "hub/test-0.parquet", [(20, 0), (21, -1)])
    with pytest.raises(InputError, match=r"test-0\.parquet: a row has the label -1"):
        load_images(tmp_path / "hub")
