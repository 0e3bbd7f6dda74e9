"""Tables that say what images are."""

import json

import pytest

from cifar_fast.data.sources import load_images
from cifar_fast.errors import InputError


def write(root, name, header, rows):
    (root / name).write_text("\n".join([",".join(header), *(",".join(map(str, o)) for o in rows)]) + "\n")
    return root / name


def test_a_csv_of_paths_and_labels(image_folder, capsys):
    root = image_folder({"all": 10})
    table = write(root, "t.csv", ["path", "label"], [(f"all/{i}.png", "ab"[i % 2]) for i in range(8)])
    images = load_images(root, labels=table)
    assert images.vocab == ["a", "b"] and len(images.train_y) + len(images.test_y) == 8
    assert all(int(o[4]) % 2 == y for o, y in zip(images.files[0], images.train_y.tolist()))
    assert "2 x image without a label (all/8.png, ...)" in capsys.readouterr().out


def test_a_jsonl_with_splits(image_folder):
    root = image_folder({"all": 9})
    rows = [{"file_name": f"all/{i}.png", "label": i % 2, "split": ["train", "val", "test"][i % 3]} for i in range(9)]
    (root / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    images = load_images(root, labels=root / "t.jsonl")
    assert images.vocab == ["0", "1"] and (len(images.train_y), len(images.test_y), images.n_valid) == (6, 3, 3)


def test_kaggles_layout_is_known(image_folder, capsys):
    root = image_folder({"train": 10})
    write(root, "trainLabels.csv", ["id", "label"], [(i, "frog" if i < 5 else "cat") for i in range(10)])
    images = load_images(root)
    assert images.vocab == ["cat", "frog"] and len(images.test_y) == 2
    assert "trainLabels.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    "header, rows, message",
    [
        (["path", "what"], [("all/0.png", "a")], "columns path, what: name one of them label"),
        (["path", "label"], [("all/77.png", "a")], r"names 1 files that .* lacks \(all/77\.png\)"),
        (["path", "label"], [], "no rows"),
        (["path", "label", "split"], [("all/0.png", "a", "half")], "split 'half'"),
        (["path", "label", "split"], [("all/0.png", "a", "train"), ("all/1.png", "b", "test")], "lack the class 'b'"),
    ],
)
def test_a_table_that_does_not_fit_is_named(image_folder, header, rows, message):
    root = image_folder({"all": 2})
    with pytest.raises(InputError, match=message):
        load_images(root, labels=write(root, "t.csv", header, rows))


def test_other_labels_are_other_data(image_folder):
    root = image_folder({"all": 10})
    sizes = []
    for n in (2, 5):
        table = write(root, "t.csv", ["path", "label"], [(f"all/{i}.png", i % n) for i in range(10)])
        sizes.append(len(load_images(root, labels=table).vocab))
    assert sizes == [2, 5]
