"""Devices, without owning a GPU: tensors that meet lie on one device, none of them float64, which Apple's GPUs lack

Three stand-ins, each with controls that show what it catches:
- torch's fake tensors on `cuda`: shapes and devices without values, forward only, since autograd asks the driver for a
  stream, and the process dies where there is none. They need a build of torch with CUDA, but no GPU.
- the `meta` device: backward passes and optimisers, also without values.
- a pretended device, `away`, whose tensors keep their values on the processor: all that reads values, up to whole
  trainings. Results have to be those of the processor. It is registered in a process of its own, because that cannot
  be undone, and because autograd counts devices only once.
What none of them shows: operations that a GPU's kernels lack or do otherwise, its precision, its random numbers.
"""
import functools
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from types import SimpleNamespace

import fastai.torch_core
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed
from fastai.vision.core import TensorImage
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.nn.functional import interpolate
from torch.overrides import get_default_nowrap_functions
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map_only
from torchvision.transforms.v2 import functional as vision

from cifake.data import loaders
from cifake.data.augment import (
    BatchFlip,
    BatchShift,
    RandomBlur,
    RandomJPEG,
    RandomNoise,
    RandomResample,
    _gather,
    cifake_tfms,
    random_windows,
)
from cifake.data.demo import demo_cifake
from cifake.explain.faithfulness import deletion_insertion, randomised, road
from cifake.explain.interpret import CifakeInterpretation
from cifake.explain.layers import lead_of, map_layers
from cifake.explain.maps import _rollout, attention_maps, cam_maps
from cifake.measure.evaluate import as_predictor, calibrate, evaluate
from cifake.measure.learners import DetectorLoss
from cifake.measure.robustness import CORRUPTIONS, corrupt
from cifake.models.networks import WhitenedConv, fold_objects
from cifake.models.registry import create_model
from cifake.serve.detector import load_detector, save_detector
from cifake.serve.torch_network import WholeNetwork
from cifake.training.callbacks import FlipAverage, WeightAverage, muon_arguments
from cifake.training.compare import StopAfter, cost_of
from cifake.training.learner import cifake_learner, recipe_learner
from cifake.training.recipes import get_recipe
from cifake.training.train import load_run, resume_run, train_learner

NETWORKS = {
    'CifakeNet': dict(name='cifakenet'),
    'CifakeNet with dropout': dict(name='cifakenet', widths=(16, 24), stem=8, drop=0.2),
    'CifakeNet of objects': dict(name='cifakenet', objects=10),
    'CifakeNet with a sigmoid': dict(name='cifakenet', sigmoid=True),
    'CifakeViT': dict(name='cifakevit'),
    'CifakeViT of objects': dict(name='cifakevit', depth=2, objects=10),
    'BirdLotfiCNN': dict(name='birdlotficnn'),
    'BirdLotfiCNN with a sigmoid': dict(name='birdlotficnn', layers=3, dense_layers=2, sigmoid=True),
    'LeNet': dict(name='lenet'), 'MLP': dict(name='mlp')}


class MakesOnes(nn.Module):
    "The fault that is looked for: a tensor made on the processor, whatever the device of the input"
    def forward(self, x): return x + torch.ones(x.shape[-1])


class HoldsOnes(nn.Module):
    "The same with a tensor that is neither parameter nor buffer, and so stays behind where the module moves"
    def __init__(self):
        super().__init__()
        self.ones = torch.ones(32)

    def forward(self, x): return x + self.ones


class AnyGenerator(torch.Generator):
    "A generator of the processor for any device: timm's average asks for one, whose numbers float32 weights never use"
    def __new__(cls, device='cpu'): return super().__new__(cls)


# Fake tensors on `cuda`

