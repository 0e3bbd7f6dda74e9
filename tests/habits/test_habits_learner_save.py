"""How people save, load and export a Learner, as in fastai's notebook 13a_learner."""

import copy
import pickle

import cloudpickle
import torch
from fastai.learner import load_learner

from habits.probes import rate, same, weights
from habits.table import only


def test_save_and_load(learn):
    before = weights(learn)
    learn.save("stage")
    learn.fit(1, rate(learn))
    assert not same(before, weights(learn))
    learn.load("stage")
    assert same(before, weights(learn))


def test_save_gives_the_file(learn):
    assert learn.save("stage") == learn.path / "models" / "stage.pth" and learn.save("stage").exists()


def test_save_with_the_optimizer(learn):
    learn.fit(1, 0.003)
    learn.save("stage")
    learn.opt = None
    learn.load("stage", weights_only=False)
    assert learn.opt.hypers[-1]["lr"] == 0.003


def test_save_without_the_optimizer(learn):
    learn.fit(1)
    learn.save("stage", with_opt=False)
    learn.load("stage", with_opt=False)
    assert "opt" not in torch.load(learn.path / "models/stage.pth", weights_only=False)


def test_a_saved_model_goes_into_another_learner(learn, again):
    learn.fit(1, rate(learn))
    learn.save("stage", with_opt=False)
    other = again().load("stage", with_opt=False)
    assert same(weights(learn), weights(other))


def test_load_to_a_named_device(learn):
    learn.save("stage", with_opt=False)
    learn.load("stage", device="cpu", with_opt=False, strict=False)


def test_another_folder_for_saved_models(learn):
    learn.model_dir = "kept"
    assert learn.save("stage").parent.name == "kept"


def test_a_path_as_a_string(again, tmp_path):
    learn = again(path=str(tmp_path))
    learn.save("stage")
    assert (tmp_path / "models/stage.pth").exists()


def test_export_leaves_the_learner_as_it_was(learn):
    learn.fit(1)
    learn.export()
    learn.fit(1)
    assert len(learn.dls.train_ds) == 16


def test_export_into_the_path(again, tmp_path):
    learn = again(path=tmp_path)
    learn.export("mine.pkl")
    assert (tmp_path / "mine.pkl").exists()


def test_an_exported_learner_predicts_many(learn, cat):
    learn.export()
    loaded = load_learner(learn.path / "export.pkl")
    assert loaded.get_preds(dl=loaded.dls.test_dl([cat, cat]))[0].shape == (2, 4)


def test_an_exported_learner_knows_its_classes(learn):
    learn.export()
    assert list(load_learner(learn.path / "export.pkl").dls.vocab) == ["bird", "cat", "dog", "frog"]


def test_an_exported_learner_has_no_images(learn):
    learn.export()
    assert len(load_learner(learn.path / "export.pkl").dls.train_ds) == 0


def test_an_exported_learner_is_given_images_and_trained_on(learn, make_dls):
    learn.export()
    loaded = load_learner(learn.path / "export.pkl")
    loaded.dls = make_dls(learn.kind)
    loaded.fit(1)
    assert len(loaded.recorder.values) == 1


def test_a_deep_copy_is_a_learner_of_its_own(learn):
    before = weights(learn)
    other = copy.deepcopy(learn)
    other.fit(1, rate(learn))
    assert same(before, weights(learn)) and not same(before, weights(other))


@only("stock", "custom", "transfer", "cached")
def test_a_learner_is_pickled(learn):
    other = pickle.loads(cloudpickle.dumps(learn))
    assert torch.allclose(other.get_preds()[0], learn.get_preds()[0], atol=1e-5)
