"Class activation maps and attention: values, labels, batches, bad input, and a network left as it was"
import copy
import warnings
from contextlib import contextmanager
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.core import PILImage
from matplotlib import pyplot as plt
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cifake.data.demo import demo_cifake
from cifake.data.loaders import cifake_dls
from cifake.data.loaders import test_dl as dl_of_test
from cifake.explain.layers import image_batches, lead_of, looking_at
from cifake.explain.maps import CAM_METHODS, _attention, _on_grid, _rollout, attention_maps, cam_maps, plot_maps
from cifake.models.registry import create_model
from cifake.serve.detector import load_pretrained
from cifake.training.learner import cifake_learner

ATTENTION = 'last', 'rollout', 'gradient_rollout'
close = partial(np.testing.assert_allclose, atol=1e-4)
near = partial(np.testing.assert_allclose, atol=1e-3)


@pytest.fixture(scope='module')
def learn(): return load_pretrained('fast')


@pytest.fixture(scope='module')
def vit(): return load_pretrained('vit')


@pytest.fixture(scope='module')
def few(): return sorted(demo_cifake().glob('test/*/*.jpg'))[::200]


@pytest.fixture(scope='module')
def gradcam(learn, few): return cam_maps(learn, few)


@pytest.fixture(scope='module')
def attention(vit, few): return {o: attention_maps(vit, few, o) for o in ATTENTION}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def with_model(learn, model):
    other = copy.copy(learn)
    other.model = model
    return other


# Class activation maps

@pytest.mark.parametrize('method', CAM_METHODS)
def test_maps_are_from_0_to_1_and_as_large_as_the_images(learn, few, method):
    found = cam_maps(learn, few, method)
    assert found.shape == (5,32,32)
    assert found.min() >= 0 and found.max() <= 1


def test_images_may_come_in_every_form(learn, few, gradcam):
    close(cam_maps(learn, PILImage.create(few[0])), gradcam[:1])
    close(cam_maps(learn, [np.asarray(PILImage.create(o)) for o in few], bs=4), gradcam)
    close(cam_maps(learn, pd.Series(few)), gradcam)


def test_a_loader_can_be_given():
    with_data = load_pretrained('fast', path=demo_cifake(n=200))
    dl = dl_of_test(with_data.dls)
    found = cam_maps(with_data, dl)
    assert len(found) == len(dl.items)
    near(found[:3], cam_maps(with_data, [o.file for o in dl.items[:3]]))


def test_gradcam_is_hirescam_before_average_pooling(learn, few):
    near(cam_maps(learn, few, layer='0.stages.2'), cam_maps(learn, few, 'hirescam', '0.stages.2'))


def test_the_predicted_label_is_explained_unless_another_is_named(learn, few, gradcam):
    with looking_at(learn) as model, torch.no_grad(): called = model(next(image_batches(learn, few))[1]).argmax(1)
    both = {o: cam_maps(learn, few, label=o) for o in learn.dls.vocab}
    close(np.stack([both[learn.dls.vocab[o]][i] for i, o in enumerate(called)]), gradcam)
    assert np.abs(both['FAKE'] - both['REAL']).max() > 0.1
    mixed = ['FAKE', 'REAL', 'REAL', 'FAKE', 'REAL']
    close(cam_maps(learn, few, label=mixed, bs=2), np.stack([both[o][i] for i, o in enumerate(mixed)]))


@pytest.mark.parametrize('labels', [None, ['FAKE']*5])
@pytest.mark.parametrize('wrap', [torch.no_grad, torch.inference_mode])
def test_gradients_are_on_whatever_the_caller_switched_off(learn, few, wrap, labels):
    expected = cam_maps(learn, few, label=labels)
    with wrap(): close(cam_maps(learn, few, label=labels), expected)


def test_training_mode_changes_no_map_and_stays(learn, few, gradcam):
    learn.model.train()
    try:
        close(cam_maps(learn, few), gradcam)
        assert all(o.training for o in learn.model.modules())
    finally: learn.model.eval()


