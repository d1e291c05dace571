"Loaders, training and inference: fastai's way, ours, and a bare PyTorch loop in one run; nbs/results/speed.json"
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from fastcore.script import call_parse

from record import RESULTS, circumstances, save

FOLDER, CIFAKE, MEMORY, BARE = 'ImageDataLoaders.from_folder', 'cifake_dls', 'memory_dls', 'bare loop'


def _rate(dl, seconds):
    "Images a second of one pass over `dl`, or of as much of it as fits in about `seconds`, after one batch to start it"
    batches = iter(dl)
    next(batches)
    start, n = time.perf_counter(), 0
    for images, _ in batches:
        n += len(images)
        if time.perf_counter() - start > seconds: break
    return n/(time.perf_counter() - start)


def _medians(measure, names, repeats):
    "Median and all values of `measure(name)`; names take turns, so that a busy hour slows all of them"
    values = {name: [] for name in names}
    for _ in range(repeats):
        for name in names: values[name].append(round(measure(name), 1))
    return {name: median(o) for name, o in values.items()}, values


def _ratio(over, under):
    "Median of `over` divided by `under`, turn by turn, for the machine's speed changes"
    return median(a/b for a, b in zip(over, under, strict=True))


def _link(items, folder):
    "Links to the files of `items`, in folders as `from_folder` wants them, by unique names, for names repeat in CIFAKE"
    for i, o in enumerate(items):
        (folder/o.split/o.label).mkdir(parents=True, exist_ok=True)
        os.symlink(o.file, folder/o.split/o.label/f'{i}.jpg')


def loaders_alone(bs, seconds, repeats):
    "Images a second, with and without our augmentation"
    from fastai.vision.data import ImageDataLoaders

    from cifake.data.augment import cifake_tfms
    from cifake.data.find import find_cifake
    from cifake.data.loaders import ImageStore, cifake_dls, memory_dls
    root = find_cifake()
    times = []
    ImageStore(root).file.unlink()  # whatever is there: the next one decodes
    for _ in range(2):
        start = time.perf_counter()
        ImageStore(root)
        times.append(round(time.perf_counter() - start, 1))
    tfms = dict(batch_tfms=cifake_tfms(shift=2))
    dls = {
        FOLDER: ImageDataLoaders.from_folder(root/'train', valid_pct=0.1, seed=42, bs=bs),
        CIFAKE: cifake_dls(bs=bs),
        MEMORY: memory_dls(bs=bs),
        f'{CIFAKE}, flip and shift': cifake_dls(bs=bs, **tfms),
        f'{MEMORY}, flip and shift': memory_dls(bs=bs, **tfms)}
    rates, every = _medians(lambda name: _rate(dls[name].train, seconds), dls, repeats)
    return dict(decoding_seconds=times[0], mapping_seconds=times[1], images_per_second=rates, all_measurements=every,
                memory_over_from_folder=round(rates[MEMORY]/rates[FOLDER], 1),
                memory_over_cifake=round(rates[MEMORY]/rates[CIFAKE], 1))


