"""Folders of images as people keep them: which files are training and test images of which class, and what is not used.

Nothing is left out without a word: a listing carries a line for each thing that a folder holds and nobody reads.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cifar_fast.data.image_files import is_image, is_litter, walk, walk_images
from cifar_fast.errors import InputError

ROLES = {
    "train": ("train", "training"),
    "valid": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass
class Listing:
    "Files of a data set by split and class, and what is to be said about them."

    files: dict[str, dict[str, list[str]]]  # train, test and valid where there are such: class name -> paths
    notes: list[str] = field(default_factory=list)  # a line each
    left_out: Counter = field(default_factory=Counter)  # (reason, example) of what is no image
    table: str = ""  # that says the classes; empty: folders do

    @property
    def paths(self) -> list[str]:
        "All files, split after split."
        return [p for classes in self.files.values() for paths in classes.values() for p in paths]

    def lines(self, root: Path) -> list[str]:
        "What is to be said about the folder `root`."
        reasons: dict[str, list[str]] = {}
        for (reason, example), n in self.left_out.items():
            reasons.setdefault(reason, []).extend([example] * n)
        parts = [f"{len(o):,} x {reason} ({o[0]}{', ...' if len(o) > 1 else ''})" for reason, o in reasons.items()]
        return [*self.notes, *([f"Left out of {root}: {', '.join(parts)}."] if parts else [])]


def list_images(
    root: str | Path,  # train/<class>/* with test/ or val/ beside it, or <class>/*
) -> Listing:
    """The images of a folder, those in sub-folders of a class included.

    `train`, `val` and `test` are known under their usual names; with all three, test is what is tested on, and the
    validation images choose. Without a second split none is set aside here. Raises `InputError` for a folder without
    images or without classes, a class without images, and a test class that train lacks.
    """
    listing = Listing({})
    root = _unwrapped(Path(root), None, listing)
    folders = _folders(root)
    if not folders or not any(map(_has_images, folders.values())):
        _refuse_flat(root)
    splits = {role: _unwrapped(o, role, listing) for role, o in _splits(root, folders, listing).items()}
    for role, folder in splits.items():
        listing.files[role] = _classes(folder, listing)
    if root not in splits.values():
        _leave_out_loose(root, listing)
    check_classes(listing.files, splits)
    listing.notes += settle_validation(listing.files, splits)
    return listing


def check_classes(
    classes: Mapping[str, Collection],  # of each split
    called: Mapping[str, object],  # what each split is called
) -> None:
    "Raises `InputError` for a class that no training image shows."
    for role, found in classes.items():
        if unknown := sorted(set(found) - set(classes["train"])):
            raise InputError(f"{called[role]} has the class {unknown[0]!r}, which {called['train']} lacks")


def settle_validation(
    splits: dict[str, object],  # what is in each split: valid becomes test where there is none
    called: Mapping[str, object],  # what each split is called
) -> list[str]:
    "What validation images are for: a line where there are any."
    if "valid" not in splits:
        return []
    if "test" in splits:
        return [
            f"{called['valid']} chooses (early stopping, sweeps) and is then trained on; {called['test']} is tested on."
        ]
    splits["test"] = splits.pop("valid")
    return [f"Test images: {called['valid']}."]


def _refuse_flat(root: Path) -> None:
    if first := next(walk_images(root), None):
        if "\\" in os.path.basename(first):
            raise InputError(
                f"{root} holds files called {os.path.basename(first)}: unpacking has lost their folders. Give the "
                "archive itself, or unpack it with another program"
            )
        above = "" if role_of(root.name) else f"give the folder above ({root.parent}) if this is one class, "
        raise InputError(
            f"{root} holds images but no folders of classes: put each class's images in a folder of its own, {above}or "
            "name a table of labels with --labels"
        )
    raise InputError(f"{root} has no images: put PNG or JPEG files in {root}/<class>/")


def _folders(folder: Path) -> dict[str, Path]:
    return {o: folder / o for o in sorted(os.listdir(folder)) if (folder / o).is_dir() and not is_litter(o)}


def _has_images(folder: Path) -> bool:
    return next(walk_images(folder), None) is not None


def _has_classes(folder: Path) -> bool:
    "Whether images lie in folders below it."
    return any(map(_has_images, _folders(folder).values()))


def role_of(
    name: str,  # of a folder, or what a table says
) -> str | None:  # train, valid or test
    "The split that a name means: train, Training, training_set, train2017, val-images, ..."
    word = re.sub(r"([ _-]?(set|data|images|imgs|split|\d+))+$", "", name.lower())
    return next((role for role, names in ROLES.items() if word in names), None)


def _unwrapped(folder: Path, role: str | None, listing: Listing) -> Path:
    """The folder of the classes or splits, where others of the same meaning are wrapped around it.

    As pets/pets/, of no role, or training_set/training_set/.
    """
    while True:
        folders = _folders(folder)
        is_class = role is None and any(_readable_image(folder / o) for o in os.listdir(folder))
        if len(folders) != 1 or is_class:
            return folder
        ((name, inner),) = folders.items()
        if role_of(name) != role or not _has_classes(inner):
            return folder
        listing.notes.append(f"Reading {inner}.")
        folder = inner


def _splits(root: Path, folders: dict[str, Path], listing: Listing) -> dict[str, Path]:
    "The folder of each split; the root alone where its folders are classes."
    named: dict[str, Path] = {}
    for name, folder in folders.items():
        if role := role_of(name):
            if role in named:
                raise InputError(f"{root} has {named[role].name}/ and {name}/: rename the one that is not {role}")
            named[role] = folder
    others = [o for name, o in folders.items() if not role_of(name) and _has_images(o)]
    with_classes = {role: o for role, o in named.items() if _has_classes(o)}
    if "train" not in with_classes:
        if with_classes and (not others or any(set(_folders(o)) & set(folders) for o in with_classes.values())):
            folder = next(iter(with_classes.values()))
            raise InputError(
                f"{root} has {folder.name}/ but no train/ with classes: put training images in "
                f"{root / 'train'}/<class>/"
            )
        if not others:  # train/ and test/, without classes
            _refuse_flat(next((o for o in named.values() if _has_images(o)), root))
        _note_neighbours(root, listing)
        return {"train": root}
    for folder in [*others, *(o for o in named.values() if o not in with_classes.values())]:
        if n := sum(1 for _ in walk_images(folder)):
            way = f"put them in {root / 'train'}/<class>/" if folder in others else f"put them in {folder}/<class>/"
            listing.notes.append(f"Not used: {folder} ({n:,} images). To use them, {way}.")
    return with_classes


def _note_neighbours(root: Path, listing: Listing) -> None:
    "Say what lies beside a folder that is one of several splits."
    if role_of(root.name) is None or not root.parent.is_dir():
        return
    beside = [o for name, o in _folders(root.parent).items() if role_of(name) and o != root and _has_classes(o)]
    if beside:
        listing.notes.append(f"{root} is read alone: to use {beside[0].name}/ too, give --data {root.parent}.")


def _classes(folder: Path, listing: Listing) -> dict[str, list[str]]:
    "The images of each class, everything below its folder; class names in Unicode's composed form."
    found: dict[str, list[str]] = {}
    for name, place in _folders(folder).items():
        _refuse_splits_inside(place)
        key = unicodedata.normalize("NFC", name)
        if key in found:
            listing.notes.append(f"{place} counts for the class {key!r}, as the folder of the same name does.")
        found.setdefault(key, []).extend(_images_of(place, listing))
    _leave_out_loose(folder, listing)
    empty = [name for name, paths in found.items() if not paths]
    if empty:
        raise InputError(f"{folder / empty[0]} has no images: fill the class or remove its folder")
    return found


def _refuse_splits_inside(place: Path) -> None:
    "Raises `InputError` for a class whose training and test images lie in folders of its own."
    inside = {role: o for o in _folders(place) if (role := role_of(o)) and _has_images(place / o)}
    if "train" in inside and len(inside) > 1:
        one, other, *_ = inside.values()
        raise InputError(
            f"{place} has {one}/ and {other}/ inside the class: put the classes inside those, as "
            f"{place.parent / inside['train'] / place.name}/"
        )


def _leave_out_loose(folder: Path, listing: Listing) -> None:
    "Count what lies in a folder of classes or splits itself."
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if not path.is_dir() and not is_litter(name):
            _leave_out(path, listing, "image outside of any class" if _readable_image(path) else None)


def _readable_image(path: Path) -> bool:
    return path.is_file() and is_image(path)


def _images_of(folder: Path, listing: Listing) -> list[str]:
    "All images below a class's folder."
    images, nested = [], set()
    for place, names in walk(folder, lambda o: _leave_out(Path(o), listing, "link to a folder around it")):
        for name in names:
            path = os.path.join(place, name)
            if os.path.isfile(path) and is_image(path):
                images.append(path)
                if place != str(folder):
                    nested.add(os.path.relpath(place, folder))
            else:
                _leave_out(Path(path), listing)
    if nested:
        listing.notes.append(f"Images in sub-folders count for their class: {folder.name}/{min(nested)}.")
    return images


def _leave_out(path: Path, listing: Listing, reason: str | None = None) -> None:
    is_broken = path.is_symlink() and not path.exists()
    listing.left_out[reason or ("broken link" if is_broken else "no image"), path.name] += 1
