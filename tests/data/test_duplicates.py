"""Test images that are training images too."""

import numpy as np
import torch

from cifar_fast.data.duplicates import exact_duplicates, near_duplicates
from cifar_fast.data.sources import load_images
from cifar_files import batches, write_batches
from made_data import table


def smooth(n, seed):
    "Random pictures with structure: uint8 (n, 3, 32, 32)."
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=generator)
    return (torch.nn.functional.interpolate(coarse, size=32, mode="bilinear") * 255).to(torch.uint8)


def test_the_same_and_nearly_the_same_are_found_and_others_are_not():
    train, test = smooth(60, 0), smooth(20, 1)
    test[3] = train[17]
    brighter = (train[40].float() * 0.8 + 20).to(torch.uint8)
    test[5] = (brighter.float() + torch.randn(3, 32, 32) * 4).clamp(0, 255).to(torch.uint8)
    assert [(o.test, o.train) for o in exact_duplicates(train, test)] == [(3, 17)]
    (near,) = near_duplicates(train, test)
    assert (near.test, near.train) == (5, 40) and 0.95 <= near.similarity < 1


def test_blank_images_are_not_like_each_other():
    blank = torch.full((2, 3, 32, 32), 200, dtype=torch.uint8)
    blank[1] += 1
    assert near_duplicates(blank[:1], blank[1:]) == [] and exact_duplicates(blank[:1], blank[1:]) == []


def test_a_leak_is_said_of_arrays_batch_files_and_tables_too(tmp_path, capsys):
    x = smooth(6, 0).permute(0, 2, 3, 1).numpy()
    np.savez("a.npz", x_train=x, y_train=[0, 1] * 3, x_test=x[2:5], y_test=[0, 1, 0])
    made = batches()
    made["test_batch"] = made["data_batch_3"]
    write_batches(tmp_path / "cifar", made)
    kept = table(tmp_path / "pets", "t.csv", "path,label,split\n" + "".join(
        f"all/{i}.png,{'ab'[i % 2]},{'train' if i < 8 else 'test'}\n" for i in range(10)
    ))  # fmt: skip
    (tmp_path / "pets/all/9.png").write_bytes((tmp_path / "pets/all/0.png").read_bytes())
    for given, leaked in (({"data": "a.npz"}, 3), ({"data": tmp_path / "cifar"}, 20), (kept, 1)):
        for _ in range(2):  # decoded, and from the cache
            assert load_images(**given).leaked == leaked
            assert f"{leaked} of " in capsys.readouterr().out
