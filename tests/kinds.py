"""What happens with each kind of input: one table, which a test holds to be true and docs/what-happens.md shows.

`python tests/kinds.py` writes the page anew.
"""

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_fast.data.image import decode_image
from cifar_fast.data.loaders import cifar_dls
from cifar_fast.data.sources import load_images
from cifar_fast.errors import InputError
from cifar_files import batches, write_batches
from made_data import (
    CLASSES,
    bad,
    changed,
    cifar_archive,
    deep,
    file,
    fill,
    folder,
    grey,
    kaggle,
    litter,
    mixed,
    npz,
    one,
    parquet,
    part_of_cifar,
    picture,
    png,
    png_array,
    rows,
    table,
    tarred,
    wide,
    with_classes,
    zipped,
)

PAGE = Path(__file__).parents[1] / "docs/what-happens.md"
COMMAND = "python tests/kinds.py"
REFUSED = "refused"
HEAD = f"""# What happens with ...

Each row is a small data set that a test makes and reads with `--data photos` unless the row says otherwise. *Result* is
how many training + test images are read, of how many classes; *said* is every line that is printed. What is refused is
refused before anything is trained, with exit code 2. `{COMMAND}` writes this page, and a test fails where it
is out of date. `...` stands for what other libraries say.
"""


@dataclass(frozen=True)
class Kind:
    "A kind of input."

    group: str
    given: str  # what the page calls it
    make: Callable[[Path], object]  # in an empty folder, the working folder; gives the arguments of `read`, if any
    result: str  # "4 + 2 of 2", or refused
    said: str = ""  # pattern of the lines; empty: none is printed
    read: Callable = load_images


def happens(
    kind: Kind,
) -> tuple[str, str]:  # result, and all that is said
    "Make it in a folder of its own, and read it."
    here, out = Path.cwd(), io.StringIO()
    with tempfile.TemporaryDirectory() as tmp:
        os.chdir(tmp)
        try:
            arguments = kind.make(Path("photos")) or {"data": "photos"}
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                result = _result(kind.read(**arguments))
        except InputError as error:
            result = REFUSED
            out.write(f"{error}\n")
        finally:
            os.chdir(here)
        lines = [o for o in out.getvalue().splitlines() if o.strip() and not o.startswith("Decoding ")]
        return result, _without_places("\n".join(lines), tmp)


def _result(found) -> str:
    if isinstance(found, np.ndarray):
        return "read"
    return f"{len(found.train_y):,} + {len(found.test_y):,} of {len(found.vocab):,}"


def _without_places(text: str, tmp: str) -> str:
    "Text without what differs between systems and versions: the folder, the cache, what Pillow and numpy say."
    for place in (os.path.realpath(tmp), tmp):
        text = text.replace(f"{place}/", "").replace(place, ".")
    text = re.sub(rf"{re.escape(os.environ['CIFAR_FAST_CACHE'])}/([a-z]+-)[0-9a-f]+", r"CACHE/\1...", text)
    whose = "cannot be read as an image|cannot be read|is not a whole archive|more pixels than can be held"
    return re.sub(rf"({whose}) \(.*?\)(?=[:,;]|$)", r"\1 (...)", text, flags=re.MULTILINE)


# The table -------------------------------------------------------------------------------------------------------


def _kinds(group: str, *kinds: tuple, **also) -> list[Kind]:
    return [replace(Kind(group, *o), **also) for o in kinds]


