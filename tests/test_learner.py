"Learner: bodies, heads and weights of every source, and the network of every recipe"
from copy import deepcopy
from unittest.mock import patch

import pytest
import timm
import torch
import torchvision
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import BCEWithLogitsLossFlat
from fastai.metrics import accuracy
from safetensors.torch import load_file

from cifake.data.core import LABELS
from cifake.data.demo import demo_cifake
from cifake.data.loaders import cifake_dls, memory_dls
from cifake.measure.evaluate import evaluate
from cifake.training.callbacks import CPUBFloat16
from cifake.training.learner import (
    blank_dls,
    cifake_learner,
    find_lr,
    network_of,
    recipe_learner,
    recipe_loaders,
    stats_of,
)
from cifake.training.recipes import get_recipe, list_recipes


def blank(size=32): return blank_dls(size)


def test_the_body_has_the_weights_of_the_file_and_its_statistics(resnet_weights):
    dls = blank()
    learn = cifake_learner(dls, 'test_resnet', weights_path=resnet_weights)
    body = learn.model[0].model.state_dict()
    given = load_file(resnet_weights)
    assert all(torch.equal(v.cpu(), given[k]) for k, v in body.items())
    assert stats_of(dls)[0] == pytest.approx(timm.create_model('test_resnet').default_cfg['mean'], abs=1e-6)


def test_torchvision_s_weights_come_from_a_file_too(tmp_path):
    other = torchvision.models.squeezenet1_1(num_classes=1000)
    torch.save(other.state_dict(), tmp_path/'squeeze.pth')
    learn = cifake_learner(blank(64), 'squeezenet1_1', weights_path=tmp_path/'squeeze.pth')
    assert torch.equal(next(learn.model[0].parameters()).data.cpu(), next(other.parameters()).data)


def test_weights_of_another_network_are_refused(resnet_weights):
    with pytest.raises(ValueError, match='does not fit'):
        cifake_learner(blank(), 'test_vit', weights_path=resnet_weights)


def test_a_missing_file_of_weights_is_named(resnet_weights):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        cifake_learner(blank(), 'test_resnet', weights_path=resnet_weights.with_name('gone.safetensors'))


def test_a_misspelt_network_is_refused():
    with pytest.raises(ValueError, match='no architecture'): cifake_learner(blank(), 'resnet_26d')


def test_arguments_of_a_constructor_need_a_whole_network():
    with pytest.raises(ValueError, match='constructor'):
        cifake_learner(blank(), 'test_resnet', model_args=dict(drop_rate=0.1))


def test_a_body_whose_end_is_not_known_is_refused():
    with pytest.raises(ValueError, match='where the body of'): cifake_learner(blank(), 'vit_b_16')


def test_one_sigmoid_has_no_objects():
    with pytest.raises(ValueError, match='One sigmoid'): cifake_learner(blank(), objects=True, sigmoid=True)


OFFLINE = OSError('no network'), type('ConnectError', (Exception,), dict(__module__='httpx'))()


@pytest.mark.parametrize('error', OFFLINE)
@pytest.mark.parametrize('arch, loader, published', [
    ('resnet26d', 'timm.models._builder.load_pretrained', 'huggingface.co/timm/resnet26d.bt_in1k'),
    ('squeezenet1_1', 'torchvision.models._api.load_state_dict_from_url', 'squeezenet1_1-b8a52dc0.pth')])
def test_without_a_connection_the_place_of_the_weights_is_named(arch, loader, published, error):
    with patch(loader, side_effect=error):
        with pytest.raises(ConnectionError, match=f'{published}: name a copy in `weights_path`'):
            cifake_learner(blank(64), arch, pretrained=True)


def test_other_errors_pass_as_they_are():
    with patch('timm.models._builder.load_pretrained', side_effect=KeyError('a mistake')), pytest.raises(KeyError):
        cifake_learner(blank(64), 'resnet26d', pretrained=True)


def test_vgg_s_own_head_is_not_carried_along():
    vgg = cifake_learner(blank(), 'vgg16', head='dense', sigmoid=True, hidden=8)
    assert sum(p.numel() for p in vgg.model.parameters()) < 15e6
    with torch.no_grad(): assert vgg.model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def test_loaders_of_another_normalisation_are_refused(resnet_weights):
    dls = memory_dls(demo_cifake(n=60), bs=16)
    with pytest.raises(ValueError, match='these weights expect'):
        cifake_learner(dls, 'test_resnet', weights_path=resnet_weights)


