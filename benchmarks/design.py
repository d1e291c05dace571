"Try variants of our network and its recipe at about equal compute, on validation; writes nbs/results/design.json"
import json
import tempfile
from functools import partial
from math import ceil
from pathlib import Path

import torch
from fastcore.script import call_parse
from torch import nn
from torch.nn.functional import pixel_unshuffle
from torch.utils.flop_counter import FlopCounterMode

from cifake.models.networks import CifakeNet, ConvLayer, Stage, register_model
from record import RESULTS, circumstances, save


class Unshuffle(nn.Module):
    "Each 2x2 square of pixels becomes one of four times as many channels"
    def forward(self, x): return pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)


class SqueezeExcite(nn.Module):
    "Weigh channels by what the whole image shows (Hu et al. 2018, arXiv 1709.01507)"
    def __init__(self, n):
        super().__init__()
        layers = nn.AdaptiveAvgPool2d(1), nn.Conv2d(n, n//8, 1), nn.SiLU(), nn.Conv2d(n//8, n, 1), nn.Sigmoid()
        self.weigh = nn.Sequential(*layers)

    def forward(self, x): return x*self.weigh(x)


class MeanAndMax(nn.Module):
    "Both poolings of each channel"
    def forward(self, x): return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


class PlainStage(Stage):
    "A stage without its residual connection"
    def forward(self, x): return self.refine(self.down(x))


def swap(net, old, new):
    "Put `new()` in the place of each layer of the type `old`"
    for name, child in net.named_children():
        if isinstance(child, old): setattr(net, name, new())
        else: swap(child, old, new)


def learned_stem(net): net.stem[0] = nn.Conv2d(3, 32, 3, padding=1, bias=False)
def squares(net): net.stem = nn.Sequential(Unshuffle(), ConvLayer(12, 32))
def averaged(net): swap(net, nn.MaxPool2d, partial(nn.AvgPool2d, 2))
def relu(net): swap(net, nn.SiLU, partial(nn.ReLU, inplace=True))


def late(net):
    net.stem[1] = nn.Identity()
    net.stages[2].down[1] = nn.MaxPool2d(2)


def later(net):
    net.stages[0].down[1] = nn.Identity()
    net.stages[2].down[1] = nn.MaxPool2d(2)


def strided(net):
    for stage in net.stages[:2]:
        conv = stage.down[0]
        stage.down[0] = nn.Conv2d(conv.in_channels, conv.out_channels, 3, 2, 1, bias=False)
        stage.down[1] = nn.Identity()


def plain(net):
    for stage in net.stages: stage.__class__ = PlainStage


def excited(net):
    for stage in net.stages: stage.refine.append(SqueezeExcite(stage.refine[1][0].out_channels))


def both_poolings(net):
    last = net.head[3]
    net.head[0] = nn.Sequential(MeanAndMax(), nn.Unflatten(1, (-1, 1, 1)))
    net.head[3] = nn.Linear(2*last.in_features, last.out_features)


def shallow(net):
    for stage in net.stages: del stage.refine[1]


def deep(net):
    for stage in net.stages:
        n = stage.refine[1][0].out_channels
        stage.refine.extend([ConvLayer(n, n), ConvLayer(n, n)])


NETWORKS = {  # what is changed after building, and arguments of `CifakeNet`
    'as it is': (None, {}),
    'first layer learned from pixels, not whitened': (learned_stem, {}),
    'first layer sees 2x2 squares as channels': (squares, {}),
    'halvings in the three stages, not in the first layer: 64-128-256': (late, dict(widths=(64, 128, 256))),
    'halvings in the first layer and stages 2 and 3: 72-144-240': (later, dict(widths=(72, 144, 240))),
    'narrow early, wide late: 64-128-256': (None, dict(widths=(64, 128, 256))),
    'strided convolutions for max pooling in the stages': (strided, {}),
    'average pooling for max pooling': (averaged, {}),
    'ReLU for SiLU': (relu, {}),
    'no residual connections': (plain, {}),
    'squeeze-and-excitation': (excited, {}),
    'mean and maximum at the end': (both_poolings, {}),
    'stem of 64 channels': (None, dict(stem=64)),
    'fewer layers, wider: 144-208-240, one convolution to refine': (shallow, dict(widths=(144, 208, 240))),
    'more layers, narrower: 96-128-144, four convolutions to refine': (deep, dict(widths=(96, 128, 144)))}

RECIPES = {
    'labels alone as targets, not objects': dict(objects=False),
    'AdamW for Muon': dict(optimizer='adamw'),
    'half the rate': dict(lr=0.005),
    'double the rate': dict(lr=0.02),
    'batches of 128': dict(bs=128),
    'batches of 512': dict(bs=512),
    'no average of weights': dict(average=0.),
    'no label smoothing': dict(label_smoothing=0.),
    'no shifts': dict(shift=0),
    'shifts of up to 2': dict(shift=2),
    'windows of 24 in three quarters of the training': dict(window=24),
    'CutMix on half of the batches': dict(cutmix=0.5)}


def build(change=None, arguments=None, n_out=2):
    "The network of a variant"
    net = CifakeNet(n_out, **(arguments or {}))
    if change: change(net)
    return net


def flops_per_image(net, side=32, n=8):
    "Operations of one training step, per image"
    images = torch.zeros(n, 3, side, side).contiguous(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as counter: net.to(memory_format=torch.channels_last)(images).sum().backward()
    return counter.get_total_flops()/n


def variant(network):
    "A class whose instances are the network of a variant, to be registered as an architecture"
    def make(cls, n_out): return build(*network, n_out)
    return type('Variant', (), dict(__new__=make))


def measure(network, fields, budget):
    "Train a variant for as long as `budget` lasts, and judge it on validation"
    from cifake.measure.evaluate import evaluate
    from cifake.training.recipes import get_recipe
    from cifake.training.runs import read_history
    from cifake.training.train import train_learner
    register_model(variant(network))
    side, share = (24, 0.75) if 'window' in fields else (32, 1.)
    cost = share*flops_per_image(build(*network), side) + (1 - share)*flops_per_image(build(*network))
    images = budget*1e15/cost
    epochs = ceil(images/90_000 - 0.1)  # all images are best seen before any is seen again
    images = min(90_000, int(images/epochs))
    recipe = get_recipe('quick', arch='variant', epochs=epochs, min_steps=0, **fields)
    with tempfile.TemporaryDirectory() as work:
        learn = train_learner(recipe=recipe, subset=images, seed=0, out=Path(work)/'run')
        card = json.loads((Path(work)/'run'/'recipe.json').read_text())
    flips = learn.report
    with learn.removed_cbs(learn.flip_average): single = evaluate(learn, split='valid')
    rows = read_history(learn)
    return dict(
        recipe=card['recipe'], parameters=sum(o.numel() for o in learn.model.parameters()),
        training_images=len(learn.dls.train_ds), mflop_per_image=round(cost/1e6), epochs=epochs,
        pflop=card['training_pflop'], seconds=round(rows.seconds.sum()), train_loss=round(rows.train_loss.iloc[-1], 4),
        accuracy=flips.accuracy, interval=flips.intervals['accuracy'], auc=flips.auc,
        accuracy_without_flips=single.accuracy)


@call_parse
def main(
    budget: float = 0.0615,  # PFLOP of each training; the optimiser's own, some per cent, come on top
    only: str = None,  # Try only variants whose name has one of these words, apart by commas
):
    "Variants that are in the file already are kept. The test is not opened. Set CIFAKE_PATH"
    file = RESULTS/'design.json'
    done = json.loads(file.read_text())['variants'] if file.exists() else {}
    plan = {**{k: (v, {}) for k, v in NETWORKS.items()}, **{k: ((None, {}), v) for k, v in RECIPES.items()}}
    for name, (network, fields) in plan.items():
        if name in done or only and not any(o in name for o in only.split(',')): continue
        about = circumstances()
        done[name] = dict(**about, **measure(network, fields, budget))
        save('design', dict(budget_pflop=budget, seed=0, variants=done))
