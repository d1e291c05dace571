"Images in whatever form, and the spectrum without a network"
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.core import PILImage
from fastcore.foundation import L
from matplotlib import pyplot as plt
from torch.utils.data import DataLoader

from cifake.data.demo import demo_cifake
from cifake.explain.spectrum import (
    _ring_numbers,
    as_list,
    as_picture,
    cifake_spectrum,
    mean_spectrum,
    plot_spectrum,
)


@pytest.fixture(scope='module')
def one(): return sorted(demo_cifake().glob('test/*/*.jpg'))[0]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


@pytest.fixture(scope='module')
def noise_and_wave():
    "80 images of white noise, then the same with a wave of 12 periods along the columns"
    rng = np.random.default_rng(0)
    noise = rng.normal(128, 20, (80,32,32,1)).repeat(3, -1)
    wave = 12*np.cos(2*np.pi*12*np.arange(32)/32)
    both = np.concatenate([noise, noise + wave[None,None,:,None]])
    return both.round().clip(0, 255).astype(np.uint8), ['REAL']*80 + ['FAKE']*80


FORMS = {
    'path': (lambda o: o, 1),
    'text': (str, 1),
    'list': (lambda o: [o]*3, 3),
    'array of one image': (lambda o: np.zeros((32,32,3), np.uint8), 1),
    'array of two images': (lambda o: np.zeros((2,32,32,3), np.uint8), 2),
    'PIL image': (PILImage.create, 1),
    'pandas column': (lambda o: pd.Series([o]*2), 2),
    "fastcore's L": (lambda o: L(o, o), 2),
    'generator': (lambda o: (x for x in [o]*2), 2),
    'tensor of one image': (lambda o: torch.zeros(3, 32, 32, dtype=torch.uint8), 1),
    'loader with items': (lambda o: SimpleNamespace(dataset=None, items=[o]*4), 4)}


@pytest.mark.parametrize('form', FORMS)
def test_images_in_every_form_become_a_list(one, form):
    make, n = FORMS[form]
    assert len(as_list(make(one))) == n


@pytest.mark.parametrize('form', ['list', 'pandas column', "fastcore's L", 'generator'])
def test_a_list_keeps_its_files(one, form): assert set(as_list(FORMS[form][0](one))) == {one}


def test_a_glob_can_be_given_as_it_is():
    assert len(as_list(demo_cifake().glob('test/*/*.jpg'))) == len(list(demo_cifake().glob('test/*/*.jpg')))


@pytest.mark.parametrize(('make', 'message'), [
    (lambda o: {'file': [o]}, 'one column of images, such as `file`'),
    (lambda o: pd.DataFrame({'file': [o]}), 'one column of images, such as `file`'),
    (lambda o: DataLoader([o]), 'does not know its items'),
    (lambda o: [], 'selection is empty')], ids=['dictionary', 'table', 'bare loader', 'empty list'])
def test_what_is_no_selection_of_images_is_refused(one, make, message):
    with pytest.raises(ValueError, match=message): as_list(make(one))


@pytest.mark.parametrize(('source', 'message'), [
    (np.zeros((32,32,3)), '8-bit'), ('no/such/file.jpg', 'no/such/file.jpg could not be read'),
    (b'no picture', 'could not be read')], ids=['floats', 'missing file', 'bytes of no picture'])
def test_what_is_no_image_is_refused(source, message):
    with pytest.raises(ValueError, match=message): as_picture(source)


def test_grey_images_become_rgb(one): assert as_picture(PILImage.create(one).convert('L')).mode == 'RGB'


def test_a_wave_is_found_at_its_frequency(noise_and_wave):
    found = mean_spectrum(*noise_and_wave)
    assert found.radial.frequency[found.radial.effect.idxmax()] == 12/32
    assert found.mean['FAKE'].shape == (32,32)
    row, column = np.unravel_index((found.mean['FAKE'] - found.mean['REAL']).argmax(), (32,32))
    assert (row, abs(column - 16)) == (16, 12)


def test_white_noise_is_flat(noise_and_wave): assert mean_spectrum(*noise_and_wave).radial.REAL.std() < 0.05


def test_the_effect_lies_in_its_interval(noise_and_wave):
    rows = mean_spectrum(*noise_and_wave).radial
    assert ((rows.low < rows.effect) & (rows.effect < rows.high)).all()


def test_one_label_has_a_spectrum_but_no_comparison(noise_and_wave):
    found = mean_spectrum(noise_and_wave[0][:2], ['FAKE']*2)
    assert list(found.radial) == ['frequency', 'FAKE']
    with pytest.raises(ValueError, match='only one label'): plot_spectrum(found)


def test_several_sizes_are_refused(noise_and_wave):
    images = noise_and_wave[0]
    with pytest.raises(ValueError, match='several sizes, such as 16x32 and 32x32'):
        mean_spectrum([images[0], images[1][:16]], ['FAKE', 'REAL'])


def test_too_few_labels_are_refused(noise_and_wave):
    with pytest.raises(ValueError, match='labels for'): mean_spectrum(noise_and_wave[0], ['FAKE'])


def test_labels_are_the_names_of_folders():
    few = sorted(demo_cifake().glob('test/*/*.jpg'))[::100]
    assert set(mean_spectrum(few).mean) == {'FAKE', 'REAL'}


def test_the_figure_has_as_many_panels_as_there_is_to_show(noise_and_wave):
    found = mean_spectrum(*noise_and_wave)
    assert len(plot_spectrum(found)) == 3
    assert len(plot_spectrum(found._replace(mean={}))) == 2


def test_the_page_says_what_was_measured_on_cifake():
    real = cifake_spectrum()
    gap = real.radial.difference
    assert gap[0] < 0 < gap[1:].min()
    assert gap.idxmax() == 15
    assert real.radial.effect[15] > 1


def test_the_stored_curves_are_means_over_the_stored_spectra():
    real, ring = cifake_spectrum(), _ring_numbers(32, 32)
    for label, mean in real.mean.items():
        by_ring = [mean[ring == k].mean() for k in range(1, 17)]
        np.testing.assert_allclose(by_ring, real.radial[label], atol=2e-3)