@pytest.mark.parametrize('arch', ['cifakenet', 'test_resnet'])
def test_random_weights_take_any_normalisation(arch):
    dls = memory_dls(demo_cifake(n=60), bs=16)
    own = stats_of(dls)
    cifake_learner(dls, arch)
    assert stats_of(dls) == own


@pytest.mark.parametrize('cbs', [Callback(), [Callback()], Callback], ids=['one', 'list', 'class'])
def test_callbacks_come_one_or_many(cbs):
    learn = cifake_learner(blank(), 'lenet', cbs=cbs, normalize=False)
    assert sum(type(o) is Callback for o in learn.cbs) == 1


def test_normalisation_is_left_alone_where_asked():
    dls = blank()
    cifake_learner(dls, 'lenet', normalize=False)
    assert stats_of(dls) is None


def test_a_search_for_a_rate_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    learn = cifake_learner(memory_dls(demo_cifake(n=60), bs=16, stats=None), 'lenet')
    before = learn.model[0].weight.detach().clone()
    rate = find_lr(learn, plot=False, start_lr=1e-5, num_it=10)
    assert torch.equal(learn.model[0].weight.data, before) and learn.history.rows == []
    assert 1e-5 < rate < 100 and not list(tmp_path.iterdir())


class Failing(Callback):
    "Raise `error` in the ninth training step"
    order = 1
    def __init__(self, error):
        self.error = error
        self.left = 8
    def after_backward(self):
        self.left -= 1
        if self.left < 0: raise self.error('in a step')


@pytest.fixture(params=[RuntimeError, KeyboardInterrupt])
def failed(request, tmp_path, monkeypatch):
    "What a search for a rate did to a trained learner when it failed, and the learner's weights before"
    def fail(search):
        monkeypatch.chdir(tmp_path)
        learn = cifake_learner(memory_dls(demo_cifake(n=60), bs=16, stats=None), 'cifakenet')
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        kept = deepcopy(learn.model.state_dict()), deepcopy(learn.opt.state_dict())
        cb = Failing(request.param)
        with pytest.raises(request.param), learn.added_cbs(cb): search(learn)
        return learn, kept
    return fail


SEARCHES = [lambda o: find_lr(o, plot=False), lambda o: o.lr_find(show_plot=False)]


@pytest.mark.parametrize('search', SEARCHES)
def test_a_search_that_fails_gives_everything_back(failed, search):
    learn, (weights, optimizer) = failed(search)
    assert all(torch.equal(v, weights[k]) for k, v in learn.model.state_dict().items())
    for now, before in zip(learn.opt.state_dict()['state'], optimizer['state'], strict=True):
        assert all(torch.equal(torch.as_tensor(now[k]), torch.as_tensor(v)) for k, v in before.items())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(learn.history.rows) == 2


def test_an_error_leaves_no_gradients_and_no_autocast():
    learn = cifake_learner(memory_dls(demo_cifake(n=60), bs=16, stats=None), 'lenet')
    learn.remove_cbs(CPUBFloat16)
    learn.add_cbs([Failing(RuntimeError), CPUBFloat16()])
    with learn.no_bar(), learn.no_logging(), pytest.raises(RuntimeError): learn.fit(3)
    assert not torch.is_autocast_enabled('cpu') and all(o.run for o in learn.cbs)
    assert all(o.grad is None or not o.grad.any() for o in learn.model.parameters())


def test_losses_that_suggest_no_rate_are_told():
    learn = cifake_learner(memory_dls(demo_cifake(n=60), bs=16, stats=None), 'lenet')
    with torch.no_grad(): learn.model[0].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match='suggests no learning rate: set `lr`'): find_lr(learn, plot=False)


@pytest.mark.slow
@pytest.mark.parametrize('name', list_recipes())
def test_every_recipe_makes_its_network(name):
    "From random weights; with one or two outputs it says P(FAKE) and P(REAL)"
    recipe = get_recipe(name, pretrained=False)
    side = 224 if recipe.arch.startswith('vit') else 32
    model = recipe_learner(blank(side), recipe, 0).model.eval()
    with torch.no_grad(): assert model(torch.zeros(1, 3, side, side)).shape == (1, 2)