@pytest.fixture
def fake():
    "Makes a module with values, as timm's constructors need, then gives it fake ones on `cuda`; all else is fake"
    if not torch.backends.cuda.is_built(): pytest.skip('this build of torch knows no CUDA')
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=False) as mode:
        def moved(make, *args, **kwargs):
            with unset_fake_temporarily(): model = make(*args, **kwargs)
            for module in model.modules():
                for name, o in module._parameters.items():
                    if o is not None: module._parameters[name] = nn.Parameter(mode.from_tensor(o).detach().to('cuda'))
                for name, o in module._buffers.items():
                    if o is not None: module._buffers[name] = mode.from_tensor(o).to('cuda')
            return model
        yield moved


def images(device='cuda', side=32, **kwargs): return torch.empty(6, 3, side, side, device=device, **kwargs)
def on_cuda(*found): return all(isinstance(o, FakeTensor) and o.device.type == 'cuda' for o in found)


@pytest.mark.parametrize('name', NETWORKS)
def test_network_makes_all_its_tensors_on_cuda(fake, name):
    model = fake(create_model, **NETWORKS[name])
    for side in (32, 24): assert on_cuda(model.train()(images(side=side)), model.eval()(images(side=side)))


@pytest.mark.parametrize('wrong, said', [
    (MakesOnes, 'two (different )?devices'), (HoldsOnes, 'convert all Tensors')])
def test_fake_cuda_catches_a_tensor_on_the_processor(fake, wrong, said):
    with pytest.raises((RuntimeError, AssertionError), match=said): fake(wrong)(images())


def test_fake_cuda_catches_values_that_are_read(fake):
    "Why augmentations that ask whether any image was chosen are tested on the pretended device"
    with pytest.raises(DataDependentOutputException): bool((images() < 0).any())


@pytest.mark.parametrize('flip', [False, True])
def test_network_of_a_detector_makes_all_its_tensors_on_cuda(fake, flip):
    card = dict(flip_average=flip, calibration=dict(temperature=1.5), stats=loaders.CIFAKE_STATS)
    whole = fake(lambda: WholeNetwork(create_model('cifakenet'), card).eval())
    assert on_cuda(whole(torch.empty(6, 32, 32, 3, dtype=torch.uint8, device='cuda')))


def flip_averaged(x):
    callback = FlipAverage()
    callback.learn = SimpleNamespace(pred=x.mean((2, 3)), model=lambda o: o.mean((2, 3)), x=x, training=False)
    callback.after_pred()
    return callback.learn.pred


FUNCTIONS = {
    'random_windows': lambda x: random_windows(x, 24), 'FlipAverage': flip_averaged,
    'BatchShift': lambda x: _gather(x, *[BatchShift(3).sources(6, 32, x.device)]*2),
    'RandomBlur': lambda x: RandomBlur().change(x, 1.), 'RandomResample': lambda x: RandomResample().change(x, 0.6),
    'RandomNoise': lambda x: RandomNoise().change(x, 0.1), 'RandomJPEG': lambda x: RandomJPEG().change(x, 50),
    'MultiScale': lambda x: interpolate(x, (40, 40), mode='bilinear', antialias=True),
    'fold_objects': lambda x: fold_objects(x.flatten(1)[:, :20]), 'cam_maps': lambda x: lead_of(x[:, :2, 0, 0]),
    'verdicts': lambda x: DetectorLoss().decodes(x[:, :2, 0, 0]),
    'attention_maps': lambda x: _rollout([x[:, :, :9, :9]]*2, [x[:, :, :9, :9]]*2, 'gradient_rollout')}


def fake_jpeg(x, quality):
    "torchvision encodes on the processor, which no fake tensor can be"
    if x.device.type != 'cpu' or x.dtype != torch.uint8: raise TypeError(f'JPEG of {x.dtype} on {x.device}')
    return torch.empty_like(x)


@pytest.mark.parametrize('name', FUNCTIONS)
def test_function_makes_all_its_tensors_on_cuda(fake, name, monkeypatch):
    monkeypatch.setattr(vision, 'jpeg', fake_jpeg)
    assert on_cuda(FUNCTIONS[name](images()))


