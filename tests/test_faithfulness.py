"Whether to believe a map: deletion, insertion, ROAD, shuffled weights; and a network left as it was"
import copy
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from cifake.data.demo import demo_cifake
from cifake.explain.faithfulness import (
    _area,
    _floors,
    _predicted_labels,
    deletion_insertion,
    faithfulness,
    map_scores,
    mean_curves,
    plot_curves,
    randomised,
    road,
)
from cifake.explain.layers import image_batches, looking_at
from cifake.explain.maps import cam_maps
from cifake.explain.spectrum import as_picture
from cifake.serve.detector import load_pretrained

QUICK = dict(steps=1, quantiles=())


@pytest.fixture(scope='module')
def learn(): return load_pretrained('fast')


@pytest.fixture(scope='module')
def pictures(): return sorted(demo_cifake().glob('test/*/*.jpg'))[::50]


@pytest.fixture(scope='module')
def five(pictures): return pictures[:5]


@pytest.fixture(scope='module')
def maps(learn, five): return cam_maps(learn, five)


@pytest.fixture(scope='module')
def plain(learn, five, maps): return road(learn, five, maps)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


# Scores

def test_deletion_ends_where_insertion_begins(learn, five, maps):
    deletion, insertion = deletion_insertion(learn, five, maps, steps=4)
    assert (deletion.shape, insertion.shape) == ((5,5), (5,5))
    np.testing.assert_allclose(deletion[:,0], insertion[:,-1], atol=1e-5)
    np.testing.assert_allclose(deletion[:,-1], insertion[:,0], atol=1e-5)


def test_area_is_that_under_straight_lines():
    np.testing.assert_allclose(_area(np.array([[1., 1, 1], [0, 1, 0], [1, .5, 0]])), [1, .5, .5])


def test_road_is_the_same_again(learn, five, maps, plain):
    assert plain.shape == (5,)
    np.testing.assert_array_equal(plain, road(learn, five, maps, bs=5))


def test_scores_of_each_image_make_the_table(learn, five, maps, plain):
    scores = map_scores(learn, five, maps)
    np.testing.assert_array_equal(scores.road, plain)
    alone = faithfulness(learn, five, maps)
    assert list(alone.index) == ['maps', 'random', 'random, 8x8']
    np.testing.assert_allclose(alone.loc['maps', list(scores)], scores.mean(), atol=1e-6)
    assert alone.loc['maps', 'road_se'] == pytest.approx(scores.road.std()/5**0.5, abs=1e-6)


def test_curves_are_those_whose_area_the_table_gives(learn, five):
    kinds = {'gradcam': cam_maps, 'eigencam': partial(cam_maps, method='eigencam')}
    curves = mean_curves(learn, five, kinds)
    table = faithfulness(learn, five, kinds, quantiles=(), shuffles=0)
    own = curves[(curves.maps == 'gradcam') & (curves.curve == 'deletion')]['mean'].to_numpy()
    assert _area(own[None])[0] == pytest.approx(table.deletion['gradcam'], abs=1e-4)
    lines = plot_curves(curves)[0].lines
    assert (len(lines), lines[2].get_label()) == (4, 'random')
    with pytest.raises(ValueError, match='choose one network'): plot_curves(pd.concat([curves, curves]))


def test_random_patches_are_smoother_than_random_pixels():
    smooth = {k: np.abs(np.diff(o)).mean() for k, o in _floors((40,32,32), 0).items()}
    assert smooth['random, 8x8'] < smooth['random']/3


def test_the_share_of_blank_maps_is_counted(learn, five):
    some_blank = np.random.default_rng(0).random((5,32,32))
    some_blank[:2] = 0
    assert faithfulness(learn, five, some_blank, steps=2, quantiles=()).blank.tolist() == [0.4, 0, 0]


class Corner(torch.nn.Module):
    "Looks at the texture of the upper left quarter alone"
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.))

    def forward(self, x):
        lead = self.gain*x[:,:,:16,:16].diff(dim=3).abs().mean((1,2,3))
        return torch.stack([lead, -lead], 1)


def test_a_map_that_is_true_by_construction_scores_best(learn, pictures):
    corner = copy.copy(learn)
    corner.model = Corner()
    quarter = np.zeros((20,32,32))
    quarter[:,:16,:16] = 1
    planted = faithfulness(corner, pictures, {'the corner': quarter, 'the rest': 1 - quarter})
    for name, sign in (('deletion', -1), ('insertion', 1), ('road', 1)):
        assert (sign*planted[name]).idxmax() == 'the corner', name
    assert sorted(planted.index) == ['random', 'random, 8x8', 'the corner', 'the rest']
    assert 'randomised' not in planted


# Shuffled weights

def edges(learn, items):
    "A map that does not ask the network"
    grey = [np.asarray(as_picture(o).convert('L'), float) for o in items]
    return np.stack([np.hypot(*np.gradient(o)) for o in grey])


def pattern(learn, items):
    "A map that hangs on one weight alone"
    weight = next(learn.model.parameters()).flatten()[0].item()
    return np.random.default_rng(int(1e6*abs(weight))).random((len(items),32,32))


