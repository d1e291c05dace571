"Our own networks: outputs, gradients, last layers, and what is refused"
import pytest
import torch
from fastcore.test import test_close as assert_close
from torch.nn import Linear
from torch.nn.functional import unfold

from cifake.data.demo import demo_cifake
from cifake.data.loaders import memory_dls
from cifake.models.networks import (
    BirdLotfiCNN,
    Conv3x3,
    FoldObjects,
    OneSigmoid,
    WhitenedConv,
    build_network,
    count_outputs,
    end_network,
    fold_objects,
    is_own,
    own_networks,
)


@pytest.fixture(scope='module')
def images(): return memory_dls(demo_cifake(n=200), bs=256).one_batch()[0].cpu().as_subclass(torch.Tensor)


def test_whitened_directions_have_one_variance_and_no_covariance(images):
    layer = WhitenedConv(32)
    layer.fit(images)
    patches = unfold(images, 3).transpose(1, 2).flatten(0, 1)
    white = (patches @ layer.whiten.T).T.cov()
    assert (white - torch.diag(white.diagonal())).abs().max() < 0.02
    variance = torch.linalg.eigvalsh(patches.double().T.cov())
    assert_close(white.diagonal().sort().values, variance/(variance + 5e-4), eps=0.02)


def test_whitening_and_convolution_are_one(images):
    layer = WhitenedConv(32)
    layer.fit(images)
    expected = torch.einsum('npk,ok->nop', unfold(images, 3).transpose(1, 2) @ layer.whiten.T, layer.weight)
    assert (layer(images)[..., 1:-1, 1:-1].flatten(2) - expected).abs().max() < 1e-3


def gradients(layer, x):
    with torch.autocast('cpu', torch.bfloat16): out = layer(x)
    weighted = out.float()*torch.arange(16).view(4, 4).sin()
    return out.detach(), *torch.autograd.grad(weighted.sum(), [x, layer.weight])


def test_the_gradient_of_rows_is_that_of_images():
    torch.manual_seed(0)
    layer, x = Conv3x3(6, 5), torch.randn(6, 6, 4, 4, requires_grad=True)
    for a, b in zip(gradients(layer.train(), x), gradients(layer.eval(), x), strict=True):
        assert (a - b).abs().max() < 0.02*b.abs().max()


def test_rows_are_for_training_in_bfloat16_alone():
    layer, x = Conv3x3(6, 5), torch.randn(6, 6, 4, 4, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        assert 'RowConv' in layer.train()(x).grad_fn.name()
        assert 'RowConv' not in layer.eval()(x).grad_fn.name()
    assert 'RowConv' not in layer.train()(x).grad_fn.name()  # float32


@pytest.mark.parametrize('layers', [1, 2, 3])
@pytest.mark.parametrize('filters', [16, 32, 64, 128])
def test_every_topology_of_the_paper_has_one_output(layers, filters):
    assert BirdLotfiCNN(layers=layers, filters=filters)(torch.zeros(2, 3, 32, 32)).shape == (2, 1)


def test_a_topology_has_the_dense_layers_that_are_asked_for():
    assert BirdLotfiCNN(dense_layers=3, neurons=32)(torch.zeros(2, 3, 64, 64)).shape == (2, 1)
    assert [o.out_features for o in BirdLotfiCNN(dense_layers=2) if isinstance(o, Linear)] == [64, 64, 1]


@pytest.mark.parametrize('name', ['cifakenet', 'lenet', 'birdlotficnn', 'mlp'])
@pytest.mark.parametrize('side', [32, 64])
def test_networks_take_images_of_any_size(name, side):
    assert name in own_networks() and is_own(name)
    assert build_network(name).eval()(torch.zeros(2, 3, side, side)).shape == (2, 2)


def test_networks_of_others_are_not_ours(): assert not is_own('resnet18')


@pytest.mark.parametrize('way, outputs, kind', [
    (dict(), 2, None), (dict(sigmoid=True), 1, OneSigmoid), (dict(objects=10), 20, FoldObjects)], ids=str)
def test_a_network_ends_as_its_outputs_ask_for(way, outputs, kind):
    model = Linear(3, count_outputs(**way))
    assert model.out_features == outputs
    ended = end_network(model, **way)
    assert ended is model if kind is None else isinstance(ended[1], kind)
    assert ended.eval()(torch.zeros(4, 3)).shape == (4, 2)


def test_objects_are_folded_outside_of_training_alone():
    pairs = torch.randn(4, 20)
    layer = FoldObjects()
    assert torch.equal(layer.train()(pairs), pairs)
    assert torch.equal(layer.eval()(pairs), fold_objects(pairs))
    assert_close(fold_objects(pairs).softmax(1), pairs.softmax(1).view(4, 2, 10).sum(2), eps=1e-6)


def test_what_a_network_does_not_have_is_refused():
    with pytest.raises(ValueError, match='There are: layers, filters'): build_network('birdlotficnn', depth=3)
    with pytest.raises(ValueError, match='There are: none'): build_network('lenet', depth=3)
    with pytest.raises(ValueError, match='One sigmoid'): build_network('lenet', sigmoid=True, objects=10)