@pytest.mark.parametrize('name', ['blur', 'resize', 'crop', 'brightness', 'contrast'])
def test_corruption_makes_all_its_tensors_on_cuda(fake, name):
    "The others call Pillow, libjpeg or a generator of the processor"
    assert on_cuda(corrupt(images(dtype=torch.uint8), name, CORRUPTIONS[name].levels[0]))


# The `meta` device

def a_step(model):
    "One training step of `model`, and of the average of its weights: all tensors that it made or changed"
    arguments = muon_arguments(precision='float32')
    keeper = WeightAverage()
    keeper.start(model)
    average = keeper.average
    opt = arguments['opt_func'](arguments['splitter'](model), lr=0.01)
    outputs = model.train()(images('meta'))
    loss = DetectorLoss(label_smoothing=0.1)(outputs, torch.zeros(len(outputs), dtype=torch.long, device='meta'))
    loss.backward()
    opt.step()
    average.update(model, 2)
    states = [o for state in opt.state_dict()['state'].values() for o in state.values() if torch.is_tensor(o)]
    grads, averages = [o.grad for o in model.parameters()], average.module.state_dict().values()
    return [loss, *grads, *(o for o in states if o.ndim), *averages]  # AdamW counts its steps on the processor


@pytest.mark.parametrize('name', NETWORKS)
def test_training_step_stays_on_meta(name, monkeypatch):
    "Backward pass, loss, Muon with its AdamW for what is no matrix, moving average"
    monkeypatch.setattr(torch, 'Generator', AnyGenerator)
    with torch.device('meta'): model = create_model(**NETWORKS[name])
    made = a_step(model)
    assert len(made) > 3*len(list(model.parameters())) and {o.device.type for o in made} == {'meta'}


@pytest.mark.parametrize('wrong', [MakesOnes, HoldsOnes])
def test_meta_catches_a_tensor_on_the_processor(wrong, monkeypatch):
    monkeypatch.setattr(torch, 'Generator', AnyGenerator)
    with torch.device('meta'): model = create_model('lenet')
    with pytest.raises(RuntimeError, match='cpu'): a_step(nn.Sequential(wrong(), model))


# A pretended device

AWAY = 'away:0'
MOVES = {'copy_', '_to_copy'}  # what takes tensors of two devices
INDEXES = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index', '_unsafe_index_put'}


class Away(torch.Tensor):
    "A tensor on `away`, which keeps its values in `here`, a tensor of the processor; `like` is its class but for that"
    like = torch.Tensor

    @staticmethod
    def __new__(cls, here):
        if here.dtype in (torch.float64, torch.complex128): raise TypeError(f'There is no {here.dtype} on {AWAY}.')
        layout = dict(strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype)
        made = torch.Tensor._make_wrapper_subclass(Away, here.size(), device=AWAY, **layout)
        made.here = here
        return made

    def __init__(self, *args, **kwargs): pass
    def __repr__(self): return f'{type(self).__name__}({self.here}, device={AWAY})'
    def __reduce_ex__(self, protocol): return self.here.__reduce_ex__(protocol)  # for `torch.save`
    def __deepcopy__(self, memo): return memo.setdefault(id(self), remade(self))
    def tolist(self): return self.here.tolist()
    def numpy(self, *args, **kwargs): raise TypeError(f'A tensor on {AWAY} cannot become an array: use `cpu` first.')
    def set_meta(self, *args, **kwargs): pass

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **(kwargs or {}))
            if func in get_default_nowrap_functions(): return found
            return tree_map_only(torch.Tensor, lambda o: likened(o, cls.like), found)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None): return computed(func, *args, **(kwargs or {}))


def remade(o): return nn.Parameter(o.detach().clone(), o.requires_grad) if isinstance(o, nn.Parameter) else o.clone()


@functools.cache
def away_class(like): return Away if like is torch.Tensor else type(like.__name__, (Away, like), dict(like=like))


