"What people bring to a learner: images in any form, a learner after `export` and `load_learner`, small and odd sets"
import re

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.interpret import ClassificationInterpretation
from fastai.learner import load_learner
from fastai.vision.augment import Brightness
from PIL import Image

from cifake.data.dataset import Cifake
from cifake.data.demo import demo_cifake
from cifake.data.items import as_items, items_of
from cifake.data.loaders import cifake_dls, memory_dls
from cifake.data.loaders import test_dl as loader_of
from cifake.explain.faithfulness import deletion_insertion, faithfulness
from cifake.explain.interpret import CifakeInterpretation
from cifake.explain.maps import attention_maps, cam_maps
from cifake.explain.verdict import occlusion_map, stability
from cifake.measure.evaluate import calibrate, calibration_of, evaluate
from cifake.measure.robustness import cross_dataset_table, robustness_table
from cifake.serve.app import build_app
from cifake.serve.card import detector_card
from cifake.serve.detector import save_detector
from cifake.serve.onnx import export_onnx
from cifake.training.compare import cost_of
from cifake.training.learner import cifake_learner, find_lr
from cifake.training.runs import plot_history, read_history


@pytest.fixture(scope='module')
def demo(): return demo_cifake(n=40)


@pytest.fixture(scope='module')
def files(demo): return sorted((demo/'test'/'FAKE').glob('*.jpg'))[:2] + sorted((demo/'test'/'REAL').glob('*.jpg'))[:2]


@pytest.fixture(scope='module', params=[memory_dls, cifake_dls], ids=lambda o: o.__name__)
def learn(request, demo):
    "A learner whose training images are augmented, and fill no whole number of batches"
    dls = request.param(demo, bs=16, num_workers=0, batch_tfms=[Brightness(max_lighting=0.9, p=1., batch=False)])
    learner = cifake_learner(dls, 'lenet', normalize=False, precision='float32')
    learner.remove_cb(learner.progress)
    return learner


# Plain images, each once, in their order

def test_predictions_of_the_training_part_are_of_plain_images(learn):
    found, labels = learn.get_preds(ds_idx=0)
    files = [o.file for o in learn.dls.train.items]
    again = learn.get_preds(dl=learn.dls.test_dl(files))[0]
    assert len(found) == len(learn.dls.train_ds) and torch.allclose(found, again, atol=1e-6)
    assert [learn.dls.vocab[i] for i in labels] == [o.label for o in learn.dls.train.items]


def test_validation_of_the_training_part_is_of_plain_images(learn):
    assert learn.validate(ds_idx=0) == learn.validate(ds_idx=0)
    found, labels = learn.get_preds(ds_idx=0)
    right = (found.argmax(1) == labels).float().mean()
    assert learn.validate(ds_idx=0)[1] == pytest.approx(float(right), abs=1e-6)


@pytest.mark.parametrize('kind', [CifakeInterpretation, ClassificationInterpretation], ids=lambda o: o.__name__)
def test_interpretation_of_the_training_part_is_of_plain_images(learn, kind):
    losses = [kind.from_learner(learn, ds_idx=0).losses for _ in range(2)]
    assert torch.equal(*losses) and len(losses[0]) == len(learn.dls.train_ds)


def test_training_still_sees_augmented_images(learn):
    batches = [learn.dls.train.new(shuffle=True, get_idxs=lambda: range(16)).one_batch()[0] for _ in range(2)]
    assert not torch.equal(*batches)


# Images in any form

FORMS = dict(
    paths=list, strings=lambda o: [str(f) for f in o], tuple=tuple, generator=iter, array=lambda o: np.array(o, object),
    series=lambda o: pd.Series([str(f) for f in o]), nullable=lambda o: pd.Series([str(f) for f in o], dtype='string'),
    table=lambda o: pd.DataFrame(dict(path=[str(f) for f in o])), mixed=lambda o: [*items_of(o[:2]), *o[2:]])
PIXELS = dict(
    pil=lambda o: [Image.open(f) for f in o], arrays=lambda o: [np.asarray(Image.open(f)) for f in o],
    stack=lambda o: np.stack([np.asarray(Image.open(f)) for f in o]))


@pytest.mark.parametrize('form', [*FORMS, *PIXELS])
def test_images_in_any_form_give_the_same_predictions(learn, files, form):
    given = {**FORMS, **PIXELS}[form](files)
    want = learn.get_preds(dl=learn.dls.test_dl(files))[0]
    assert torch.allclose(learn.get_preds(dl=learn.dls.test_dl(given))[0], want, atol=1e-6)


