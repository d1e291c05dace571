"How far two maps agree, and which parts of the picture they mark"
import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy.stats import spearmanr

from cifake.data.demo import demo_cifake
from cifake.explain.agreement import (
    _similarity,
    _strongest,
    map_overlap,
    map_regions,
    plot_mean_maps,
    shuffled_positions,
)
from cifake.explain.spectrum import as_picture

NAMES = ['iou', 'spearman', 'ssim']


@pytest.fixture
def random_maps(): return np.random.default_rng(0).random((2, 60, 32, 32))


@pytest.fixture(scope='module')
def pictures(): return sorted(demo_cifake().glob('test/*/*.jpg'))[::25]


def shuffled(table): return table[[f'{o}_shuffled' for o in NAMES]].mean()


# Overlap

def test_a_map_agrees_with_itself(random_maps):
    same = map_overlap(random_maps[0], random_maps[0])
    np.testing.assert_allclose(same[NAMES].mean(), [1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(shuffled(same), [0.111, 0, 0], atol=0.02)


def test_unrelated_maps_agree_by_chance(random_maps):
    a, b = random_maps
    found = map_overlap(a, b)
    assert found.iou.mean() == pytest.approx(0.2/1.8, abs=0.01)
    assert found.spearman[7] == pytest.approx(spearmanr(a[7].ravel(), b[7].ravel()).statistic, abs=1e-6)


def test_blank_maps_agree_by_chance_and_have_no_rank_correlation():
    blank = map_overlap(np.zeros((40,32,32)), np.zeros((40,32,32)))
    assert blank.iou.mean() == pytest.approx(0.111, abs=0.02)
    assert blank.spearman.isna().all()


def test_blank_maps_leave_the_values_of_chance_of_others(random_maps):
    a, b = random_maps
    b[:20] = 0
    found = map_overlap(a, b, shuffles=30)
    assert found.spearman.isna().tolist() == [True]*20 + [False]*40
    assert not found.spearman_shuffled.isna().any()
    assert found.spearman_shuffled.abs().max() < 0.05


def test_a_single_image_has_no_values_of_chance(random_maps):
    a, b = random_maps
    assert map_overlap(a[:1], b[:1]).iou_shuffled.isna().all()


def test_top_is_a_share_of_the_pixels():
    strongest = _strongest(np.arange(16.).reshape(1,4,4), 0.25, 0)
    assert strongest[0].nonzero()[0].tolist() == [12, 13, 14, 15]


@pytest.mark.parametrize('n', range(2, 6))
def test_shuffling_moves_every_image(n):
    for o in shuffled_positions(n, 20, n):
        assert sorted(o) == list(range(n))
        assert (o != np.arange(n)).all()


def similarity_by_hand(a, b):
    "Pixel by pixel, from the definition"
    weight = np.exp(-np.add.outer(np.arange(-5, 6)**2, np.arange(-5, 6)**2)/2/1.5**2)
    a, b, out = np.pad(a, 5, 'symmetric'), np.pad(b, 5, 'symmetric'), []
    for i in range(len(a) - 10):
        for j in range(len(a) - 10):
            p, q = (np.average(o, weights=weight) for o in (a[i:i+11,j:j+11], b[i:i+11,j:j+11]))
            x, y = a[i:i+11,j:j+11] - p, b[i:i+11,j:j+11] - q
            xx, yy, xy = (np.average(o, weights=weight) for o in (x*x, y*y, x*y))
            out.append((2*p*q + .01**2)*(2*xy + .03**2)/((p*p + q*q + .01**2)*(xx + yy + .03**2)))
    return np.mean(out)


RAMP = np.outer(np.linspace(0, 1, 12), np.linspace(1, .2, 12))


@pytest.mark.parametrize('other', [1 - RAMP, RAMP**2, np.random.default_rng(1).random((12,12))],
                         ids=['inverted', 'squared', 'random'])
def test_structural_similarity_is_as_defined(other):
    assert _similarity(RAMP[None], other[None])[0] == pytest.approx(similarity_by_hand(RAMP, other), abs=1e-5)


def test_structural_similarity_of_flat_maps_is_that_of_brightness():
    found = _similarity(np.full((1,9,9), .2), np.full((1,9,9), .6))
    assert found == pytest.approx((2*.2*.6 + 1e-4)/(.04 + .36 + 1e-4), abs=1e-6)


def test_maps_that_cannot_be_compared_are_refused(random_maps):
    a, b = random_maps
    for other, message in ((b[:10], 'for 60 images'), (b[:,:16,:16], '16x16'), (np.full_like(b, np.nan), 'not finite')):
        with pytest.raises(ValueError, match=message): map_overlap(a, other)
    with pytest.raises(ValueError, match='at least one map'): map_overlap(a[:0], b[:0])


@pytest.mark.parametrize('top', [0, 1, 20])
def test_top_outside_of_0_to_1_is_refused(random_maps, top):
    with pytest.raises(ValueError, match=f'`top` is {top}: choose a share between 0 and 1'):
        map_overlap(*random_maps, top=top)


# Regions

def test_an_even_map_prefers_nothing(pictures):
    np.testing.assert_allclose(map_regions(pictures, np.ones((40,32,32))).mean(), [1]*5, atol=1e-5)


def test_a_map_of_one_region_lies_there_alone(pictures):
    centre, corner = np.zeros((2,40,32,32))
    centre[:,8:24,8:24] = 1
    corner[:,:4,-4:] = 1
    found = map_regions(pictures, centre)[['border', 'centre']].mean()
    np.testing.assert_allclose(found, [0, 4], atol=1e-5)
    found = map_regions(pictures, corner)[['border', 'corners', 'centre']].mean()
    np.testing.assert_allclose(found, [1024/448, 1024/64, 0], atol=1e-4)


def test_texture_is_told_from_smooth_areas():
    half = np.zeros((32,32,3), np.uint8)
    half[:,16:] = np.random.default_rng(0).integers(0, 255, (32,16,3))
    left = np.zeros((1,32,32))
    left[:,:,:12] = 1
    found = map_regions([half], left)[['smooth', 'textured']].iloc[0]
    np.testing.assert_allclose(found, [2, 0], atol=0.01)


def test_chance_decides_where_all_is_equally_smooth():
    ramp = np.linspace(1, 0, 32)[None,:,None].repeat(32, 2).repeat(40, 0)
    found = map_regions([np.full((32,32,3), 90, np.uint8)]*40, ramp)
    np.testing.assert_allclose(found[['smooth', 'textured']].mean(), [1, 1], atol=0.02)


def test_pictures_come_to_the_size_of_the_maps(pictures):
    large = [as_picture(o).resize((64,64)) for o in pictures[:3]]
    assert map_regions(large, np.ones((3,32,32))).shape == (3,5)


def test_a_map_without_evidence_prefers_nothing_at_all(pictures):
    assert map_regions(pictures[:1], np.zeros((1,32,32))).isna().all().all()


def test_a_border_has_to_leave_something_inside(pictures):
    with pytest.raises(ValueError, match='`border` is 16'): map_regions(pictures, np.ones((40,32,32)), border=16)


def test_no_image_has_no_regions():
    with pytest.raises(ValueError, match='selection is empty'): map_regions([], np.ones((1,32,32)))


def test_mean_maps_have_a_panel_for_each_label():
    maps = np.stack([np.zeros((8,8)), np.ones((8,8)), np.ones((8,8))])
    axs = plot_mean_maps(maps, ['FAKE', 'REAL', 'REAL'])
    assert [ax.get_title() for ax in axs] == ['FAKE, n = 1', 'REAL, n = 2']
    assert [ax.images[0].get_array().mean() for ax in axs] == [0, 1]
    with pytest.raises(ValueError, match='2 labels for 3 maps'): plot_mean_maps(maps, ['FAKE', 'REAL'])
    plt.close('all')