def likened(o, like):
    "`o` as a tensor of the class `like` of fastai's, or of the same on `away`"
    if isinstance(o, Away): o.__class__ = away_class(like)
    elif type(o) is torch.Tensor and like is not torch.Tensor: return torch.Tensor.as_subclass(o, like)
    return o


def computed(func, *args, **kwargs):
    "What `func` gives for tensors of which some are on `away`, or for the device `away`; refused where devices meet"
    tensors, name = [o for o in tree_leaves((args, kwargs)) if torch.is_tensor(o)], func._schema.name.split('::')[1]
    checked = [] if name in MOVES else [args[0], *args[2:]] if name in INDEXES else tensors
    near = [o for o in tree_leaves(checked) if torch.is_tensor(o) and not isinstance(o, Away) and o.ndim]
    away = any(isinstance(o, Away) for o in tensors)
    if away and near: raise RuntimeError(f'{func} was given tensors on {AWAY} and on the processor.')
    if kwargs.get('device') is not None:
        away = torch.device(kwargs['device']).type == 'away'
        kwargs = {**kwargs, 'device': torch.device('cpu') if away else kwargs['device']}
    elif name == 'copy_': away = isinstance(args[0], Away)
    known = {id(o.here): o for o in tensors if isinstance(o, Away)}  # what an operation in place gives back
    args, kwargs = tree_map_only(Away, lambda o: o.here, (args, kwargs))
    with torch._C.DisableTorchFunctionSubclass(): found = func(*args, **kwargs)
    return tree_map_only(torch.Tensor, lambda o: known[id(o)] if id(o) in known else Away(o), found) if away else found


def pretend():
    "Register the device in this process, for good"
    as_subclass, torch_load = torch.Tensor.as_subclass, torch.load  # the first is fastai's

    def as_subclass_too(self, like):
        like = getattr(like, 'like', like)
        if not isinstance(self, Away): return as_subclass(self, like)
        with torch._C.DisableTorchFunctionSubclass(): return likened(torch.ops.aten.alias(self), like)

    def load(*args, map_location='cpu', **kwargs):
        found = torch_load(*args, map_location='cpu', **kwargs)
        return tree_map_only(torch.Tensor, lambda o: o.to(map_location), found)

    torch.set_num_threads(1)
    backend_registration._setup_privateuseone_for_python_backend('away')
    pretend.library = torch.library.Library('_', 'IMPL')
    pretend.library.fallback(computed, 'PrivateUse1')  # for what is given no tensor, such as `torch.rand`
    torch._C._set_only_lift_cpu_tensors(True)  # or `torch.tensor` would bypass Python
    torch.__future__.set_swap_module_params_on_conversion(True)  # as on a GPU, an optimiser keeps its parameters
    torch.Generator, torch.Tensor.as_subclass, torch.load = AnyGenerator, as_subclass_too, load


def told(func, *args):
    "Call `func`; what `pytest.raises` misses is told in an exception that gets from one process to another"
    try: func(*args)
    except pytest.fail.Exception as e: raise AssertionError(str(e)) from None


@pytest.fixture(scope='module')
def there():
    "Calls a function of this module in a process that knows the device `away`"
    if not hasattr(backend_registration, '_setup_privateuseone_for_python_backend'):
        pytest.skip('this torch is too old to pretend a device')
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), initializer=pretend) as pool:
        yield lambda func, *args: pool.submit(told, func, *args).result()


def on_both(func, *args):
    "What `func` gives on the processor and on `away`, with the same random numbers"
    found = []
    for device in ('cpu', AWAY):
        set_seed(0)
        with redirect_stdout(StringIO()): found.append(func(device, *args))
    return found