def _step_rate(nets, bs, name, steps=10):
    "Images a second of forward and backward of one of `nets`"
    import torch

    from cifake.training.callbacks import has_fast_bfloat16
    images = torch.randn(bs, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    start = time.perf_counter()
    for _ in range(steps):
        with torch.autocast('cpu', torch.bfloat16, enabled=has_fast_bfloat16()): output = nets[name](images)
        output.float().logsumexp(1).mean().backward()
    return steps*bs/(time.perf_counter() - start)


def gradients(bs, repeats):
    "Images a second of our network's steps, with gradients of weights from rows of images and with PyTorch's own"
    import torch

    from cifake.models.networks import CifakeNet, Conv3x3
    ours, theirs = 'rows of images', 'PyTorch alone'
    nets = {o: CifakeNet().to(memory_format=torch.channels_last) for o in (ours, theirs)}
    for layer in list(nets[theirs].modules()):
        if isinstance(layer, Conv3x3): layer.__class__ = torch.nn.Conv2d
    measure = partial(_step_rate, nets, bs)
    for name in nets: measure(name, 2)
    rates, every = _medians(measure, nets, repeats)
    return dict(images_per_second=rates, all_measurements=every,
                rows_over_pytorch=round(_ratio(every[ours], every[theirs]), 2))


def compiled(bs, repeats):
    "Images a second of our network's steps as it is and through `torch.compile`, and what starting to compile costs"
    import torch

    from cifake.models.networks import CifakeNet
    net = CifakeNet().to(memory_format=torch.channels_last)
    torch.compiler.config.force_disable_caches = True  # as on a machine that has never compiled it
    plain, fast = 'as it is', 'torch.compile'
    ways = {plain: net, fast: torch.compile(net)}
    measure = partial(_step_rate, ways, bs)
    starts = {name: bs/measure(name, 1) for name in ways}
    rates, every = _medians(measure, ways, repeats)
    ratio = _ratio(every[fast], every[plain])
    saved = (1 - 1/ratio)/rates[plain]  # seconds an image
    return dict(images_per_second=rates, all_measurements=every,
                first_step_seconds={k: round(v, 1) for k, v in starts.items()}, compiled_over_plain=round(ratio, 2),
                pays_after_images=round((starts[fast] - starts[plain])/saved) if saved > 0 else None)


class Bare:
    """A training without any framework: what `train_learner` does, and no more

    On uint8 images, with pairs of label and object to train and labels to validate.
    """
    def __init__(self, recipe, stats):
        import torch
        from timm.optim import Muon
        from timm.utils import ModelEmaV3

        from cifake.data.augment import cifake_tfms
        from cifake.models.registry import create_model
        from cifake.training.callbacks import has_fast_bfloat16, matrices_and_others
        self.recipe = recipe
        self.mean, self.std = (torch.tensor(o).view(1, 3, 1, 1) for o in stats)
        self.net = create_model('cifakenet', objects=10).to(memory_format=torch.channels_last)
        matrices, others = matrices_and_others(self.net)
        groups = [dict(params=matrices, weight_decay=recipe.wd), dict(params=others, weight_decay=0.)]
        self.opt = Muon(groups, nesterov=True, betas=(0.9, 0.99))
        self.average = ModelEmaV3(self.net, recipe.average, use_warmup=True, warmup_gamma=9, warmup_power=1.)
        self.tfms = cifake_tfms(recipe.flip, recipe.shift)
        self.loss_func = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self.half = partial(torch.autocast, 'cpu', torch.bfloat16, enabled=has_fast_bfloat16())

    def batch(self, images): return (images.permute(0, 3, 1, 2).float()/255 - self.mean)/self.std

    def train(self, images, targets, step):
        "One step; `step` counts them"
        import torch
        from fastai.vision.core import TensorImage
        images = TensorImage(self.batch(images))
        for change in self.tfms: images = change(images, split_idx=0)
        with self.half(): output = self.net(images.as_subclass(torch.Tensor))
        self.loss_func(output.float(), targets).backward()
        self.opt.step()
        self.opt.zero_grad()
        self.average.update(self.net, step)

    def right(self, images, labels):
        "How many of `images` are called by their labels"
        images = self.batch(images)
        views = (images, images.flip(3)) if self.recipe.flip_average else (images,)
        output = sum(self.average.module(o).float().softmax(1) for o in views)
        return (output.argmax(1) == labels).sum()

    def validate(self, images, labels):
        "Accuracy of the averaged network"
        import torch
        size, right = 2*self.recipe.bs, 0
        with torch.no_grad(), self.half():
            for part in zip(images.split(size), labels.split(size), strict=True): right += self.right(*part)
        return right/len(images)


def bare_training(recipe, train, valid, stats):
    "Train and validate `recipe` with `Bare`"
    import torch
    from fastai.callback.schedule import combined_cos
    bare = Bare(recipe, stats)
    rate = combined_cos(0.25, recipe.lr/25, recipe.lr, recipe.lr/1e5)
    momentum = combined_cos(0.25, 0.95, 0.85, 0.95)
    steps, step = len(train[0])//recipe.bs, 0
    for _ in range(recipe.epochs):
        bare.net.train()
        for rows in torch.randperm(len(train[0])).split(recipe.bs)[:steps]:
            done = step/(steps*recipe.epochs)
            for group in bare.opt.param_groups:
                group['lr'] = rate(done)
                group['momentum'] = momentum(done)
                group['betas'] = group['momentum'], 0.99
            step += 1
            bare.train(train[0][rows], train[1][rows], step)
        accuracy = bare.validate(*valid)
    return accuracy


def whole_training(recipe, images, repeats, ways):
    "Seconds of a whole training of `recipe` on a subset, with validations in proportion, each way"
    import torch
    from fastai.vision.data import ImageDataLoaders

    from cifake.data.augment import cifake_tfms
    from cifake.data.core import LABELS, OBJECTS
    from cifake.data.find import find_cifake
    from cifake.data.loaders import CIFAKE_STATS, cifake_dls, memory_dls
    from cifake.training.learner import recipe_learner
    batch_tfms = cifake_tfms(recipe.flip, recipe.shift)
    work = tempfile.TemporaryDirectory()
    whole = memory_dls(find_cifake(), stats=None)
    every_nth = max(1, round(len(whole.train_ds)/images))
    kwargs = dict(bs=recipe.bs, batch_tfms=batch_tfms, subset=images,
                  valid=[o.digest for o in whole.valid.items[::every_nth]], stats=None)
    memory = memory_dls(find_cifake(), **kwargs)
    _link([*memory.train.items, *memory.valid.items], Path(work.name))
    loaders = {
        FOLDER: lambda: ImageDataLoaders.from_folder(
            work.name, valid='valid', bs=recipe.bs, val_bs=2*recipe.bs, batch_tfms=batch_tfms),
        CIFAKE: lambda: cifake_dls(find_cifake(), **kwargs),
        MEMORY: lambda: memory_dls(find_cifake(), **kwargs)}

    def label(o): return LABELS.index(o.label)
    def pair(o): return label(o)*len(OBJECTS) + OBJECTS.index(o.object_class)
    def arrays(dl, target): return dl.store.images[dl.rows], torch.tensor([target(o) for o in dl.items])
    train, valid = arrays(memory.train, pair), arrays(memory.valid, label)

    def measure(name):
        if name == BARE: run = partial(bare_training, recipe, train, valid, CIFAKE_STATS)
        else:
            learn = recipe_learner(loaders[name](), recipe, 0)

            def run():
                with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(recipe.epochs, recipe.lr)
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    seconds, every = _medians(measure, ways, repeats)
    work.cleanup()
    return dict(training_images=images, validation_images=len(memory.valid_ds), epochs=recipe.epochs, seconds=seconds,
                all_measurements=every, memory_faster_than_from_folder=round(seconds[FOLDER]/seconds[MEMORY], 2),
                memory_faster_than_cifake=round(seconds[CIFAKE]/seconds[MEMORY], 2),
                memory_speed_over_bare_loop=round(seconds[BARE]/seconds[MEMORY], 3) if BARE in ways else None)


def inference(repeats):
    "Images a second of `get_preds`, and how its time grows with the number of images"
    from fastai.vision.data import ImageDataLoaders

    from cifake.data.find import find_cifake
    from cifake.data.loaders import memory_dls
    from cifake.training.learner import recipe_learner
    from cifake.training.recipes import get_recipe
    recipe, work = get_recipe('quick', flip_average=False), tempfile.TemporaryDirectory()
    memory = memory_dls(find_cifake(), stats=None, bs=256)
    few, many = memory.valid.items, [*memory.train.items, *memory.valid.items]
    _link([*few, *memory.train.items[::100]], Path(work.name))
    folder = ImageDataLoaders.from_folder(work.name, valid='valid', bs=256)
    learners = {FOLDER: recipe_learner(folder, recipe, 0), MEMORY: recipe_learner(memory, recipe, 0)}

    def measure(name, items):
        learn = learners[name]
        start = time.perf_counter()
        with learn.no_bar(): n = len(learn.get_preds(dl=learn.dls.test_dl(items, bs=512))[0])
        return n/(time.perf_counter() - start)

    paths = {FOLDER: [o.file for o in few], MEMORY: few}
    rates, every = _medians(lambda name: measure(name, paths[name]), paths, repeats)
    grown = [round(len(o)/measure(MEMORY, o), 1) for o in (many[::9][:10_000], many)]
    work.cleanup()
    growth = dict(images=[10_000, len(many)], seconds=grown, seconds_times=round(grown[1]/grown[0], 2),
                  images_times=round(len(many)/10_000, 2))
    return dict(images=len(few), images_per_second=rates, all_measurements=every,
                memory_faster_than_from_folder=round(rates[MEMORY]/rates[FOLDER], 2), growth=growth)


@call_parse
def main(
    parts: str = 'loaders,gradients,compile,inference,training',  # What to measure; other parts of the file are kept
    bs: int = 256,  # Images in a batch of the loaders alone
    seconds: int = 20,  # Longest time of one measurement of a loader alone
    images: int = 20_000,  # Training images of a whole training
    repeats: int = 3,  # Of which the median is kept
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH"
    about = circumstances()
    from cifake.training.recipes import get_recipe
    file = RESULTS/'speed.json'
    values = json.loads(file.read_text()) if file.exists() else {}

    def training():
        quick, fast = get_recipe('quick'), get_recipe('fast', epochs=1)  # the bare loop has no CutMix
        return dict(quick=whole_training(quick, images, repeats, (FOLDER, CIFAKE, MEMORY, BARE)),
                    fast=whole_training(fast, images, repeats, (FOLDER, CIFAKE, MEMORY)))

    measures = dict(
        loaders=lambda: dict(bs=bs, **loaders_alone(bs, seconds, repeats)),
        gradients=lambda: gradients(bs, 2*repeats + 1),
        compile=lambda: compiled(bs, 2*repeats + 1),
        inference=lambda: inference(repeats),
        training=training)
    for part in parts.split(','):
        values[part] = dict(**about, **measures[part]())
        save('speed', values)