KINDS = [
    *_kinds(
        "Layouts of folders",
        ("`cat/`, `dog/`", folder(CLASSES), "8 + 2 of 2"),
        ("`train/` and `test/`", folder({"train/a": 3, "train/b": 2, "test/a": 1, "test/b": 1}), "5 + 2 of 2"),
        ("`train/` and `val/`", folder({"train/a": 3, "train/b": 2, "val/b": 1}), "5 + 1 of 2", "Test images: .*val"),
        ("`Training/` and `Validation/`", folder({"Training/a": 3, "Training/b": 2, "Validation/a": 1}), "5 + 1 of 2",
         "Test images: .*Validation"),
        ("`training_set/` and `test_set/`", folder({"training_set/a": 3, "training_set/b": 2, "test_set/a": 1}),
         "5 + 1 of 2", "No test image shows b"),
        ("`train2017/train2017/` and `val2017/val2017/`",
         folder({"train2017/train2017/a": 3, "train2017/train2017/b": 2, "val2017/val2017/b": 1}), "5 + 1 of 2",
         "Reading .*train2017/train2017"),
        ("`train/`, `val/` and `test/`", folder({"train/a": 3, "train/b": 2, "val/a": 1, "test/b": 1}), "6 + 1 of 2",
         "val chooses .*test is tested on"),
        ("`train/`, `val/` and `valid/`", folder({"train/a": 3, "train/b": 2, "val/a": 1, "valid/b": 1}), REFUSED,
         "val/ and valid/: rename"),
        ("`train/` alone", folder({"train/a": 5, "train/b": 5}), "8 + 2 of 2"),
        ("`--data photos/train`, where `val/` lies beside it",
         lambda root: [fill(root, {"train/a": 5, "train/b": 5, "val/a": 1}), {"data": root / "train"}][1],
         "8 + 2 of 2", "is read alone: to use val/ too"),
        ("a test class that `train/` lacks", folder({"train/a": 2, "train/b": 2, "test/c": 1}), REFUSED, "class 'c'"),
        ("`test/` without `train/`", folder({"test/a": 2, "test/b": 2}), REFUSED, "no train/ with classes"),
        ("classes called `bus` and `train`", folder({"bus": 5, "train": 5}), "8 + 2 of 2"),
        ("classes, and a `test/` without classes", folder({"train/a": 5, "train/b": 5, "test": 3}), "8 + 2 of 2",
         r"Not used: .*test \(3 images\)"),
        ("`train/` beside another folder", folder({"train/a": 5, "train/b": 5, "unlabeled": 4}), "8 + 2 of 2",
         r"Not used: .*unlabeled \(4 images\)"),
        ("a folder around the folder", folder({"inner/a": 5, "inner/b": 5}), "8 + 2 of 2", "Reading .*inner"),
        ("images in sub-folders of a class", folder({"cat": 5, "dog/beagle": 3, "dog": 2}), "8 + 2 of 2",
         "sub-folders count for their class: dog/beagle"),
        ("`train/` and `test/` in each class", folder({"a/train": 3, "a/test": 1, "b/train": 3, "b/test": 1}), REFUSED,
         "a has test/ and train/ inside the class: put the classes inside those, as .*train/a/"),
        ("images, and no folders", folder({".": 4}), REFUSED, "no folders of classes"),
        ("images in `train/`, and no classes", folder({"train": 4}), REFUSED, "no folders of classes.*--labels"),
        ("one class", folder({"images": 5}), REFUSED, "all images are of one class", cifar_dls),
        ("a class of two images", folder({"common": 20, "rare": 2}), "16 + 6 of 2"),
        ("a class of one image", folder({"common": 20, "single": 1}), "17 + 4 of 2", "No test image shows single"),
        ("a class without images", folder({"cat": 5, "dog": 5, "empty": 0}), REFUSED, "fill the class"),
        ("an empty folder", lambda root: root.mkdir(), REFUSED, "has no images"),
    ),
    *_kinds(
        "Beside the images",
        ("`.DS_Store`, `._0.png`, `Thumbs.db`, `__MACOSX`, `@eaDir`, `lost+found`, ...", with_classes(litter),
         "8 + 2 of 2"),
        ("a text among the images", with_classes(lambda root: (root / "cat/notes.txt").write_text("") and None),
         "8 + 2 of 2", r"1 x no image \(notes.txt\)"),
        ("an image beside the classes", with_classes(lambda root: picture(root / "logo.png")), "8 + 2 of 2",
         r"1 x image outside of any class \(logo.png\)"),
        ("a broken link", with_classes(lambda root: (root / "cat/gone.png").symlink_to("nowhere.png")), "8 + 2 of 2",
         r"1 x broken link \(gone.png\)"),
        ("a link to the folder itself in a class",
         with_classes(lambda root: (root / "cat/loop").symlink_to(root.resolve())), "8 + 2 of 2",
         r"1 x link to a folder around it \(loop\)"),
        ("a link from one class to another", with_classes(lambda root: (root / "pet").symlink_to("dog")), "12 + 3 of 3",
         "training images are there under another class too"),
        ("a test image that is a training image too", lambda root: [
            fill(root, {"train/a": 3, "train/b": 3, "test/b": 1}),
            (root / "test/b/0.png").write_bytes((root / "train/a/0.png").read_bytes()), None][-1],
         "6 + 1 of 2", "1 of 1 test images are training images too"),
    ),
    *_kinds(
        "Names",
        ("classes called `$x`, `a_b`, `#1`, `50%`, `R&D`, `<b>`",
         folder(dict.fromkeys(["$x", "a_b", "#1", "50%", "R&D", "<b>"], 5)), "24 + 6 of 6"),
        ("bytes that are no UTF-8", folder({"caf\udce9": 5, "tea": 5}), "8 + 2 of 2"),
        ("`é` in its two forms in `train/` and `test/`",
         folder({"train/caf\u00e9": 2, "train/tea": 2, "test/cafe\u0301": 1}), "4 + 1 of 2",
         "No test image shows tea"),
    ),
    *_kinds(
        "Formats",
        ("`.jfif`", folder(CLASSES, suffix=".jfif", form="JPEG"), "8 + 2 of 2"),
        ("`.ppm`", folder(CLASSES, suffix=".ppm", form="PPM"), "8 + 2 of 2"),
        ("`.JPG`", folder(CLASSES, suffix=".JPG", form="JPEG"), "8 + 2 of 2"),
        ("`.png` that holds a JPEG", folder(CLASSES, form="JPEG"), "8 + 2 of 2"),
        ("images three times as wide as high", wide, "8 + 2 of 2", "^10 images are more than twice as long as wide"),
        ("images without a suffix", folder(CLASSES, suffix=""), "8 + 2 of 2"),
    ),
    *_kinds(
        "More than 8 bits",
        ("TIFFs of 16 bits that use 12", deep(np.uint16, 4095, 4000), "8 + 2 of 2"),
        ("TIFFs of floats in [0, 1]", deep(np.float32, 1, 0.9), "8 + 2 of 2"),
        ("TIFFs of 32-bit numbers", deep(np.int32, 255, 250), "8 + 2 of 2"),
        ("TIFFs of 16 bits beside images of 8 bits", mixed, "9 + 3 of 2", "2 of 12 images have more than 8 bits"),
        ("floats beside whole numbers", lambda root: [deep(np.float32, 1, 1)(root),
         Image.fromarray(np.full((8, 8), 7, np.int32)).save(root / "0/x.tif"), None][-1], REFUSED, "one kind"),
    ),
    *_kinds(
        "Bad images",
        ("one", bad(1), REFUSED, "0.png cannot be read as an image .* --skip-bad"),
        ("twelve", bad(12), REFUSED, "^12 images cannot be read: .* and 2 more. --skip-bad"),
        ("twelve, `--skip-bad`", bad(12, skip_bad=True), "14 + 4 of 2", "Skipped, as they cannot be read: 12 images"),
        ("a whole class, `--skip-bad`", bad(15, skip_bad=True), REFUSED, "'cat' has no training image"),
    ),
    *_kinds(
        "Archives and arrays",
        ("`photos.zip`", zipped, "8 + 2 of 2", "^Reading CACHE"),
        ("`photos.tar.gz`", tarred, "8 + 2 of 2", "^Reading CACHE"),
        ("`photos.zip`, a bit of it changed", changed(zipped, 0.3), REFUSED, "photos.zip is not a whole archive"),
        ("`photos.tar.gz`, a bit of it changed", changed(tarred, 0.5), REFUSED, "photos.tar.gz is not a whole archive"),
        ("CIFAR-10's archive", cifar_archive, "100 + 20 of 10"),
        ("CIFAR-10's archive, a bit of a pixel changed", changed(cifar_archive, 0.5), REFUSED, "not a whole archive"),
        ("CIFAR-10's batch files", lambda root: write_batches(root, batches()) and None, "100 + 20 of 10"),
        ("a part of CIFAR-10's batch files", part_of_cifar, REFUSED, "has no data_batch_1"),
        ("`photos.npz`", npz(), "6 + 6 of 2"),
        ("`photos.npz` without `x_test` and `y_test`", npz(x_test=None, y_test=None), "4 + 2 of 2"),
        ("`photos.npz` with `x_val` and `y_val` too", npz(x_val=png_array(), y_val=np.array([0])), "7 + 6 of 2",
         "x_val of .* chooses"),
        ("`photos.npz` whose test images are training images",
         lambda root: npz(x_test=np.load(npz()(root)["data"])["x_train"][:2], y_test=np.array([0, 1]))(root),
         "6 + 2 of 2", "2 of 2 test images are training images too"),
        ("`photos.npz` of six channels", npz(x_train=np.zeros((6, 8, 8, 6), np.uint8)), REFUSED,
         r"photos.npz: x_train is uint8 \(6, 8, 8, 6\)"),
        ("`photos.npz` of pickled objects", npz(x_train=np.array([{}], dtype=object)), REFUSED, "pickled objects"),
        ("`photos.npz` of other arrays", lambda root: np.savez("photos.npz", a=[1]) or {"data": "photos.npz"}, REFUSED,
         "name its arrays x_train"),
    ),
    *_kinds(
        "Parquet files as Hugging Face lays them out",
        ("`train-00000-of-00001.parquet` and `test-...`", parquet(train=10, test=4), "10 + 4 of 2"),
        ("`train-...`, `validation-...` and `test-...`", parquet(train=10, validation=2, test=4), "12 + 4 of 2",
         "chooses"),
        ("`train-...` alone", parquet(train=10), "8 + 2 of 2"),
        ("`train-...`, `validation-...`, and `test-...` whose labels are -1",
         parquet(unlabelled=("test",), train=10, validation=4, test=4), "10 + 4 of 2",
         "Test images: .*valid.\nNot used: split test of .*photos, which has no labels"),
        ("`train-...`, and `test-...` whose labels are -1", parquet(unlabelled=("test",), train=10, test=4),
         "8 + 2 of 2", "split test of .* no labels.\nTest images: a fifth of each class of split train"),
        ("two classes of one name", parquet(names=("crane", "crane"), train=10, test=4), "10 + 4 of 2"),
        ("a label that has no name", parquet(names=("cat",), train=10), REFUSED, "label 1, and there are 1 classes"),
        ("`train-00000-of-00002.parquet` alone", lambda root: [parquet(train=10)(root),
         (root / "train-00000-of-00001.parquet").rename(root / "train-00000-of-00002.parquet"), None][-1], REFUSED,
         "photos has 1 of 2 parquet files of train"),
        ("`0000.parquet`", lambda root: [parquet(train=10)(root),
         (root / "train-00000-of-00001.parquet").rename(root / "0000.parquet"), None][-1], REFUSED,
         "the name says no split"),
        ("`--data photos/train-00000-of-00001.parquet`",
         lambda root: parquet(train=10)(root) or {"data": root / "train-00000-of-00001.parquet"}, REFUSED,
         "give the folder of the parquet files"),
    ),
    *_kinds(
        "Tables of labels",
        ("`--labels t.csv`", lambda root: table(root, "t.csv", rows(10)), "8 + 2 of 2", "Labels: t.csv"),
        ("Kaggle's `train/1.png` and `trainLabels.csv`", kaggle(), "8 + 2 of 2", "Labels: .*trainLabels.csv"),
        ("Kaggle's, and `test/`", kaggle(test=4), "8 + 2 of 2", r"Not used: .*test \(4 images\), as .* has no labels"),
        ("rows for some of the images", lambda root: table(root, "t.csv", rows(10), 12), "8 + 2 of 2",
         "2 x image without a label"),
        ("a row of a file that is not there", lambda root: table(root, "t.csv", rows(10), 9), REFUSED,
         r"names 1 files that photos lacks \(all/9.png\)"),
        ("rows without a label", lambda root: table(root, "t.csv", rows(10) + ",\nall/10.png,\n", 11), "8 + 2 of 2",
         "1 x image without a label"),
        ("an image under two labels", lambda root: table(root, "t.csv", rows(10) + "all/0.png,b\n"), REFUSED,
         "all/0.png twice, as a of train and as b of train"),
        ("a column `split` of train and val", lambda root: table(root, "t.csv", "path,label,split\n" + "".join(
            f"all/{i}.png,{'ab'[i % 2]},{'train' if i < 8 else 'val'}\n" for i in range(10))), "8 + 2 of 2",
         "Test images: split valid of t.csv"),
        ("a column `fold` of numbers", lambda root: table(root, "t.csv", "path,label,fold\n" + "".join(
            f"all/{i}.png,{'ab'[i % 2]},{i % 5}\n" for i in range(10))), "8 + 2 of 2", "Not used: the column 'fold'"),
        ("no column of labels", lambda root: table(root, "t.csv", "path,what\nall/0.png,a\n"), REFUSED,
         "name one of them label"),
        ("no rows", lambda root: table(root, "t.csv", "path,label\n"), REFUSED, "no rows"),
        ("`--data t.csv`", file("t.csv", b"path,label\n"), REFUSED, "give it with --labels"),
        ("`--data photos.npz --labels t.csv`", lambda root: {**npz()(root), "labels": "t.csv"}, REFUSED,
         "photos.npz has labels: leave it out"),
        ("CIFAR-10's batch files, and `--labels t.csv`",
         lambda root: write_batches(root, batches()) and {"data": root, "labels": "t.csv"}, REFUSED,
         "photos has labels: leave it out"),
    ),
    *_kinds(
        "What is no data set",
        ('`--data ""`', lambda root: {"data": ""}, REFUSED, "--data is empty"),
        ("a path that does not exist", lambda root: {"data": "nowhere"}, REFUSED, "nowhere does not exist"),
        ("`data.bin`", file("data.bin", b"1234"), REFUSED, "in no known form"),
    ),
    *_kinds(
        "One image, as predict.py takes it, of a model that was trained on 8 bits",
        ("a PNG", one("a.png", png()), "read"),
        ("a PNG and bytes after it", one("a.png", png() + b"more" * 99), "read"),
        ("16-bit grey", one("a.tif", grey(np.uint16, 65_535)), "read"),
        ("12 bits in 16", one("a.tif", grey(np.uint16, 4095)), REFUSED, "12 bits or fewer in 16"),
        ("floats in [0, 1]", one("a.tif", grey(np.float32, 1)), "read"),
        ("floats from 0 to 9", one("a.tif", grey(np.float32, 9)), REFUSED, "no range is known"),
        ("half of a PNG", one("a.png", png()[:500]), REFUSED, "repair or remove it"),
        ("a text", one("a.png", b"hello"), REFUSED, "repair or remove it"),
        ("an empty file", one("a.png", b""), REFUSED, "repair or remove it"),
        ("900 million pixels in 110 KB", one("a.png", Image.new("1", (30_000, 30_000))), REFUSED, "shrink it"),
        ("a path that does not exist", lambda root: {"source": "a.png", "size": 32}, REFUSED, "does not exist"),
        read=decode_image,
    ),
]  # fmt: skip


# The page --------------------------------------------------------------------------------------------------------


def row(kind: Kind, result: str, said: str) -> str:
    "A line of the page."
    lines = "<br>".join(f"`` {o} ``" for o in said.replace("|", r"\|").splitlines())
    return f"| {kind.given} | {result} | {lines or 'nothing'} |"


def page(found: list[tuple[str, str]]) -> str:  # of each kind
    "All of it."
    text = HEAD
    for group, kinds in groupby(zip(KINDS, found), lambda o: o[0].group):
        text += f"\n## {group}\n\n| given | result | said |\n|---|---|---|\n"
        text += "".join(f"{row(kind, *o)}\n" for kind, o in kinds)
    return text


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CIFAR_FAST_CACHE"] = cache
        PAGE.write_text(page([happens(o) for o in KINDS]))