def same(func, *args, off=0.):
    "Call `on_both` and compare: tables of tensors, of which those of `away` really lie there"
    here, far = on_both(func, *args)
    if not isinstance(here, dict): here, far = dict(result=here), dict(result=far)
    if list(here) != list(far): raise AssertionError(f'{list(here)} on the processor, {list(far)} on {AWAY}')
    for name in here:
        pair = [torch.as_tensor(o).detach().cpu().as_subclass(torch.Tensor).double() for o in (here[name], far[name])]
        if pair[0].shape != pair[1].shape: raise AssertionError(f'{name} has other shapes: {[o.shape for o in pair]}')
        most = (pair[0] - pair[1]).abs().max().item()
        if not most <= off: raise AssertionError(f'{name} on {AWAY} is up to {most:.2g} off that on the processor.')


close, roughly = (functools.partial(same, off=o) for o in (5e-4, 5e-3))  # rounding grows in a training


def lies(o, device):
    "`o`, which has to lie on `device`"
    if o.device != torch.device(device): raise AssertionError(f'On {o.device} in place of {device}.')
    return o


FAULTS = {
    'made on the processor': lambda x: MakesOnes()(x),
    'stayed on the processor': lambda x: HoldsOnes().to(x.device)(x),
    'weight on the processor': lambda x: nn.Linear(32, 2)(x),
    'index on another device': lambda x: torch.ones(8, 32)[x > 0.5],
    'float64': lambda x: x.double(),
    'float64 of NumPy': lambda x: torch.from_numpy(np.ones(4)).to(x.device),
    'float64 from the start': lambda x: torch.arange(4, dtype=torch.float64, device=x.device),
    'array': lambda x: x.numpy(), 'array of NumPy': lambda x: np.asarray(x)}


def refused(name):
    FAULTS[name](torch.rand(8, 32))
    with pytest.raises((RuntimeError, TypeError), match=AWAY): FAULTS[name](torch.rand(8, 32).to(AWAY))


@pytest.mark.parametrize('name', FAULTS)
def test_pretended_device_refuses(there, name): there(refused, name)


def arithmetic(device):
    "What is right: a tensor made on the device, a number and an index on the processor, a weight that moves, gradients"
    x, layer = torch.rand(8, 32, device=device), nn.Linear(32, 2)
    opt = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.to(device)
    x = (x + torch.ones(32, device=device))*torch.tensor(2.)
    loss = layer(x)[torch.arange(8) > 2].square().sum()
    loss.backward()
    opt.step()
    return dict(loss=lies(loss, device), weight=lies(layer.weight, device), grad=lies(layer.weight.grad, device))


def test_pretended_device_computes(there): there(same, arithmetic)


# Augmentation, corruptions, whitening

CHANGES = {
    'BatchFlip': [BatchFlip()], 'BatchShift': [BatchShift(3)], 'RandomBlur': [RandomBlur()],
    'RandomResample': [RandomResample()], 'RandomNoise': [RandomNoise()], 'RandomJPEG': [RandomJPEG()],
    'rotate': cifake_tfms(flip=False, rotate=10.), 'zoom': cifake_tfms(flip=False, zoom=0.1),
    'all of cifake_tfms': cifake_tfms(shift=2, attack=0.5, rotate=10., zoom=0.1)}


def changed(device, name):
    x = TensorImage(torch.rand(8, 3, 32, 32)).to(device)
    for change in CHANGES[name]: x = change(x, split_idx=0)
    if not isinstance(x, TensorImage): raise AssertionError(f'{name} gives {type(x)}')
    return lies(x, device)


def windows(device): return lies(random_windows(torch.rand(8, 3, 32, 32).to(device), 24), device)


def corrupted(device, name):
    x = torch.randint(256, (4, 3, 32, 32)).byte().to(device)
    return lies(corrupt(x, name, CORRUPTIONS[name].levels[-1]), device)


def whitened(device):
    layer = WhitenedConv(8).to(device)
    layer.fit(torch.rand(64, 3, 32, 32).to(device))
    return dict(whiten=lies(layer.whiten, device), found=layer(torch.rand(2, 3, 32, 32).to(device)))


