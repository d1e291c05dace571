"Sizes: networks built for the size where they can be, else refused with the smallest"
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from cifake.models.bodies import with_new_head
from cifake.models.registry import create_model, dense_head, network_size_arguments, weights_converter
from cifake.models.sizes import size_arguments, smallest_size

BUILT = ['vit_tiny_patch16_224', 'swin_tiny_patch4_window7_224', 'beit_base_patch16_224', 'maxvit_tiny_rw_224',
         'cait_xxs24_224', 'eva02_tiny_patch14_224', 'vit_b_16']
AS_THEY_ARE = ['cifakenet', 'cifakevit', 'lenet', 'mlp', 'resnet18', 'convnext_atto', 'vgg11', 'googlenet',
               'mvitv2_tiny', 'regnet_y_400mf']
TOO_LARGE = {'inception_v3': 75, 'alexnet': 63, 'maxvit_t': 221, 'deepseek_vit_412m': 42}


@pytest.mark.parametrize('name', BUILT)
def test_a_network_is_built_for_the_size(name):
    assert network_size_arguments(name, 32) in [dict(img_size=32), dict(image_size=32), dict(input_size=(32, 32))]


@pytest.mark.parametrize('name', AS_THEY_ARE)
def test_a_network_that_takes_the_size_is_left_alone(name):
    assert network_size_arguments(name, 32) == {}


@pytest.mark.parametrize('name', TOO_LARGE)
def test_a_network_that_does_not_is_refused_with_the_smallest_size(name):
    with pytest.raises(ValueError, match=f'size={TOO_LARGE[name]}'): network_size_arguments(name, 32)
    assert network_size_arguments(name, TOO_LARGE[name]) == {}


def test_tiny_images_are_refused_by_what_halves_them():
    with pytest.raises(ValueError, match='smallest that fits'): network_size_arguments('convnext_atto', 8)


def test_arguments_that_are_given_are_kept():
    assert network_size_arguments('vit_tiny_patch16_224', 32, img_size=32, patch_size=4, depth=2) == {}


def test_random_numbers_are_not_used_up():
    state = torch.random.get_rng_state()
    network_size_arguments('test_vit', 32)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_network_that_cannot_be_tried_is_let_through():
    class Net(torch.nn.Module):
        def forward(self, x): return x.mean().item() + x.flatten(1)[:, :2]
    assert size_arguments(Net, 'net', 32) == {}


def test_no_size_fits_where_none_does():
    assert smallest_size(lambda size: False, 32, 64) is None
    assert smallest_size(lambda size: size == 42 or size >= 56, 32, 64) == 42


TINY = ['test_vit_relpos', 'test_maxvit', 'test_resnet', 'squeezenet1_1', 'googlenet']


@pytest.mark.parametrize('dense', [None, lambda n: dense_head(n, 2, hidden=8)], ids=['fastai', 'dense'])
@pytest.mark.parametrize('name', TINY)
def test_a_new_head_fits_the_body_in_training_too(name, dense):
    model, _ = with_new_head(name, 2, 32, dense=dense)
    assert model.train()(torch.zeros(4, 3, 32, 32)).shape == (4, 2)


@pytest.mark.parametrize('name', TINY)
def test_a_whole_network_has_one_output_in_training_too(name):
    assert create_model(name, size=32).train()(torch.zeros(4, 3, 32, 32)).shape == (4, 2)


def test_weights_of_another_size_are_resampled(tmp_path):
    file = tmp_path/'vit.safetensors'
    save_file(create_model('test_vit_relpos', n_out=1000).state_dict(), file)
    small = create_model('test_vit_relpos', weights_path=file, size=32)
    assert small.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    assert with_new_head('test_vit_relpos', 2, 32, weights_path=file)


def test_auxiliary_weights_in_a_file_are_passed_over(tmp_path):
    whole = torchvision.models.googlenet(num_classes=2, init_weights=False)
    save_file(whole.state_dict(), tmp_path/'googlenet.safetensors')
    model = create_model('googlenet', weights_path=tmp_path/'googlenet.safetensors')
    assert torch.equal(model.conv1.conv.weight, whole.conv1.conv.weight) and model.aux1 is None
    assert weights_converter('lenet', model) is None