def test_keras_s_last_30_layers_are_trained(tmp_path):
    "MobileNetV2 has no pooling layer; its weights come from a file"
    mobile = torchvision.models.mobilenet_v2()
    torch.save(mobile.state_dict(), tmp_path/'mobile.pth')
    recipe = get_recipe('mobilenetv2-160', size=32)
    learn = recipe_learner(blank(), recipe, 0, pretrained=True, weights_path=tmp_path/'mobile.pth')
    body = learn.model[0][0]
    for a, b in zip(body.state_dict().values(), mobile.features.state_dict().values(), strict=True):
        assert torch.equal(a.cpu(), b)
    trained = {k for k, o in body.named_parameters() if o.requires_grad}
    first = [o for o in mobile.features.state_dict() if o.startswith('14.conv.3')][:2]
    assert trained == {*first, *(k for k, _ in mobile.features.named_parameters() if int(k.split('.')[0]) > 14)}
    assert all(o.requires_grad for o in learn.model[1].parameters())


@pytest.mark.parametrize('arguments', [
    dict(arch='test_resnet'), dict(arch='test_vit', head='dense', hidden=16, sigmoid=True),
    dict(arch='squeezenet1_1', objects=True), dict(arch='birdlotficnn', sigmoid=True, model_args=dict(filters=16))],
    ids=lambda o: o['arch'])
def test_a_network_is_made_again_from_its_description(arguments):
    first = cifake_learner(blank(160), normalize=False, **arguments)
    def shapes(model): return [(k, o.shape) for k, o in model.state_dict().items()]
    assert shapes(network_of(first.network, 160)) == shapes(first.model)


def test_small_sets_get_small_batches():
    dls, fitted = recipe_loaders(demo_cifake(n=200), get_recipe('quick'))
    assert dls.train.bs == fitted.bs < get_recipe('quick').bs and stats_of(dls) is None


class Bare(torch.nn.Module):
    "The one output of a network that ends in `OneSigmoid`"
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, x): return self.model(x)[:, 1:]


@pytest.fixture(scope='module')
def single():
    torch.manual_seed(0)
    dls = cifake_dls(demo_cifake(n=200), bs=64, stats=None, num_workers=0)
    return cifake_learner(dls, 'birdlotficnn', sigmoid=True, precision='float32')


def test_fastai_reads_one_output_with_our_zero_rightly(single):
    with single.no_bar(): shown = single.validate()[1]
    assert abs(shown - evaluate(single, split='valid', threshold=0.5).accuracy) < 1e-6


def test_fastai_calls_everything_fake_without_it(single):
    bare = Learner(single.dls, Bare(single.model), BCEWithLogitsLossFlat(), metrics=accuracy)
    with bare.no_bar(): shown = bare.validate()[1]
    items = single.dls.valid.items
    assert abs(shown - sum(o.label == 'FAKE' for o in items)/len(items)) < 1e-6


def test_a_bare_output_of_fastai_is_measured_by_the_same_rule(single):
    bare = Learner(single.dls, Bare(single.model), BCEWithLogitsLossFlat(), metrics=accuracy)
    ours, theirs = (evaluate(o, demo_cifake(n=200)) for o in (single, bare))
    assert theirs.predictions.p_fake.to_numpy() == pytest.approx(ours.predictions.p_fake.to_numpy(), abs=1e-4)
    assert theirs.auc == pytest.approx(ours.auc, abs=1e-4)
    assert set(ours.predictions.label) == set(LABELS)


@pytest.mark.parametrize('change', [dict(window=24), dict(multi_scale=0.5)], ids=lambda o: next(iter(o)))
def test_windows_that_a_network_does_not_take_are_refused(change):
    recipe = get_recipe('lenet', arch='test_vit_relpos', **change)
    with pytest.raises(ValueError, match=f'`{next(iter(change))}` of recipe .* leave'):
        recipe_learner(blank(), recipe, 0, normalize=False)
    assert recipe_learner(blank(), get_recipe('lenet', arch='cifakenet', **change), 0, normalize=False)


@pytest.mark.parametrize('head', ['fastai', 'dense', 'own'])
def test_a_transformer_for_larger_images_is_described_for_its_own_size(head):
    first = cifake_learner(blank(), 'test_vit_relpos', head=head, normalize=False)
    again = network_of(first.network, 32)
    again.load_state_dict(first.model.state_dict())
    assert again.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_a_size_that_a_network_does_not_take_is_refused():
    for head in ('fastai', 'own'):
        with pytest.raises(ValueError, match='size=75'): cifake_learner(blank(), 'inception_v3', head=head)
