"Callbacks: targets, optimisers, averages, windows and counts do what they say, step by step"
from dataclasses import replace

import fastai.callback.schedule  # noqa: F401 (adds `fit_one_cycle` to `Learner`)
import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from timm.optim import Muon, muon
from torch.utils.flop_counter import FlopCounterMode

from cifake.data.core import LABELS, OBJECTS
from cifake.data.demo import demo_cifake
from cifake.data.loaders import cifake_dls, memory_dls
from cifake.models.networks import CifakeNet, LeNet
from cifake.models.registry import create_model
from cifake.training.callbacks import (
    ComputeCounter,
    FlipAverage,
    Float32Muon,
    MultiScale,
    ObjectTargets,
    SomeCutMix,
    WeightAverage,
    adam_arguments,
    matrices_and_others,
    muon_arguments,
)


@pytest.fixture(scope='module')
def dls(): return memory_dls(demo_cifake(n=1000), bs=64)


@pytest.fixture(scope='module')
def small(): return memory_dls(demo_cifake(n=1000), bs=64, subset=64)


def learner(dls, model, **kwargs): return Learner(dls, model, CrossEntropyLossFlat(), metrics=accuracy, **kwargs)


def fit(learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(*args, **kwargs)


def copies(parameters): return [o.detach().clone() for o in parameters]


def all_equal(a, b): return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Sizes(Callback):
    "Whether training, number of outputs and largest target plus one, of each batch"
    def __init__(self): self.seen = []
    def after_pred(self): self.seen.append((self.training, len(self.pred[0]), int(self.y.max()) + 1))


class Sides(Callback):
    order = 90
    def __init__(self): self.trained, self.validated = [], []
    def before_batch(self): (self.trained if self.training else self.validated).append(self.x.shape[-1])


class Pairs(Callback):
    "What comes out of the loader, while another reads it"
    order, run_valid = -15, False
    def before_batch(self):
        if self.iter == 1: self.dls.train.one_batch()
        self.images, self.labels = self.x.clone(), self.y.clone()


class Check(Callback):
    "Compares each target with that of the image, which is known by the sum of its pixels"
    order, run_valid = -9, False
    def __init__(self, of_image): self.of_image, self.right, self.seen = of_image, True, 0
    def before_batch(self):
        expected = torch.tensor([self.of_image[o.sum().item()] for o in self.pairs.images.double()])
        same_label = torch.equal(self.y//10, self.pairs.labels)
        self.right = self.right and same_label and torch.equal(self.y.as_subclass(torch.Tensor), expected)
        self.seen += len(expected)


@pytest.mark.parametrize('make, workers', [(memory_dls, 0), (cifake_dls, 0), (cifake_dls, 2)])
def test_each_image_gets_its_own_object(make, workers):
    "From loaders of both kinds, with processes of their own, and while others read the loader"
    dls = make(demo_cifake(n=200), bs=50, stats=None, num_workers=workers)
    straight = dls.train.new(shuffle=False, drop_last=False, num_workers=0)
    sums = [o.sum().item() for images, _ in straight for o in images.double()]
    targets = [LABELS.index(o.label)*10 + OBJECTS.index(o.object_class) for o in straight.items]
    of_image = dict(zip(sums, targets, strict=True))
    assert len(of_image) == len(dls.train_ds)
    check = Check(of_image)
    fit(learner(dls, create_model('lenet', objects=10), cbs=[Pairs(), ObjectTargets(), check]), 2, 0.001)
    assert check.right and check.seen == 2*len(dls.train)*50


def test_one_unknown_object_means_labels_alone():
    dls = cifake_dls(demo_cifake(n=200), bs=50, num_workers=0)
    dls.train.items[0] = replace(dls.train.items[0], object_class='unknown')
    sizes = Sizes()
    fit(learner(dls, create_model('lenet', objects=10), cbs=[ObjectTargets(), sizes]), 1, 0.001)
    assert {outputs for _, outputs, _ in sizes.seen} == {2}
    assert max(target for *_, target in sizes.seen) == 2


def test_muon_decays_matrices_alone(small):
    net = CifakeNet()
    learn = learner(small, net, **muon_arguments(0.05))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 0.01)
    assert [o['wd'] for o in learn.opt.hypers] == [0.05, 0.]
    matrices, others = matrices_and_others(net)
    assert sum(o.numel() for o in matrices + others) == sum(o.numel() for o in net.parameters())
    state = learn.opt.state_dict()['state']
    orthogonal = [state[i]['use_muon'] for i, _ in enumerate(matrices)]
    assert sum(orthogonal) >= len(matrices) - 2  # the first and the last layer may be too narrow


def muon_update(kind):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(32, 16, 3, 3))
    weight.grad = torch.randn_like(weight)
    optimizer = kind([weight])
    optimizer.step()
    return weight.detach().flatten(), optimizer


def test_muon_in_float32_differs_from_bfloat16_by_rounding_alone():
    a, b = (muon_update(o)[0] for o in (Muon, Float32Muon))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.999
    assert not torch.equal(a, b)


def test_timm_s_function_is_in_its_place_again_after_an_error():
    whole = muon.zeropower_via_newtonschulz
    _, optimizer = muon_update(Float32Muon)
    def fail(): raise RuntimeError('in a closure')
    with pytest.raises(RuntimeError, match='in a closure'): optimizer.step(fail)
    assert muon.zeropower_via_newtonschulz is whole


