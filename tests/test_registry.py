"The registry: one name for each network, and weights that fit wholly or not at all"
import pytest
import torch
from safetensors.torch import save_file

from cifake.models.networks import CifakeNet
from cifake.models.registry import (
    CifakeViT,
    create_model,
    current_name,
    list_models,
    load_weights,
    model_source,
    read_weights,
)

IMAGES = torch.zeros(2, 3, 64, 64)


@pytest.fixture(scope='module')
def net(): return CifakeNet()


@pytest.fixture
def renamed(net, tmp_path):
    "Weights of `net` under other names, in the same order"
    torch.save({f'my_{k}': v for k, v in net.state_dict().items()}, tmp_path/'renamed.pth')
    return tmp_path/'renamed.pth'


def test_the_transformer_has_65_tokens():
    assert CifakeViT().forward_features(torch.randn(2, 3, 32, 32)).shape == (2, 65, 128)


def test_names_are_many_and_unique():
    assert len(list_models()) > 1000 and len(set(list_models())) == len(list_models())
    assert list_models('no-such-*') == []


def test_a_name_that_resembles_none_is_sent_to_the_list():
    with pytest.raises(ValueError, match='See `list_models'): model_source('%%%%%%%%%%')


@pytest.mark.parametrize('name, today', [
    ('convnext_tiny_in22k', 'convnext_tiny.fb_in22k'), ('resnet18.a1_in1k', 'resnet18.a1_in1k'),
    ('hf-hub:timm/resnet18.a1_in1k', 'resnet18.a1_in1k'), (' squeezenet1_1 ', 'squeezenet1_1')])
def test_old_and_tagged_names_are_understood(name, today):
    assert current_name(name) == today


@pytest.mark.parametrize('name, near', [
    ('efficientnet-b0', 'efficientnet_b0'), ('ResNet18', 'resnet18'), ('vit_base_patch16', 'vit_base_patch16'),
    ('CifakeNet', 'cifakenet'), ('resnet18.a1', 'resnet18.a1_in1k')])
def test_a_misspelt_name_is_answered_by_the_nearest(name, near):
    with pytest.raises(ValueError, match=near): model_source(name)


def test_a_function_in_place_of_a_name_is_told():
    with pytest.raises(ValueError, match="give its name, such as 'resnet18'"): model_source(CifakeNet)


def test_every_name_in_the_list_is_its_own():
    assert all(current_name(o) == o for o in list_models())


def test_an_argument_that_a_library_does_not_know_is_told():
    with pytest.raises(ValueError, match="cannot be built with {'depht': 2}"): create_model('test_vit', depht=2)


def test_weights_under_other_names_are_taken_in_their_order(net, renamed):
    other = CifakeNet()
    assert load_weights(other, renamed) == []
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), net.state_dict().values(), strict=True))
    assert load_weights(CifakeNet(n_out=10), renamed, head='head') == ['head.3.weight', 'head.3.bias']
    narrow = CifakeNet(widths=(64, 128, 192))
    with pytest.raises(ValueError, match='does not fit this network'): load_weights(narrow, renamed)


def test_weights_in_pytorchs_format_fit(net, tmp_path):
    torch.save(net.state_dict(), tmp_path/'net.pth')
    assert load_weights(CifakeNet(), tmp_path/'net.pth') == []
    torch.save(dict(state_dict=net.state_dict(), epoch=3), tmp_path/'checkpoint.pth')
    assert load_weights(CifakeNet(), tmp_path/'checkpoint.pth') == []


def test_files_that_are_no_weights_are_refused(net, tmp_path):
    torch.save(net, tmp_path/'code.pth')  # a pickled network would run code on loading
    (tmp_path/'text.safetensors').write_text('no tensors')
    for name in ('code.pth', 'text.safetensors'):
        with pytest.raises(ValueError, match='read safely'): read_weights(tmp_path/name)
    torch.save([1, 2], tmp_path/'list.pth')
    with pytest.raises(ValueError, match='no table of tensors'): read_weights(tmp_path/'list.pth')
    with pytest.raises(FileNotFoundError, match='does not exist'): read_weights(tmp_path/'gone.pth')


@pytest.mark.parametrize('name', ['cifakenet', 'test_resnet', 'squeezenet1_1'])
def test_objects_are_told_apart_in_training_alone(name):
    both = create_model(name, objects=10)
    assert [both.train()(IMAGES).shape[1], both.eval()(IMAGES).shape[1]] == [20, 2]
    assert create_model(name, sigmoid=True).eval()(IMAGES)[:, 0].tolist() == [0, 0]


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match='One sigmoid'): create_model('lenet', sigmoid=True, objects=10)
    with pytest.raises(ValueError, match='no ImageNet weights'): create_model('cifakenet', pretrained=True)
    with pytest.raises(ValueError, match='use `cifake_learner`'): create_model('squeezenet1_1', pretrained=True)


def test_of_other_weights_all_but_the_last_layer_is_taken(tmp_path):
    save_file(create_model('test_resnet', n_out=1000).state_dict(), tmp_path/'timm.safetensors')
    theirs = read_weights(tmp_path/'timm.safetensors')
    mine = create_model('test_resnet', weights_path=tmp_path/'timm.safetensors').state_dict()
    same = {k for k in mine if mine[k].shape == theirs[k].shape and torch.equal(mine[k], theirs[k])}
    assert sorted(set(mine) - same) == ['fc.bias', 'fc.weight']
