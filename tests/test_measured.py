"What the page says of the maps that were measured on CIFAKE"
import json
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from check import ROOT
from cifake.explain.measured import map_results

STORED = (files('cifake')/'measured'/'attribution.json').read_text()
BOTH = 'FAKE', 'REAL'
ROLLOUT, GRADCAM, GRADIENT = (f'gradcam of fast, {o} of vit' for o in ('rollout', 'gradcam', 'gradient_rollout'))
RIGHT = [f'{o}, both right' for o in BOTH]
ALONE = [f'{a}, only {b} wrong' for a in BOTH for b in ('fast', 'vit')]
WRONG = [f'{o}, both wrong' for o in BOTH]


@pytest.fixture(scope='module')
def table(): return map_results('faithfulness')


@pytest.fixture(scope='module')
def methods(table): return table[~table.index.get_level_values('maps').str.startswith('random')]


@pytest.fixture(scope='module')
def overlap(): return map_results('overlap')


@pytest.fixture(scope='module')
def places(): return map_results('regions').astype(float)


def over(overlap, pair, name='spearman_over'): return overlap.loc[pair][name].astype(float)


@pytest.mark.parametrize('what', ['faithfulness', 'curves', 'overlap', 'regions', 'spectrum'])
def test_every_result_is_there(what):
    found = map_results(what)
    assert len(found)
    assert not found.isna().all().any()


def test_an_unknown_result_is_refused():
    with pytest.raises(ValueError, match='one of faithfulness'): map_results('speed')


def test_the_package_holds_what_the_benchmark_wrote():
    assert STORED == (ROOT/'nbs'/'results'/'attribution.json').read_text()


def test_both_labels_have_every_kind_of_map(table):
    assert {len(table.xs(o, level='label')) for o in BOTH} == {len(table)//2}


def test_only_rollout_lies_behind_the_floor(table, methods):
    floor = {k: table.loc[(*k, 'random, 8x8')] for k in {o[:2] for o in table.index}}
    behind = [k for k, o in methods.iterrows() if o.deletion > floor[k[:2]].deletion]
    assert behind == [('vit', 'REAL', 'rollout')]
    assert [k for k, o in methods.iterrows() if o.road < -2*o.road_se] == behind


def test_maps_with_gradients_have_the_highest_road(table, methods):
    assert round(table.road.max(), 3) == 0.144
    for label in BOTH: assert set(methods.loc[('vit', label)].road.nlargest(2).index) == {'gradcam', 'gradient_rollout'}


def test_4x4_and_8x8_do_not_differ_by_road():
    rows = {(label, k): v for label, o in json.loads(STORED)['4x4 less 8x8'].items() for k, v in o.items()}
    paired = pd.DataFrame(rows, index=['mean', 'error']).T
    found = [tuple(paired.loc[(label, 'road')].round(3)) for label in BOTH]
    assert found == [(-0.003, 0.007), (-0.002, 0.007)]
    areas = paired.drop('road', level=1)
    sign = [-1 if name.startswith('deletion') else 1 for _, name in areas.index]
    better = areas['mean']*sign/areas.error
    assert (better > 2).sum() == 5
    assert [k for k, o in better.items() if o < -2] == [('REAL', 'deletion'), ('REAL', 'deletion_mean')]


def test_two_kinds_of_map_survive_shuffled_weights(methods):
    assert [k for k, o in methods.iterrows() if o.survives is True] == [
        ('fast', 'FAKE', 'eigencam, 8x8'), ('fast', 'REAL', 'eigencam, 8x8'), ('fast', 'REAL', 'gradcam, 16x16')]
    others = methods[[o is False for o in methods.survives]]
    assert (others.randomised - others.randomised_floor).abs().max() < 0.1


def test_gradcam_at_16x16_is_often_blank(table):
    assert [round(table.blank['fast', o, 'gradcam, 16x16'], 2) for o in BOTH] == [0.44, 0.03]
    assert (table.blank[:, :, 'hirescam, 16x16'] == 0).all()
    fine = table.loc[('fast', 'REAL')].loc[['hirescam, 16x16', 'gradcam, 16x16']]
    assert -fine.road.diff().iloc[1] > 2*np.hypot(*fine.road_se)


@pytest.mark.parametrize('network', ['fast', 'vit'])
def test_filled_by_the_mean_all_maps_look_better_than_pixels(table, methods, network):
    floor = table.loc[(network, 'REAL', 'random')].insertion_mean
    assert methods.loc[(network, 'REAL')].insertion_mean.min() > floor + 0.08


def test_overlap_was_measured_on_all_validation_images(overlap):
    assert overlap.images.groupby(level=0).sum().unique().tolist() == [10003]
    assert overlap.groupby(level=0).size().unique().tolist() == [8]


def test_rollout_agrees_by_chance(overlap): assert over(overlap, ROLLOUT)[RIGHT].abs().max() < 0.05


def test_maps_with_gradients_agree_where_both_are_right(overlap):
    for o in GRADCAM, GRADIENT: assert (over(overlap, o)[RIGHT] > 5*over(overlap, o, 'spearman_over_se')[RIGHT]).all()
    assert round(max(over(overlap, o)[RIGHT].max() for o in (GRADCAM, GRADIENT)), 2) == 0.16


def test_maps_do_not_agree_where_one_errs_alone(overlap):
    for o in GRADCAM, GRADIENT: assert (over(overlap, o)[ALONE] < 2*over(overlap, o, 'spearman_over_se')[ALONE]).all()


def test_maps_for_one_label_agree_everywhere(overlap):
    asked = f'{GRADIENT}, both for FAKE'
    found = over(overlap, asked)
    assert (found > 2*over(overlap, asked, 'spearman_over_se')).all()
    assert [round(o, 2) for o in found[RIGHT]] == [0.13, 0.06]
    assert [round(o(found[[*ALONE, *WRONG]]), 2) for o in (min, max)] == [0.20, 0.27]


def test_no_map_prefers_smooth_areas_for_fake(places):
    fake = places.xs('FAKE', level=1)
    assert [round(o(fake.smooth), 2) for o in (min, max)] == [0.59, 0.94]
    assert (fake.textured > 1).all()


@pytest.mark.parametrize(('maps', 'real', 'fake'), [
    ('gradcam of fast', 1.26, 1.01), ('gradcam of vit', 1.16, 1.50), ('gradient_rollout of vit', 1.63, 1.64)])
def test_preference_for_the_centre(places, maps, real, fake):
    assert [round(places.loc[(maps, o)].centre, 2) for o in ('REAL', 'FAKE')] == [real, fake]


def test_rollout_prefers_the_corners(places):
    assert [round(places.loc[('rollout of vit', o)].corners, 2) for o in BOTH] == [1.75, 2.13]


def test_every_map_in_the_curves_of_the_tutorial_beats_random_patches():
    curves = map_results('curves').query('network == "fast" and label == "FAKE" and curve == "deletion"')
    area = curves.groupby('maps')['mean'].mean()
    shown = area.drop(['random', 'random, 8x8'])
    assert (shown < area['random, 8x8']).all()
    assert (shown > area['random']).any()
