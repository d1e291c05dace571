"What is measured, on which images, for anything that predicts; McNemar's test and means over seeds"
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.data import ImageDataLoaders
from PIL import Image

from cifake.data.dataset import Cifake
from cifake.data.demo import demo_cifake
from cifake.data.loaders import memory_dls
from cifake.measure.calibration import Calibration, choose_threshold
from cifake.measure.evaluate import (
    DEMO_NOTE,
    FunctionPredictor,
    LearnerPredictor,
    Predictor,
    as_predictor,
    calibrate,
    calibration_of,
    evaluate,
    mcnemar,
    over_seeds,
)
from cifake.measure.learners import Calibrated, weights_digest
from cifake.measure.report import Report, report_of
from cifake.models.networks import LeNet

N = 200


def even(files): return [float(o.stat().st_size % 2 == 0) for o in files]


@pytest.fixture(scope='module')
def root(): return demo_cifake(n=N)


@pytest.fixture(scope='module')
def data(root): return Cifake(root)


@pytest.fixture(scope='module')
def coin(root): return evaluate(even, root)


class Judge:
    "A detector of its own kind"
    calibration = Calibration(threshold=1., band=(0.2, 1.))
    def p_fake(self, items): return np.array(even([o.file for o in items]))


def new_learner(root):
    "A learner whose predictions spread without training"
    torch.manual_seed(0)
    model = LeNet()
    with torch.no_grad(): [o for o in model.modules() if isinstance(o, torch.nn.Linear)][-1].weight.mul_(10)
    return Learner(memory_dls(root, bs=64), model, CrossEntropyLossFlat())


@pytest.fixture
def learn(root): return new_learner(root)


def test_every_readable_file_of_the_test_is_measured(coin, data):
    assert coin.n == len(data.test)
    right = [((data.root/p).stat().st_size % 2 == 0) == (label == 'FAKE')
             for p, label in zip(data.test.path, data.test.label, strict=True)]
    assert coin.accuracy == pytest.approx(np.mean(right), abs=1e-9)


def test_files_that_are_also_in_train_are_marked(coin, data):
    train = set(data.items.digest[data.items.split == 'train'])
    assert coin.predictions.leaked.sum() == data.test.digest.isin(train).sum()
    if coin.clean: assert coin.clean.n == coin.n - coin.predictions.leaked.sum()


def test_a_dataset_serves_as_its_path(coin, data):
    assert evaluate(even, data) == coin
    assert evaluate(even, str(data.root)) == coin


def test_what_predicts_becomes_a_predictor(learn):
    judge = Judge()
    assert as_predictor(judge) is judge and isinstance(judge, Predictor)
    assert isinstance(as_predictor(learn), LearnerPredictor)
    assert isinstance(as_predictor(even), FunctionPredictor)
    for predictor in map(as_predictor, (learn, even)): assert isinstance(predictor, Predictor)


def test_what_does_not_predict_is_refused():
    with pytest.raises(TypeError, match='int does not predict'): as_predictor(3)


@pytest.mark.parametrize('detector', [
    lambda files: np.stack([even(files), 1 - np.array(even(files))], 1), Judge()], ids=['two columns', 'predictor'])
def test_any_predictor_is_measured_alike(detector, root, coin):
    assert evaluate(detector, root, resamples=0).tp == coin.tp


def test_threshold_and_band_are_the_detectors_own(root):
    own = evaluate(Judge(), root, resamples=0)
    assert (own.threshold, own.band) == (1., (0.2, 1.))
    given = evaluate(Judge(), root, threshold=.5, resamples=0)
    assert (given.threshold, given.band) == (.5, None)
    assert calibration_of(Judge()) is Judge.calibration
    assert calibration_of(even) == Calibration()


def test_a_function_may_carry_a_calibration(root):
    def careful(files): return even(files)
    careful.calibration = Calibration(threshold=0.7)
    assert evaluate(careful, root, resamples=0).threshold == 0.7


