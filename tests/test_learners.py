"Calibrated predictions and verdicts of a fastai learner"
import pytest
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat

from cifake.data.core import LABELS
from cifake.data.demo import demo_cifake
from cifake.data.loaders import memory_dls
from cifake.measure.calibration import Calibration, rescale
from cifake.measure.learners import Calibrated, DetectorLoss, Verdicts, two_columns
from cifake.models.networks import LeNet
from cifake.training.callbacks import FlipAverage


@pytest.fixture
def learn():
    return Learner(memory_dls(demo_cifake(n=200), bs=64), LeNet(), CrossEntropyLossFlat(), cbs=FlipAverage())


def p_fake(learn): return learn.get_preds()[0][:, LABELS.index('FAKE')]


@pytest.mark.parametrize('bias', [0., 0.8])
def test_predictions_are_scaled_after_the_average_over_flips(learn, bias):
    plain = p_fake(learn)
    with learn.added_cbs(Calibrated(Calibration(temperature=0.5, bias=bias))): scaled = p_fake(learn)
    torch.testing.assert_close(scaled.double(), torch.tensor(rescale(plain, 0.5, bias)), rtol=0, atol=1e-5)


def test_training_sees_no_calibration(learn):
    calibrated = Calibrated(Calibration(temperature=1e6))  # would stop all learning
    with learn.added_cbs(calibrated):
        calibrated.before_train()
        assert not calibrated.on
        calibrated.after_fit()
        assert calibrated.on


def test_verdicts_follow_the_threshold_of_the_calibration(learn):
    learn.loss_func = DetectorLoss()
    learn.add_cb(Verdicts())
    calibration = Calibration(threshold=0.3)
    with learn.added_cbs(Calibrated(calibration)): p, _, named = learn.get_preds(with_decoded=True)
    assert [LABELS[o] for o in named] == calibration.verdicts(p[:, 0]).tolist()


def test_without_a_calibration_the_more_likely_label_is_named(learn):
    learn.loss_func = DetectorLoss()
    learn.add_cb(Verdicts())
    p, _, named = learn.get_preds(with_decoded=True)
    assert torch.equal(torch.as_tensor(named), p.argmax(1))


@pytest.mark.parametrize('shape', [(2,), (2, 1)])
def test_one_output_becomes_two_columns(shape):
    found = two_columns(torch.tensor([0.25, 1.]).view(shape))
    assert found.tolist() == [[0.75, 0.25], [0., 1.]]


def test_two_columns_stay():
    two = torch.tensor([[0.1, 0.9]])
    assert two_columns(two) is two