@pytest.mark.parametrize('name', CHANGES)
def test_augmentation_is_the_same_on_another_device(there, name): there(same, changed, name)


def test_windows_are_the_same_on_another_device(there): there(same, windows)


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_corruption_is_the_same_on_another_device(there, name): there(same, corrupted, name)


def test_whitening_is_the_same_on_another_device(there): there(same, whitened)


# Loaders

def read(device, make, stats):
    "Batches of loaders that were made for `device`, which is not fastai's default one, and normalised by the learner"
    dls, found = getattr(loaders, make)(demo_cifake(n=60), bs=16, stats=stats, device=device, num_workers=0), {}
    cifake_learner(dls, 'lenet', precision='float32')
    for name in ('train', 'valid', 'test'):  # in this order: another loader moves what all of them share
        dl = loaders.test_dl(dls, num_workers=0) if name == 'test' else getattr(dls, name)
        x, y = dl.one_batch()
        found |= {f'x of {name}': lies(x, device), f'y of {name}': lies(y, device)}
    return found


@pytest.mark.parametrize('make', ['memory_dls', 'cifake_dls'])
@pytest.mark.parametrize('stats', [loaders.CIFAKE_STATS, None], ids=['normalised', 'normalised by the learner'])
def test_loaders_give_batches_on_the_device_that_is_named(there, make, stats): there(same, read, make, stats)


# Trainings

TRAININGS = {
    'quick': dict(), 'vit': dict(recipe='vit', attack=0.5),
    'CutMix, windows, sizes': dict(cutmix=1., shift=2, attack=0.5, window=24, window_share=0.5, multi_scale=0.5),
    'CutMix, rotation, zoom': dict(cutmix=0.5, rotate=10., zoom=0.1, objects=False),
    'fused Adam, a sigmoid': dict(recipe='bird-lotfi-cnn'), "fastai's Adam": dict(recipe='mlp', average=0.9)}


