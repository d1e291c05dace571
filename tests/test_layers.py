"What maps need from a network: layers with positions, leads of labels, and a network left as it was"
import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from cifake.explain.layers import (
    _channels_by_shape,
    default_layer,
    image_batches,
    label_positions,
    lead_of,
    looking_at,
    map_layers,
)
from cifake.serve.detector import load_pretrained


@pytest.fixture(scope='module')
def learn(): return load_pretrained('fast')


@pytest.fixture(scope='module')
def vit(): return load_pretrained('vit')


@pytest.fixture(scope='module')
def layers(learn): return map_layers(learn)


@pytest.fixture(scope='module')
def places(vit): return map_layers(vit)


def layers_of(learn, name, size):
    "Layers of a small network of timm at images of `size`"
    other = copy.copy(learn)
    other.model = timm.create_model(name, num_classes=2)
    return map_layers(other, size)


OUTPUTS = torch.tensor([[1., 3.], [5., 1.]])


@pytest.mark.parametrize(('label', 'lead'), [(None, [2., 4.]), ('REAL', [2., -4.]), (['FAKE', 'REAL'], [-2., -4.])])
def test_lead_is_that_of_the_label_asked_for(learn, label, lead):
    assert lead_of(OUTPUTS, label_positions(learn, label, 2)).tolist() == lead


def test_wrong_labels_are_refused(learn):
    with pytest.raises(ValueError, match='4 labels for 5'): label_positions(learn, ['FAKE']*4, 5)
    with pytest.raises(ValueError, match='one of FAKE, REAL'): label_positions(learn, 'fake', 5)


def test_a_batch_has_at_least_one_image(learn):
    with pytest.raises(ValueError, match='`bs` is 0'): next(image_batches(learn, np.zeros((32,32,3), np.uint8), bs=0))


def test_batches_say_which_images_they_hold(learn):
    parts = [(part, len(x)) for part, x in image_batches(learn, np.zeros((5,32,32,3), np.uint8), bs=2)]
    assert parts == [(slice(0, 2), 2), (slice(2, 4), 2), (slice(4, 5), 1)]


def test_default_layer_has_8x8_positions(learn, vit):
    assert (default_layer(learn), default_layer(vit)) == ('0.stages.0', '0.blocks.5.norm1')


def test_default_layer_with_more_positions(learn, layers):
    assert default_layer(learn, least=9) == '0.stem'
    largest = layers.layer[layers.height == 32].iloc[-1]
    assert default_layer(learn, least=99) == largest  # none has 99x99


def test_layers_of_a_convolutional_network(layers):
    assert set(layers[layers.layer.isin(['0.stages.0', '0.stages.1'])].height) == {8, 4}


@pytest.mark.parametrize(('layer', 'shape'), [
    ('patch_embed.backbone.1', (32,16,16)), ('patch_embed.backbone.4', (96,8,8)), ('patch_embed.proj', (128,8,8)),
    ('blocks.0', (128,8,8)), ('blocks.5.norm1', (128,8,8)), ('blocks.3.mlp.fc1', (512,8,8))])
def test_layers_of_a_transformer(places, layer, shape):
    found = places.set_index('layer').loc[f'0.{layer}', ['channels', 'height', 'width']]
    assert tuple(found) == shape


def test_a_matrix_of_attention_is_no_picture(learn, places):
    assert not places.layer.str.contains('attn_drop|q_norm|k_norm').any()
    tokens = layers_of(learn, 'test_vit', 160)  # 101 tokens: a square of them would pass for a picture
    assert not tokens.layer.str.contains('attn_drop').any()
    assert (set(tokens.height), set(tokens.width)) == ({10}, {10})


def test_channels_last_is_seen_by_the_proportions(learn, places):
    convnext = layers_of(learn, 'test_convnext', 64)
    fc1 = convnext[convnext.layer.str.endswith('mlp.fc1')].iloc[0]
    assert fc1.channels > fc1.height > 1
    for o in places, convnext: assert (o.height == o.width).all()


def test_wide_images_have_wide_layers(learn):
    convnext = layers_of(learn, 'test_convnext', 64)
    wide = layers_of(learn, 'test_convnext', (64,128))
    assert (wide.width == 2*wide.height).all()
    known = wide.layer.tolist()  # all but what is 8x16x32: both orders have the proportions of the image
    assert 0.95 < len(known)/len(convnext) < 1
    assert wide.channels.tolist() == convnext.set_index('layer').loc[known, 'channels'].tolist()


@pytest.mark.parametrize(('shape', 'mixed'), [((1,8,8,8), True), ((1,65,65,2), False)])
def test_an_ambiguous_shape_has_no_channels(shape, mixed): assert _channels_by_shape(shape, (32,32), mixed) is None


@pytest.mark.parametrize('error', [None, RuntimeError])
def test_a_network_that_was_looked_at_is_as_it_was(learn, error):
    net = nn.Sequential(nn.Conv2d(3, 1, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(1))
    net[0].bias.requires_grad_(False)
    net[2].eval()
    other = copy.copy(learn)
    other.model = net.train(False).train()
    net[2].eval()
    def state(): return [(o.training, vars(o).get('inplace')) for o in net.modules()]
    before = state(), [o.requires_grad for o in net.parameters()]
    try:
        with torch.no_grad(), looking_at(other) as model:
            assert torch.is_grad_enabled() and not any(o.training for o in model.modules()) and not net[1].inplace
            assert not any(o.requires_grad for o in net.parameters())
            if error: raise error
    except RuntimeError: pass
    assert (state(), [o.requires_grad for o in net.parameters()]) == before