@pytest.mark.parametrize('label', ['FAKE', 'REAL', None])
def test_one_sigmoid_output_has_the_maps_of_two_outputs(learn, few, label):
    "Of the two, that of FAKE is 0; the sigmoid may also be missing"
    torch.manual_seed(0)
    two, one = create_model('lenet'), create_model('lenet', sigmoid=True)
    with torch.no_grad():
        for a, b in zip(one.parameters(), two.parameters(), strict=True): a.copy_(b[-len(a):])
        two[-1].weight[0], two[-1].bias[0] = 0, 0
    bare = with_model(learn, one[0])
    with looking_at(bare) as model: assert model(next(image_batches(bare, few))[1]).shape == (5,1)
    expected = cam_maps(with_model(learn, two), few, 'hirescam', label=label)
    assert expected.std((1,2)).max() > 0
    for o in with_model(learn, one), bare:
        np.testing.assert_allclose(cam_maps(o, few, 'hirescam', label=label), expected, atol=1e-5)


@pytest.mark.parametrize(('arch', 'size', 'make'), [
    ('test_resnet', 64, cam_maps), ('test_vit', 160, cam_maps), ('test_vit', 160, attention_maps),
    ('lenet', 32, cam_maps)])
def test_networks_of_timm_and_ours_work_alike(few, arch, size, make):
    learn = cifake_learner(cifake_dls(demo_cifake(n=200), size=size, bs=16, num_workers=0), arch)
    assert make(learn, few).shape == (5,size,size)
    fused = [o.fused_attn for o in learn.model.modules() if hasattr(o, 'fused_attn')]
    assert all(fused) and bool(fused) == (arch == 'test_vit')


# Attention

def test_attention_maps_are_from_0_to_1(attention):
    for o in attention.values():
        assert o.shape == (5,32,32)
        assert o.min() >= 0 and o.max() <= 1


def test_attention_is_what_the_papers_define(vit, few, attention):
    with looking_at(vit) as model:
        x = next(image_batches(vit, few))[1]
        found, grads, _ = _attention(model, x.requires_grad_(), lead_of)
    assert (len(found), found[0].shape) == (6, (5,2,65,65))
    for o in found: close(o.sum(-1), np.ones((5,2,65)))
    close(_rollout(found, None, 'rollout').sum(-1), np.ones((5,65)))
    weights, slopes = (np.stack([p[1].detach().numpy() for p in o]) for o in (found, grads))  # of the second image
    rolled, relevant = np.eye(65), np.eye(65)
    for a, g in zip(weights, slopes, strict=True):
        rolled = (0.5*(a[0] + a[1])/2 + 0.5*np.eye(65)) @ rolled
        relevant = relevant + sum(np.maximum(a[h]*g[h], 0) for h in (0, 1))/2 @ relevant
    by_hand = dict(last=(weights[-1,0,0] + weights[-1,1,0])/2, rollout=rolled[0], gradient_rollout=relevant[0])
    for name, o in by_hand.items():
        near(scale_cam_image(o[None,1:].reshape(1,8,8), (32,32))[0], attention[name][1])


def test_gradient_rollout_explains_the_label_of_each_image(vit, few):
    mixed = attention_maps(vit, few, 'gradient_rollout', ['REAL', 'FAKE', 'FAKE', 'REAL', 'FAKE'], bs=2)
    for i, o in ((0, 'REAL'), (4, 'FAKE')): near(mixed[i], attention_maps(vit, few[i], 'gradient_rollout', o)[0])


@pytest.mark.parametrize('wrap', [torch.no_grad, torch.inference_mode])
def test_attention_has_gradients_in_training_mode_too(vit, few, attention, wrap):
    vit.model.train()
    try:
        with wrap(): near(attention_maps(vit, few, 'gradient_rollout'), attention['gradient_rollout'])
        assert all(o.training for o in vit.model.modules())
    finally: vit.model.eval()


# Networks that look at brightness alone: maps have to mark the bright patch