def fitted(device, name, cbs=None):
    arguments = dict(TRAININGS[name])
    recipe = get_recipe(arguments.pop('recipe', 'quick'), **arguments)
    changes = cifake_tfms(recipe.flip, recipe.shift, recipe.attack, recipe.rotate, recipe.zoom)
    dls = loaders.memory_dls(demo_cifake(n=60), bs=16, stats=loaders.CIFAKE_STATS, batch_tfms=changes, device=device)
    learn = recipe_learner(dls, recipe, 0, 'float32', cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    return learn


@functools.cache
def trained(device, name):
    set_seed(0)
    return fitted(device, name)


def results(device, name):
    "Losses and weights after a training"
    learn = trained(device, name)
    losses = {k: v for k, v in learn.history.rows[0].items() if 'loss' in k}
    return {**losses, **{k: lies(o, device) for k, o in learn.model.state_dict().items()}}


@pytest.mark.slow
@pytest.mark.parametrize('name', TRAININGS)
def test_training_is_the_same_on_another_device(there, name): there(close, results, name)


class Careless(Callback):
    "Adds a tensor of the processor to the predictions"
    def after_pred(self): self.learn.pred = self.pred + torch.zeros(self.pred.shape[-1])


class Lavish(Callback):
    "Computes the loss in float64"
    def after_pred(self): self.learn.pred = self.pred.double()


def goes_wrong(callback):
    fitted('cpu', "fastai's Adam", [callback()])
    with pytest.raises((RuntimeError, TypeError), match=AWAY): fitted(AWAY, "fastai's Adam", [callback()])


@pytest.mark.slow
@pytest.mark.parametrize('callback', [Careless, Lavish])
def test_pretended_training_catches(there, callback): there(goes_wrong, callback)


# What a trained network is used for

def p_fake_of(learn): return evaluate(learn, split='valid').predictions.p_fake.to_numpy()


def explained(learn, files):
    maps = cam_maps(learn, files)
    with randomised(learn, files) as other: shuffled = other.get_preds()[0]
    curves = np.stack(deletion_insertion(learn, files, maps, steps=2))
    return dict(maps=maps, curves=curves, road=road(learn, files, maps),
                shuffled=shuffled, layers=map_layers(learn)[['channels', 'height']].to_numpy(), **cost_of(learn))


USES = {
    'calibrate': lambda learn, files: p_fake_of(calibrate(learn) and learn),
    'get_preds': lambda learn, files: dict(enumerate(learn.get_preds(with_decoded=True, with_loss=True))),
    'predict': lambda learn, files: learn.predict(files[0])[2],
    'interpret': lambda learn, files: CifakeInterpretation.from_learner(learn).table[['p_fake', 'loss']].to_numpy(),
    'corrupted pictures': lambda learn, files: as_predictor(learn).p_fake(
        torch.randint(256, (6, 32, 32, 3)).byte().numpy()),
    'explanations': explained}


def used(device, name):
    learn = trained(device, 'quick')
    lies(next(learn.model.parameters()), device)
    set_seed(0)
    with learn.no_bar(): return USES[name](learn, [o.file for o in learn.dls.valid.items[:4]])


def attended(device, method):
    learn = trained(device, 'vit')
    return attention_maps(learn, [o.file for o in learn.dls.valid.items[:4]], method)


@pytest.mark.slow
@pytest.mark.parametrize('name', USES)
def test_trained_network_does_the_same_on_another_device(there, name): there(roughly, used, name)


@pytest.mark.slow
@pytest.mark.parametrize('method', ['rollout', 'last', 'gradient_rollout'])
def test_attention_is_the_same_on_another_device(there, method): there(close, attended, method)


# Detectors

def judged(device, file, flip):
    "Also in the threads of `predict`; the file is that of a network which was trained on the processor"
    detector = load_detector(file, device=device, flip_average=flip)
    for o in (*detector.network.whole.parameters(), *detector.network.whole.buffers()): lies(o, device)
    pictures = np.random.default_rng(0).integers(256, size=(5, 32, 32, 3), dtype=np.uint8)
    return dict(predict=detector.predict(pictures).p_fake.to_numpy(), p_fake=detector.p_fake(pictures))


def saved(device, folder):
    return judged(device, save_detector(trained(device, 'quick'), f'{folder}/{device[:3]}'), None)


@pytest.mark.parametrize('flip', [False, True])
def test_detector_says_the_same_on_another_device(there, flip): there(close, judged, None, flip)


@pytest.mark.slow
def test_detector_is_saved_from_another_device(there, tmp_path): there(close, saved, str(tmp_path))


# A machine that prefers the device, as one with a GPU does

@contextmanager
def preferred(device):
    "fastai's `default_device` is `device`, wherever it was imported"
    was, chosen = fastai.torch_core.default_device, lambda use=-1: torch.device(device)
    users = [o for o in list(sys.modules.values()) if vars(o).get('default_device') is was]
    for o in users: o.default_device = chosen
    try: yield
    finally:
        for o in users: o.default_device = was


def one_user(device, folder):
    "Train, be interrupted, go on, open the run, all without a word on devices"
    folder, asked = f'{folder}/{device[:3]}', dict(epochs=2, precision='float32', verbose=False)
    with preferred(device):
        with pytest.raises(KeyboardInterrupt):
            train_learner(demo_cifake(n=60), out=folder, cbs=[StopAfter(0.)], **asked)
        learns = dict(resumed=resume_run(folder, verbose=False), opened=load_run(folder))
        said = {k: p_fake_of(o) for k, o in learns.items()}
    return {**said, **{f'{k} of {name}': lies(o, device) for name, learn in learns.items()
                       for k, o in learn.model.state_dict().items()}}


@pytest.mark.slow
def test_run_is_the_same_where_another_device_is_preferred(there, tmp_path): there(roughly, one_user, str(tmp_path))