@pytest.mark.parametrize('form', FORMS)
def test_labels_come_from_the_folders(learn, files, form):
    labels = learn.get_preds(dl=learn.dls.test_dl(FORMS[form](files), with_labels=True))[1]
    assert [learn.dls.vocab[i] for i in labels] == ['FAKE', 'FAKE', 'REAL', 'REAL']
    assert len(learn.validate(dl=loader_of(learn.dls, FORMS[form](files)))) == 2


def test_columns_of_pyarrow_are_images_and_labels(learn, files):
    pyarrow = pytest.importorskip('pyarrow')
    names = [str(o) for o in files]
    table = pd.DataFrame(dict(file=pd.array(names, dtype='string[pyarrow]'),
                              label=pd.array(['real', 'FAKE', 'REAL', 'fake'], dtype='string[pyarrow]')))
    assert [o.label for o in items_of(table)] == ['REAL', 'FAKE', 'REAL', 'FAKE']
    assert [o.path for o in items_of(pyarrow.chunked_array([names]))] == names
    assert len(learn.get_preds(dl=learn.dls.test_dl(table, with_labels=True))[1]) == 4


def test_a_label_that_no_folder_gives_is_told(learn, files, tmp_path):
    for given in ([Image.open(files[0])], [tmp_path/'holiday.jpg']):
        with pytest.raises(ValueError, match='leave `with_labels` off'): learn.dls.test_dl(given, with_labels=True)
    assert len(loader_of(learn.dls, [Image.open(files[0])]).one_batch()) == 1


def test_one_image_and_a_folder_are_images(learn, demo, files):
    for one in (files[0], str(files[0]), Image.open(files[0]), np.asarray(Image.open(files[0]))):
        assert len(learn.get_preds(dl=learn.dls.test_dl(one))[0]) == 1
        assert learn.predict(one)[0] in ('FAKE', 'REAL')
    assert len(items_of(demo/'test')) == 20


@pytest.mark.parametrize('given, told', [
    ([], 'no images to predict'), (pd.DataFrame(dict(a=[1])), 'call the one with the files `file`'),
    (['a.jpg', None], 'Image 1 is missing'), (pd.Series(['a.jpg', None], dtype='string'), 'Image 1 is missing')])
def test_what_is_no_image_is_told(learn, given, told):
    with pytest.raises(ValueError, match=told): learn.dls.test_dl(given)


def test_a_loader_of_plain_paths_is_interpreted(learn, files):
    table = CifakeInterpretation.from_learner(learn, dl=loader_of(learn.dls, files)).table
    assert table.label.tolist() == ['FAKE', 'FAKE', 'REAL', 'REAL']


# A learner after `export` and `load_learner`

@pytest.fixture(scope='module', params=['cifakenet', 'cifakevit'])
def loaded(request, demo, tmp_path_factory):
    first = cifake_learner(memory_dls(demo, bs=16), request.param, precision='float32')
    first.remove_cb(first.progress)
    with first.no_logging(): first.fit(1)
    calibrate(first)
    file = tmp_path_factory.mktemp('export')/'learner.pkl'
    first.export(file)
    return first, load_learner(file)


WORKS = dict(
    evaluate=lambda o, d, f: evaluate(o, d).auc,
    calibration_of=lambda o, d, f: calibration_of(o).threshold,
    robustness_table=lambda o, d, f: robustness_table(o, d, names='crop').auc,
    cross_dataset_table=lambda o, d, f: cross_dataset_table(o, dict(a=d/'test')).recall,
    interpretation=lambda o, d, f: CifakeInterpretation.from_learner(o, dl=loader_of(o.dls, d)).table.p_fake,
    cam_maps=lambda o, d, f: cam_maps(o, f), validate=lambda o, d, f: o.validate(dl=loader_of(o.dls, d)),
    predict=lambda o, d, f: o.predict(f[0])[2], cost_of=lambda o, d, f: list(cost_of(o).values()),
    get_preds=lambda o, d, f: o.get_preds(dl=o.dls.test_dl(f))[0],
    deletion_insertion=lambda o, d, f: deletion_insertion(o, f, np.ones((len(f), 32, 32)))[0],
    faithfulness=lambda o, d, f: faithfulness(o, f, np.random.default_rng(0).random((len(f), 32, 32))).deletion,
    card=lambda o, d, f: [detector_card(o, 'x')['parameters']],
    history=lambda o, d, f: read_history(o).train_loss, plot_history=lambda o, d, f: [len(plot_history(o))])


@pytest.mark.slow
@pytest.mark.parametrize('name', WORKS)
def test_a_loaded_learner_gives_what_the_first_one_did(loaded, demo, files, name):
    first, again = (np.asarray(WORKS[name](o, demo, files), float) for o in loaded)
    assert again == pytest.approx(first, abs=1e-5, nan_ok=True)