def bright_cnn(sign=1):
    net = nn.Sequential(nn.Conv2d(3, 1, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    for o in net.parameters(): nn.init.zeros_(o)
    nn.init.constant_(net[0].weight, 1/48)  # the mean of the patch
    net[4].weight.data = sign*torch.tensor([[1.], [-1.]])
    return net


def bright_vit(rows=8):
    "The first number of a token is brightness, the second marks the class token, the third is what it has gathered"
    net = VisionTransformer(img_size=(4*rows, 32), patch_size=4, embed_dim=8, depth=2, num_heads=1, num_classes=2,
                            pos_embed='none')
    for o in net.parameters(): nn.init.zeros_(o)
    net.norm, net.cls_token.data[...,1] = nn.Identity(), 1
    net.patch_embed.proj.weight.data[0] = 1/48
    for o in net.blocks:
        o.norm1 = nn.Identity()
        for row, column, value in ((0, 1, 8), (8, 0, 1), (16, 0, 1)):  # query, key, value
            o.attn.qkv.weight.data[row,column] = value
        o.attn.proj.weight.data[2,0] = 1
    net.head.weight.data[:,2] = torch.tensor([1., -1.])
    return net


class Upper(nn.Module):
    "The upper half of an image"
    def forward(self, x): return x[:,:,:16]


@pytest.fixture
def dark():
    "Black, with one bright patch in row 1 and column 5 of 8x8"
    image = np.zeros((32,32,3), np.uint8)
    image[4:8,20:24] = 255
    return image


def brightest(found): return tuple(int(o) for o in np.unravel_index(found[0].argmax(), (32,32)))


@pytest.mark.parametrize('make', [bright_cnn, bright_vit], ids=['convolution', 'transformer'])
@pytest.mark.parametrize('method', CAM_METHODS)
def test_class_activation_marks_the_evidence(learn, dark, make, method):
    found = cam_maps(with_model(learn, make()), dark, method, label='FAKE')
    marks = tuple(o//4 for o in brightest(found)) == (1, 5)
    if make is bright_vit and method == 'gradcam++': assert not marks  # it assumes activations that are never negative
    else: assert marks and found[0,4:8,20:24].mean() > 3*found[0].mean()


@pytest.mark.parametrize('method', ATTENTION)
def test_attention_marks_the_evidence(learn, dark, method):
    found = attention_maps(with_model(learn, bright_vit()), dark, method, 'FAKE')
    assert tuple(o//4 for o in brightest(found)) == (1, 5)
    assert found[0,4:8,20:24].mean() > 3*found[0].mean()


@pytest.mark.parametrize('make', [partial(cam_maps, label='FAKE'), attention_maps], ids=['Grad-CAM', 'attention'])
def test_patches_that_form_no_square(learn, dark, make):
    found = make(with_model(learn, nn.Sequential(Upper(), bright_vit(4))), dark)
    row, column = brightest(found)  # 4x8 patches, enlarged to 32x32
    assert (found.shape, row//8, column//4) == ((1,32,32), 1, 5)


def test_patches_that_form_no_grid_are_refused():
    odd = bright_vit(4)
    odd.dynamic_img_size, odd.patch_embed.strict_img_size = True, False
    with pytest.raises(ValueError, match='form no grid'): _on_grid(torch.rand(1, 33, 33), odd, (32,32))


def test_maps_without_evidence_give_a_warning(learn, dark):
    with pytest.warns(UserWarning, match='All 1 maps'): cam_maps(with_model(learn, bright_cnn(-1)), dark, label='FAKE')


def test_maps_with_evidence_give_none(learn, dark):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        cam_maps(with_model(learn, bright_cnn()), dark, label='FAKE')


# Bad input

@pytest.mark.parametrize(('kwargs', 'message'), [
    (dict(layer='stages.9'), 'are: 0.stem, 0.stages.0.down, '), (dict(method='grad'), 'one of gradcam'),
    (dict(label=['FAKE']*4), '4 labels for 5'), (dict(label='fake'), 'one of FAKE, REAL'),
    (dict(bs=0), '`bs` is 0')], ids=lambda o: next(iter(o)) if isinstance(o, dict) else '')
def test_bad_arguments_of_cam_maps_are_refused(learn, few, kwargs, message):
    with pytest.raises(ValueError, match=message): cam_maps(learn, few, **kwargs)


def test_bad_arguments_of_attention_maps_are_refused(learn, vit, few):
    with pytest.raises(ValueError, match='`bs` is 0'): attention_maps(vit, few, bs=0)
    with pytest.raises(ValueError, match='rollout, last'): attention_maps(vit, few, 'roll')
    with pytest.raises(ValueError, match='use `cam_maps`'): attention_maps(learn, few)


def test_no_image_is_refused(learn, vit):
    for make, net in (cam_maps, learn), (attention_maps, vit):
        with pytest.raises(ValueError, match='selection is empty'): make(net, [])


def test_layers_that_cannot_have_a_map_are_refused(learn, vit, few):
    flat = with_model(learn, nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)))
    with pytest.raises(ValueError, match='No layer of Sequential has positions'): cam_maps(flat, few)
    with pytest.raises(ValueError, match='No layer of Sequential has positions'): cam_maps(flat, few, layer='0')
    with pytest.raises(ValueError, match='There is no layer'): cam_maps(vit, few, layer='0.blocks.5.attn.attn_drop')
    with pytest.raises(ValueError, match='No gradient'): cam_maps(vit, few, layer='0.blocks.5')


# Drawing

def test_maps_of_another_number_are_not_drawn(few, gradcam):
    with pytest.raises(ValueError, match='there are 5 images'): plot_maps(few, gradcam[:4])


def test_pictures_are_brought_to_the_size_of_their_maps(few, gradcam):
    axs = plot_maps(PILImage.create(few[0]).resize((64,64)), gradcam[:1])
    assert axs[1,0].images[0].get_array().shape == (32,32)


# The network is as it was, also after an error in the middle: no hook, no gradient, no mode stays

def state_of(model):
    def hooks(o): return [len(o._forward_hooks), len(o._forward_pre_hooks), len(o._backward_hooks)]
    return [(o.training, vars(o).get('inplace'), vars(o).get('fused_attn'), hooks(o),
             [p.requires_grad for p in o.parameters()]) for o in model.modules()]


@contextmanager
def breaking(module, call):
    "An error at this call of `module`, and at each after it"
    calls = []
    def hook(*args):
        calls.append(1)
        if len(calls) >= call: raise RuntimeError('in the middle')
    handle = module.register_forward_hook(hook)
    try: yield
    finally: handle.remove()


@pytest.fixture
def kept(monkeypatch):
    "CAM objects that are kept, so that their `__del__` cannot remove hooks in our place"
    objects = []
    class Kept(GradCAM):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            objects.append(self)
    monkeypatch.setitem(CAM_METHODS, 'gradcam', Kept)
    return objects


def test_class_activation_leaves_the_network_as_it_was(learn, few, kept):
    before = state_of(learn.model)
    with pytest.raises(RuntimeError, match='in the middle'), breaking(learn.model[0].head, 3):
        cam_maps(learn, few, layer='0.stages.0', bs=2)  # call 1 lists layers, 3 is the second batch
    assert (len(kept), kept[0].outputs.shape) == (1, (2,2))
    assert state_of(learn.model) == before
    cam_maps(learn, few)
    assert len(kept) == 2
    assert state_of(learn.model) == before
    assert [o.grad for o in learn.model.parameters() if o.grad is not None] == []


@pytest.mark.parametrize('make', [
    partial(cam_maps, layer='0.blocks.0'), partial(attention_maps, method='last'),
    partial(attention_maps, method='gradient_rollout')], ids=['Grad-CAM', 'last', 'gradient_rollout'])
def test_a_transformer_is_as_it_was(vit, few, make):
    before = state_of(vit.model)
    with pytest.raises(RuntimeError, match='in the middle'), breaking(vit.model[0].blocks[5].attn.attn_drop, 3):
        make(vit, few, bs=1)
    assert state_of(vit.model) == before
    make(vit, few)
    assert state_of(vit.model) == before