def test_what_ignores_the_network_survives_shuffled_weights(learn, pictures):
    tried = faithfulness(learn, pictures, dict(edges=edges, pattern=pattern, gradcam=cam_maps), steps=2, quantiles=())
    assert tried.survives[:3].tolist() == [True, False, False]
    assert tried.randomised['edges'] == pytest.approx(1)
    assert tried.randomised_floor['edges'] < 0.6
    assert tried.randomised['pattern'] == pytest.approx(tried.randomised_floor['pattern'], abs=0.02)


def test_the_explained_label_is_held(learn, five):
    seen = []
    def asked(learn, items, label=None):
        seen.append(label)
        return np.random.default_rng(len(seen)).random((len(items),32,32))
    faithfulness(learn, five, asked, shuffles=2, **QUICK)
    assert seen == [None] + [_predicted_labels(learn, five)]*2
    faithfulness(learn, five, partial(asked, label='FAKE'), shuffles=2, **QUICK)
    assert seen[3:] == ['FAKE']*3


def test_shuffling_keeps_the_values_of_each_tensor_and_nothing_else(learn, pictures):
    own, weights = learn.model, {k: o.clone() for k, o in learn.model.state_dict().items()}
    with randomised(learn, pictures):
        for (name, o), p in zip(learn.model.named_parameters(), own.parameters(), strict=True):
            assert torch.equal(o.flatten().sort().values, p.flatten().sort().values), name
            if o.numel() > 100 and p.unique().numel() > 100: assert (o != p).float().mean() > 0.9, name
        shuffled = copy.deepcopy(learn.model)
        with looking_at(learn) as model, torch.no_grad():
            outputs = model(next(image_batches(learn, pictures))[1])
        assert outputs.std(0).min() > 1e-4  # something comes through
    assert learn.model is own
    for k, o in learn.model.state_dict().items(): assert torch.equal(o, weights[k]), k
    with randomised(learn, pictures, 1):
        same = [torch.equal(o, p) for o, p in zip(learn.model.parameters(), shuffled.parameters(), strict=True)]
    assert not all(same)


# The network is as it was

def state_of(model):
    return [(o.training, len(o._forward_hooks), len(o._forward_pre_hooks), len(o._backward_hooks),
             [p.requires_grad for p in o.parameters()]) for o in model.modules()]


def test_an_error_with_shuffled_weights_brings_the_own_ones_back(learn, five):
    own, before = learn.model, state_of(learn.model)
    def fails_later(learn, items, label=None):
        if label: raise RuntimeError('in the middle')  # it is asked of the shuffled network
        return cam_maps(learn, items)
    with pytest.raises(RuntimeError, match='in the middle'): faithfulness(learn, five, fails_later, **QUICK)
    assert learn.model is own
    assert state_of(own) == before


MEASURES = dict(
    deletion_insertion=deletion_insertion, road=road, faithfulness=faithfulness,
    predicted_labels=lambda learn, items, maps: _predicted_labels(learn, items))


@pytest.mark.parametrize('name', MEASURES)
def test_an_error_in_the_middle_leaves_the_network_as_it_was(learn, five, maps, name):
    own, before, calls = learn.model, state_of(learn.model), []
    def broken(*args):
        calls.append(1)
        if len(calls) > 2: raise RuntimeError('in the middle')
    handle = own[0].head.register_forward_hook(broken)
    try:
        with pytest.raises(RuntimeError, match='in the middle'):
            for _ in range(3): MEASURES[name](learn, five, maps)
    finally: handle.remove()
    assert learn.model is own
    assert state_of(own) == before


def test_training_mode_and_missing_gradients_change_nothing(learn, five, maps, plain):
    expected = deletion_insertion(learn, five, maps, steps=4)[0]
    learn.model.train()
    before = state_of(learn.model)
    try:
        with torch.inference_mode(): table = faithfulness(learn, five, cam_maps)
        with torch.no_grad(): deletion = deletion_insertion(learn, five, maps, steps=4)[0]
        assert state_of(learn.model) == before
    finally: learn.model.eval()
    assert table.road['maps'] == pytest.approx(plain.mean(), abs=1e-4)
    np.testing.assert_allclose(deletion, expected, atol=1e-4)


# Bad input

@pytest.mark.parametrize(('bad', 'message'), [
    (np.zeros((5,16,16)), '16x16'), (np.zeros((2,32,32)), 'for 5 images'), ({}, 'is empty')],
    ids=['another size', 'another number', 'no kind'])
def test_maps_that_do_not_fit_are_refused(learn, five, bad, message):
    with pytest.raises(ValueError, match=message): faithfulness(learn, five, bad)


@pytest.mark.parametrize(('kwargs', 'message'), [
    (dict(fill='grey'), 'blur or mean'), (dict(steps=0), '`steps` is 0'), (dict(bs=0), '`bs` is 0')],
    ids=['fill', 'steps', 'bs'])
def test_bad_arguments_are_refused(learn, five, maps, kwargs, message):
    with pytest.raises(ValueError, match=message): deletion_insertion(learn, five, maps, **kwargs)


@pytest.mark.parametrize('quantiles', [(20, 40), (0, 0.5), (0.5, 1)])
def test_quantiles_outside_of_0_to_1_are_refused(learn, five, maps, quantiles):
    with pytest.raises(ValueError, match='each is between 0 and 1'): road(learn, five, maps, quantiles)


@pytest.mark.parametrize('measure', [deletion_insertion, road, faithfulness, mean_curves])
def test_no_image_is_refused(learn, maps, measure):
    with pytest.raises(ValueError, match='selection is empty'): measure(learn, [], maps)