def test_a_loaded_learner_makes_a_detector_and_maps_of_attention(loaded, files, tmp_path):
    first, again = loaded
    assert save_detector(again, tmp_path/'mine').exists()
    if not hasattr(again.model, 'blocks'): return
    assert np.allclose(attention_maps(again, files), attention_maps(first, files), atol=1e-4)


NEEDS_IMAGES = dict(
    valid=lambda o: evaluate(o, split='valid'), calibrate=calibrate, find_lr=lambda o: find_lr(o, plot=False),
    lr_find=lambda o: o.lr_find(show_plot=False), fit=lambda o: o.fit(1), fit_one_cycle=lambda o: o.fit_one_cycle(1),
    interpretation=CifakeInterpretation.from_learner, robustness=lambda o: robustness_table(o, split='valid'))


@pytest.mark.parametrize('name', NEEDS_IMAGES)
def test_what_needs_images_says_that_there_are_none(loaded, name):
    with pytest.raises(ValueError, match='loaded without'): NEEDS_IMAGES[name](loaded[1])


def test_a_loaded_learner_trains_on_new_loaders(loaded, demo):
    first, again = loaded
    again.dls, empty = memory_dls(demo, bs=16), again.dls
    with again.no_logging(), again.no_bar(): again.fit(1)
    assert len(again.history.rows) == 2
    again.dls = empty


NEEDS_DETECTOR = dict(
    occlusion_map=occlusion_map, stability=stability, export_onnx=lambda o, f: export_onnx(o, 'x.onnx'),
    build_app=lambda o, f: build_app(o))


@pytest.mark.parametrize('name', NEEDS_DETECTOR)
def test_what_needs_a_detector_says_how_to_make_one(loaded, files, name):
    with pytest.raises(TypeError, match=re.escape("save_detector(learn, 'mine')")):
        NEEDS_DETECTOR[name](loaded[1], files[0])


# Small sets

@pytest.mark.parametrize('make', [memory_dls, cifake_dls], ids=lambda o: o.__name__)
@pytest.mark.parametrize('arch', ['cifakenet', 'lenet', 'test_resnet'])
def test_a_set_smaller_than_a_batch_is_trained_on(demo, make, arch):
    learner = cifake_learner(make(demo, subset=2, bs=64, num_workers=0), arch)
    with learner.no_bar(), learner.no_logging(): learner.fit(1)
    assert len(learner.history.rows) == 1


def test_a_last_batch_of_one_is_left_out_of_training_and_not_of_validation(demo):
    learner = cifake_learner(memory_dls(demo, subset=9, bs=8, val_bs=7), 'test_resnet')
    with learner.no_bar(), learner.no_logging(): learner.fit(1)
    assert len(learner.get_preds()[0]) == len(learner.dls.valid_ds) and len(learner.dls.train) == 1


def test_a_test_of_one_label_is_measured(demo):
    learner = cifake_learner(memory_dls(demo, bs=16), 'lenet')
    data = Cifake(demo)
    fake = [o for o in as_items(data.test, data.root) if o.label == 'FAKE']
    with learner.no_bar(): assert len(learner.validate(dl=loader_of(learner.dls, fake))) == 2


# Numbers of other libraries, and text in place of them

@pytest.mark.parametrize('make', [memory_dls, cifake_dls], ids=lambda o: o.__name__)
@pytest.mark.parametrize('number', [np.int64, torch.tensor], ids=['numpy', 'torch'])
def test_numbers_of_other_libraries_are_settings_of_loaders(demo, make, number):
    dls = make(demo, size=number(16), bs=number(8), seed=number(1), subset=number(20), num_workers=0)
    assert dls.one_batch()[0].shape == (8, 3, 16, 16) and len(dls.train_ds) == 20


@pytest.mark.parametrize('name', ['size', 'bs', 'seed', 'subset', 'valid_pct'])
def test_text_in_place_of_a_number_is_told(demo, name):
    with pytest.raises(ValueError, match=f"`{name}` is 'many': give a"): memory_dls(demo, **{name: 'many'})


def test_numbers_of_other_libraries_are_thresholds(learn, demo):
    reports = [evaluate(learn, demo, threshold=o, resamples=0) for o in (0.25, np.float32(0.25), torch.tensor(0.25))]
    assert len({o.accuracy for o in reports}) == 1
    with pytest.raises(ValueError, match="`threshold` is '0.4': give a number from 0 to 1"):
        evaluate(learn, demo, threshold='0.4')


def test_one_transform_is_a_list_of_one(demo):
    assert memory_dls(demo, bs=8, batch_tfms=Brightness()).one_batch()[0].shape == (8, 3, 32, 32)
