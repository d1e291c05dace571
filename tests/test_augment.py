"Augmentation: validation is left alone, flips and shifts move whole pixels, attacks do what they say"
import io

import numpy as np
import pytest
import torch
from fastai.vision.core import TensorImage
from PIL import Image
from torch.nn.functional import pad

from cifake.data.augment import (
    BatchFlip,
    BatchShift,
    RandomBlur,
    RandomJPEG,
    RandomNoise,
    RandomResample,
    cifake_tfms,
    random_windows,
)
from cifake.data.demo import demo_cifake

ATTACKS = [RandomBlur, RandomResample, RandomNoise, RandomJPEG]


@pytest.fixture
def many():
    "4,000 images of 8x8 pixels"
    torch.manual_seed(0)
    return TensorImage(torch.rand(4000, 3, 8, 8))


@pytest.fixture
def some():
    "400 images of 32x32 pixels"
    torch.manual_seed(0)
    return TensorImage(torch.rand(400, 3, 32, 32))


def is_same(a, b): return (a == b).flatten(1).all(1)


def test_validation_is_left_alone(many):
    for change in cifake_tfms(shift=2, rotate=15, zoom=0.2): assert torch.equal(change(many, split_idx=1), many)


def test_half_of_the_images_are_flipped_and_the_others_are_not_touched(many):
    flipped = BatchFlip()(many, split_idx=0)
    is_flipped = is_same(flipped, many.flip(-1))
    assert (is_same(flipped, many) ^ is_flipped).all()
    assert 0.45 < is_flipped.float().mean() < 0.55


def share_of_windows(images, windows):
    "How often each of `windows` is what `images` are"
    same = (windows == images).flatten(2).all(2)
    assert same.any(0).all()
    return same.float().mean(1)


def test_every_shift_is_as_frequent(many):
    padded = pad(many, [2]*4, mode='reflect')
    windows = torch.stack([padded[..., i:i+8, j:j+8] for i in range(5) for j in range(5)])
    shares = share_of_windows(BatchShift(2)(many, split_idx=0), windows)
    assert ((shares - 1/25).abs() < 0.02).all()


def test_every_window_is_as_frequent(many):
    windows = torch.stack([many[..., i:i+6, j:j+6] for i in range(3) for j in range(3)])
    assert ((share_of_windows(random_windows(many, 6), windows) - 1/9).abs() < 0.03).all()
    assert torch.equal(random_windows(many, 8), many)


def test_images_that_are_too_small_are_refused(many):
    with pytest.raises(ValueError, match='choose less than their side'): BatchShift(8)(many, split_idx=0)
    with pytest.raises(ValueError, match='choose at most their side'): random_windows(many, 9)


def test_rotation_and_zoom_are_one_resampling(many):
    turn, = cifake_tfms(flip=False, rotate=15, zoom=0.2)
    assert len(turn.change.aff_fs) == 2
    turned = turn(many, split_idx=0)
    assert not is_same(turned, many).any() and turned.shape == many.shape


def test_nothing_is_changed_unless_asked_for(): assert cifake_tfms(flip=False) == []


@pytest.mark.parametrize('attack', cifake_tfms(flip=False, attack=0.3), ids=lambda o: type(o).__name__)
def test_an_attack_changes_its_share_follows_the_seed_and_stays_in_range(some, attack):
    assert torch.equal(attack(some, split_idx=1), some)
    torch.manual_seed(0)
    out = attack(some, split_idx=0)
    assert 0.2 < 1 - is_same(out, some).float().mean() < 0.4
    assert 0 <= out.min() and out.max() <= 1 and type(out) is TensorImage
    torch.manual_seed(0)
    assert torch.equal(attack(some, split_idx=0), out)
    assert torch.equal(type(attack)(share=0.)(some, split_idx=0), some)


def test_noise_has_the_deviation_that_is_asked_for():
    torch.manual_seed(0)
    noisy = RandomNoise(0.05, 0.05, 1.)(TensorImage(torch.full((50, 3, 32, 32), 0.5)), split_idx=0)
    assert abs(float(noisy.std()) - 0.05) < 0.001


@pytest.mark.parametrize('kind, value', [(RandomBlur, 1.), (RandomResample, 0.5)])
def test_blur_and_resampling_take_detail_and_leave_the_rest(some, kind, value):
    out = kind(value, value, 1.)(some, split_idx=0)
    assert out.std() < 0.8*some.std() and abs(float(out.mean() - some.mean())) < 0.01
    smooth = TensorImage(torch.linspace(0, 1, 32).expand(2, 3, 32, 32).contiguous())
    assert (kind(value, value, 1.)(smooth, split_idx=0) - smooth).abs()[..., 4:-4].max() < 0.02


def test_jpeg_is_that_of_pillow():
    scene = np.asarray(Image.open(sorted((demo_cifake(n=20)/'train').rglob('*.jpg'))[0]))
    encoded = io.BytesIO()
    Image.fromarray(scene).save(encoded, 'JPEG', quality=40)
    image = TensorImage(torch.tensor(scene).permute(2, 0, 1)[None]/255)
    ours = RandomJPEG(40, 40, 1.)(image, split_idx=0)[0].permute(1, 2, 0).numpy()*255
    assert np.abs(ours - np.asarray(Image.open(encoded))).max() <= 4  # the same standard, by two decoders


@pytest.mark.parametrize('kind', ATTACKS)
def test_strengths_and_shares_out_of_range_are_refused(kind):
    with pytest.raises(ValueError, match='`share` is'): kind(share=2)
    with pytest.raises(ValueError, match=f'{kind.__name__} goes from .* have to lie in'):
        kind(kind.lowest - 1, kind.highest)
    with pytest.raises(ValueError, match='the smaller first'): kind(kind.highest, kind.lowest)