def test_adam_is_pytorch_s():
    dls = memory_dls(demo_cifake(n=200), bs=20)
    torch.manual_seed(0)
    learn = learner(dls, LeNet().double(), **adam_arguments())
    theirs = LeNet().double()
    theirs.load_state_dict(learn.model.state_dict())
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    # Adam divides by small numbers: float32 would not do
    batches = [(x.double(), y) for x, y in list(dls.valid)*20][:len(dls.train)]

    class Same(Callback):
        def before_batch(self):
            x, y = batches[self.iter]
            self.learn.xb, self.learn.yb = (x,), (y,)

    fit(learn, 1, 1e-3, cbs=Same())
    for x, y in batches:
        optimizer.zero_grad()
        CrossEntropyLossFlat()(theirs(x), y).backward()
        optimizer.step()
    for a, b in zip(learn.model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), atol=1e-6, rtol=0)


def test_the_average_follows_its_formula_and_stays_in_the_network(dls):
    average, net, seen = WeightAverage(0.9), LeNet(), []
    expected = copies(net.parameters())

    class Follow(Callback):
        def after_step(self): seen.append(copies(net.parameters()))

    learn = learner(dls, net, cbs=average)
    fit(learn, 1, 0.001, cbs=Follow())
    validated = learn.recorder.values[-1][2]
    assert learn.model is net and average.own is None
    for i, now in enumerate(seen):
        share = min(0.9, i/(i + 9))
        expected = [a*share + b*(1 - share) for a, b in zip(expected, now, strict=True)]
    for a, b in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(a.data, b, atol=1e-4, rtol=0)
    assert abs(learn.validate()[1] - validated) < 1e-6
    before = copies(net.parameters())
    learn.get_preds()
    assert all_equal(net.parameters(), before)


def flipped(learn, images): return learn.get_preds(dl=[(images,)])[0]


def test_a_prediction_is_the_mean_over_an_image_and_its_mirror_image(dls):
    learn = learner(dls, LeNet(), cbs=FlipAverage())
    images = dls.valid.one_batch()[0]
    p = flipped(learn, images)[:4, 0]
    learn.model.eval()
    with torch.no_grad(): both = learn.model(images).softmax(1) + learn.model(images.flip(-1)).softmax(1)
    torch.testing.assert_close(p, both[:4, 0].as_subclass(torch.Tensor)/2, atol=1e-5, rtol=0, check_device=False)
    with learn.removed_cbs(learn.flip_average): alone = flipped(learn, images)[:4, 0]
    assert (alone - p).abs().max() > 1e-6


def test_validation_in_a_training_goes_without_mirror_images(dls):
    learn, calls = learner(dls, LeNet(), cbs=FlipAverage()), []
    hook = learn.model.register_forward_hook(lambda *args: calls.append(learn.model.training))
    fit(learn, 1)
    assert calls.count(False) == len(dls.valid)  # once for each batch
    with learn.no_bar(): learn.validate()
    assert calls.count(False) == 3*len(dls.valid)
    hook.remove()


def test_an_interruption_leaves_predictions_as_they_were(dls):
    class Interrupt(Callback):
        def after_loss(self): raise KeyboardInterrupt
    learn = learner(dls, LeNet(), cbs=FlipAverage())
    before = learn.get_preds()[0]
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, cbs=Interrupt())
    torch.testing.assert_close(learn.get_preds()[0], before, atol=1e-6, rtol=0)


def test_sides_lie_between_the_smallest_and_the_largest(dls):
    sides = Sides()
    fit(learner(dls, CifakeNet(widths=(8, 8, 8)), cbs=[MultiScale(0.5), sides]), 2)
    assert 21 <= min(sides.trained) < 32 < max(sides.trained) <= 48
    assert len(set(sides.trained)) > 10 and set(sides.validated) == {32}


def test_no_change_of_size_leaves_images_as_they_are(small):
    sides = Sides()
    fit(learner(small, CifakeNet(widths=(8, 8, 8)), cbs=[MultiScale(0.), sides]), 1)
    assert set(sides.trained + sides.validated) == {32}


def test_cutmix_gives_the_loss_function_back(dls):
    losses = []

    class Keep(Callback):
        order, run_valid = 90, False
        def after_loss(self): losses.append(float(self.loss))

    learn = learner(dls, LeNet(), cbs=[SomeCutMix(0.5), Keep()])
    fit(learn, 1, 0.001)
    assert torch.tensor(losses).isfinite().all()
    assert isinstance(learn.loss_func, CrossEntropyLossFlat)


def counted(half):
    net = create_model('cifakenet', objects=10)
    with FlopCounterMode(display=False) as counter, torch.autocast('cpu', torch.bfloat16, enabled=half):
        net(torch.zeros(16, 3, 32, 32)).float().sum().backward()
    return counter.get_total_flops()


def test_zeros_between_images_side_by_side_count_in_bfloat16():
    assert abs(counted(True)/counted(False) - 1.05) < 0.001


def test_operations_are_counted_once_for_each_shape_of_batch(small):
    learn = learner(small, LeNet(), cbs=ComputeCounter())
    fit(learn, 2, 0.001)
    assert list(learn.compute_counter.of_shape) == [(64, 3, 32, 32)]
    assert learn.compute_counter.flops == 2*learn.compute_counter.of_shape[64, 3, 32, 32]