@pytest.mark.parametrize('function, match', [
    (lambda files: [np.nan]*len(files), r'has to lie in \[0, 1\]'),
    (lambda files: [3.]*len(files), r'has to lie in \[0, 1\]'),
    (lambda files: [[0.7, 0.7]]*len(files), r'add up to 1; for one image they are \[0.7, 0.7\]'),
    (lambda files: [0.5], 'values for'),
])
def test_what_is_no_probability_is_refused(function, match, root):
    with pytest.raises(ValueError, match=match): evaluate(function, root)


@pytest.mark.parametrize('kwargs, error, match', [
    (dict(split='train'), ValueError, '`split` is'),
    (dict(threshold=50), ValueError, '`threshold` is'),
])
def test_arguments_are_checked(kwargs, error, match, root):
    with pytest.raises(error, match=match): evaluate(even, root, **kwargs)


def test_missing_folders_and_learners_are_named(root):
    with pytest.raises(FileNotFoundError, match='does not exist'): evaluate(even, 'nowhere')
    with pytest.raises(ValueError, match='needs a fastai'): evaluate(even, split='valid')
    with pytest.raises(ValueError, match='leave `path` out'): evaluate(even, root, split='valid')


def test_a_test_without_readable_images_is_refused(tmp_path):
    for split in ('train', 'test'):
        for label in ('FAKE', 'REAL'):
            folder = tmp_path/split/label
            folder.mkdir(parents=True)
            if split == 'train': Image.new('RGB', (32, 32)).save(folder/'0001.jpg')
    with pytest.raises(ValueError, match='nothing to test on'): evaluate(even, tmp_path)


def test_learner_gives_the_same_for_items_files_and_arrays(learn, data):
    test = data.test.head(8)
    files = [data.root/o for o in test.path]
    arrays = np.stack([np.asarray(Image.open(o).convert('RGB')) for o in files])
    predictor = as_predictor(learn)
    expected = evaluate(learn, resamples=0).predictions.set_index('path').p_fake[test.path]
    assert np.ptp(expected) > 0.01
    for items in (files, arrays, list(arrays), [Image.open(o) for o in files]):
        np.testing.assert_allclose(predictor.p_fake(items), expected, rtol=0, atol=1e-6)


def test_validation_is_the_learners_own(learn):
    report = evaluate(learn, split='valid', resamples=0)
    assert report.predictions.path.tolist() == [o.path for o in learn.dls.valid.items]
    assert report.clean is None and 'leaked' not in report.predictions


def test_an_ordinary_learner_of_fastai_is_measured(root, coin):
    dls = ImageDataLoaders.from_folder(root, train='train', valid='test', bs=64, num_workers=0)
    ordinary = Learner(dls, LeNet(), CrossEntropyLossFlat())
    files = [root/o for o in coin.predictions.path]
    expected = ordinary.get_preds(dl=dls.test_dl(files))[0][:, 0].numpy()
    np.testing.assert_allclose(evaluate(ordinary, resamples=0).predictions.p_fake, expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match='loaders of this library'): evaluate(ordinary, split='valid')


def test_a_learner_of_other_labels_is_refused(root, coin):
    files = [root/o for o in coin.predictions.path]
    lower = ImageDataLoaders.from_path_func(root, files, lambda o: o.parent.name.lower(), num_workers=0)
    with pytest.raises(ValueError, match='needs FAKE and REAL'):
        evaluate(Learner(lower, LeNet(), CrossEntropyLossFlat()))


def test_a_learner_without_images_has_no_validation_part(learn):
    learn.dls.path = None
    with pytest.raises(ValueError, match='no validation part'): evaluate(learn, split='valid')


