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


def test_folders_that_split_count_where_a_table_says_nothing_of_it(image_folder, capsys):
    root = image_folder({"train": 6, "test": 4})
    rows = [(f"{o}/{i}.png", "ab"[i % 2]) for o, n in (("train", 6), ("test", 4)) for i in range(n)]
    images = load_images(root, labels=write(root, "t.csv", ["path", "label"], rows))
    assert (len(images.train_y), len(images.test_y)) == (6, 4)
    assert "Split by the folders in" in capsys.readouterr().out


def test_a_json_list(image_folder):
    root = image_folder({"all": 10})
    (root / "t.json").write_text(json.dumps([{"image": f"{i}.png", "label": "ab"[i % 2]} for i in range(10)]))
    assert load_images(root, labels=root / "t.json").vocab == ["a", "b"]
    (root / "t.json").write_text(json.dumps({"images": [], "annotations": []}))
    with pytest.raises(InputError, match="no rows of names and values"):
        load_images(root, labels=root / "t.json")


@pytest.mark.parametrize(
    "header, rows, message",
    [
        (["path", "label", "split"], [("all/0.png", "a", "half")], "split 'half'"),
        (["image", "label"], [("0 255 " * 99, "a")], "names 1 files that"),
        (["path", "label", "split"], [("all/0.png", "a", "train"), ("all/1.png", "b", "test")], "has the class 'b'"),
    ],
)
def test_a_table_that_does_not_fit_is_named(image_folder, header, rows, message):
    root = image_folder({"all": 2})
    with pytest.raises(InputError, match=message):
        load_images(root, labels=write(root, "t.csv", header, rows))


@pytest.mark.parametrize(
    "text, message",
    [
        ("path,label,split\nall/0.png,a,train\n./all/0.png,a,test\n", "0.png twice, as a of train and as a of test"),
        ("path,label\n0,a\n", "names 0, and several images are called so"),
    ],
)
def test_what_a_table_says_twice_is_not_guessed(image_folder, text, message):
    root = image_folder({"all": 2, "more": 1})
    (root / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_images(root, labels=root / "t.csv")


def test_labels_of_several_values_and_rows_without_are_told_apart(image_folder, capsys):
    root = image_folder({"all": 9, "more": 9})
    rows = [{"path": f"all/{i}.png", "label": "ab"[i % 2]} for i in range(8)]
    (root / "t.jsonl").write_text("\n".join(map(json.dumps, [*rows, rows[0], {"path": "all/8.png"}])))
    images = load_images(root, labels=root / "t.jsonl")
    assert images.vocab == ["a", "b"] and len(images.train_y) + len(images.test_y) == 8
    assert "10 x image without a label (all/8.png, ...)" in capsys.readouterr().out
    (root / "t.jsonl").write_text(json.dumps({"path": "all/0.png", "label": ["a", "b"]}))
    with pytest.raises(InputError, match="several values as its 'label'"):
        load_images(root, labels=root / "t.jsonl")


def test_tables_as_spreadsheets_write_them(image_folder, capsys):
    root = image_folder({"all": 10})
    rows = [f'"all/{i}.png" ; "caf{["e" + chr(0x301), chr(0xE9)][i % 2]} "; "two\nlines";{i % 5}' for i in range(5)]
    rows += [f"all/{i}.png;tea;;{i % 5}" for i in range(5, 10)]
    (root / "t.csv").write_text("\r\n".join(["file;Label;remark, long;fold", *rows, ";;;", ""]))
    images = load_images(root, labels=root / "t.csv")
    assert images.vocab == ["caf\u00e9", "tea"] and len(images.train_y) == 8
    assert "Not used: the column 'fold'" in capsys.readouterr().out


@pytest.mark.parametrize("name, is_given", [("t.csv", True), ("trainLabels.csv", False)])
def test_other_labels_are_other_data(image_folder, name, is_given):
    root, found = image_folder({"train": 10}), []
    for vocab in ("ab", "ac"):
        table = write(root, name, ["id", "label"], [(i, vocab[i // 5]) for i in range(10)])
        found.append("".join(load_images(root, labels=table if is_given else None).vocab))
    assert found == ["ab", "ac"]