def test_calibration_scales_and_decides_from_then_on(learn):
    before = evaluate(learn, split='valid', resamples=0)
    before_test = evaluate(learn, resamples=0)
    own = calibrate(learn)
    after = evaluate(learn, split='valid', resamples=0)
    after_test = evaluate(learn, resamples=0)
    assert after.log_loss <= before.log_loss + 1e-6
    assert after_test.threshold == own.threshold
    assert after_test.auc == pytest.approx(before_test.auc, abs=1e-6)
    np.testing.assert_allclose(after_test.predictions.p_fake, own.p_fake(before_test.predictions.p_fake),
                               rtol=0, atol=1e-4)
    assert (after.note, after_test.note) == (
        f'{DEMO_NOTE} Temperature and threshold were chosen on these images.', DEMO_NOTE)
    assert evaluate(learn, split='valid', threshold=0.5, resamples=0).note == (
        f'{DEMO_NOTE} The temperature was chosen on these images.')


def test_calibrating_again_replaces_the_first(learn, tmp_path):
    first = calibrate(learn)
    learn.run_folder = tmp_path
    learn.known_weights = weights_digest(learn.model)
    again = calibrate(learn)
    assert again.temperature == pytest.approx(first.temperature, rel=1e-4)
    assert Calibration.from_json((tmp_path/'calibration.json').read_text()) == again
    assert [o.name for o in tmp_path.iterdir()] == ['calibration.json']
    assert len([o for o in learn.cbs if isinstance(o, Calibrated)]) == 1


def test_a_calibration_that_fails_leaves_the_old_one(learn):
    first = calibrate(learn)
    with pytest.raises(ValueError, match='allow more'): calibrate(learn, error=0.001)
    assert learn.calibrated.calibration == first


def test_a_threshold_is_never_chosen_on_the_test(coin):
    with pytest.raises(ValueError, match='on validation'): choose_threshold(coin)


def test_mcnemar_counts_images_by_who_is_right(coin, root):
    other = evaluate(lambda files: [float(o.name < '0050') for o in files], root, resamples=0)
    found = mcnemar(other, coin)
    assert sum(v for k, v in found.items() if k != 'p_value') == other.n
    assert found['both_right'] + found['only_first_right'] == other.tp + other.tn
    shuffled = Report.from_json(coin.to_json(predictions=True))
    shuffled.predictions = shuffled.predictions.sample(frac=1, random_state=0)
    assert mcnemar(other, shuffled) == found
    assert mcnemar(coin, coin)['p_value'] == 1.


def test_mcnemar_is_exact():
    nine = pd.DataFrame(dict(path=list('abcdefghi'), label='FAKE', p_fake=[1]*8 + [0]))  # 8 to 1: 2*(1+9)/2**9
    found = mcnemar(report_of(nine), report_of(nine.assign(p_fake=1 - nine.p_fake)))
    assert found['p_value'] == pytest.approx(20/512, abs=1e-9)


def test_mcnemar_needs_the_same_images(coin):
    few = report_of(coin.predictions.head(10), resamples=0)
    with pytest.raises(ValueError, match='different images'): mcnemar(coin, few)
    with pytest.raises(ValueError, match='image by image'): mcnemar(coin, Report.from_json(coin.to_json()))


def test_seeds_are_shown_by_mean_and_deviation(coin):
    few = report_of(coin.predictions.head(10), resamples=0)
    both = [coin.accuracy, few.accuracy]
    table = over_seeds(dict(a=[coin, few], b=[coin]))
    assert table.accuracy['a'] == f'{np.mean(both):.4f} ± {np.std(both, ddof=1):.4f}'
    assert table.accuracy['b'] == f'{coin.accuracy:.4f}'
    assert table.seeds.tolist() == [2, 1]


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match="no measure 'speed'"): over_seeds({}, ['speed'])


def test_files_that_are_gone_since_they_were_listed_are_counted(tmp_path):
    data = Cifake(shutil.copytree(demo_cifake(n=60), tmp_path/'set'))
    n = len(data.test)
    next((data.root/'test'/'FAKE').iterdir()).unlink()
    report = evaluate(lambda files: np.full(len(files), 0.5), data, resamples=0)
    assert (report.n, report.unreadable) == (n - 1, 1)
