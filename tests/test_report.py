"Counts, measures and groups of a report; how it prints, draws and is stored"
import json
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from cifake.data.core import LABELS, OBJECTS
from cifake.measure.metrics import MEASURES, measures, wilson
from cifake.measure.report import Report, plot_counts, plot_reliability, report_of

TEN = pd.DataFrame({
    'label': ['FAKE']*5 + ['REAL']*5,
    'p_fake': [.9, .8, .7, .6, .2, .9, .6, .4, .3, .1],
    'leaked': [True] + [False]*9,
})


def five_hundred():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(dict(path=[f'{i}.jpg' for i in range(500)], label=rng.choice(LABELS, 500, p=[.3, .7]),
                              object_class=rng.choice(OBJECTS, 500)))
    return table.assign(p_fake=np.clip(rng.normal(np.where(table.label == 'FAKE', .6, .4), .2), 0, 1))


MANY = five_hundred()
FAKE = (MANY.label == 'FAKE').to_numpy()
P_FAKE = MANY.p_fake.to_numpy()
MADE_UP = report_of(MANY, threshold=0.45)
BY_HAND = report_of(TEN)
BANDED = report_of(MANY, band=(0.4, 0.6), resamples=0)
ONE_LABEL = report_of(MANY[MANY.label == 'REAL'])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def test_counts_are_those_of_scikit_learn():
    r = MADE_UP
    assert [[r.tn, r.fp], [r.fn, r.tp]] == confusion_matrix(FAKE, P_FAKE >= 0.45).tolist()


def test_every_measure_is_an_attribute_within_its_interval():
    for name, value in measures(FAKE, P_FAKE, 0.45).items():
        assert getattr(MADE_UP, name) == MADE_UP.measures[name] == value[0]
        low, high = MADE_UP.intervals[name]
        assert low < value[0] < high, name
    assert set(MEASURES) <= set(dir(MADE_UP))


def test_an_unknown_attribute_names_the_measures():
    with pytest.raises(AttributeError, match="no 'speed': its measures are accuracy"): _ = MADE_UP.speed


@pytest.mark.parametrize('name, hits, n', [
    ('accuracy', ['tp', 'tn'], ['n']), ('precision', ['tp'], ['tp', 'fp']),
    ('recall', ['tp'], ['tp', 'fn']), ('recall_real', ['tn'], ['tn', 'fp'])])
def test_shares_of_images_have_wilsons_interval(name, hits, n):
    counts = [sum(getattr(MADE_UP, o) for o in some) for some in (hits, n)]
    assert MADE_UP.intervals[name] == wilson(*counts)


def test_groups_are_counted_by_object_and_label():
    assert sum(o['right'] for o in MADE_UP.groups) == MADE_UP.tp + MADE_UP.tn
    frogs = (MANY.object_class == 'frog') & FAKE
    cell = next(o for o in MADE_UP.groups if (o['object_class'], o['label']) == ('frog', 'FAKE'))
    right = int((P_FAKE[frogs] >= 0.45).sum())
    assert (cell['n'], cell['right'], (cell['low'], cell['high'])) == (frogs.sum(), right, wilson(right, frogs.sum()))


def test_without_leaked_files_there_is_no_clean_report():
    assert MADE_UP.clean is None
    assert report_of(TEN.assign(leaked=True)).clean is None
    assert (BY_HAND.clean.n, BY_HAND.clean.tp) == (9, 3)


def test_band_counts_the_unsure_and_changes_no_measure():
    outside = (P_FAKE < 0.4) | (P_FAKE >= 0.6)
    assert BANDED.unsure == (~outside).sum()
    assert BANDED.accuracy == report_of(MANY, resamples=0).accuracy
    assert BANDED.wrong_when_sure == pytest.approx(((P_FAKE >= 0.5) != FAKE)[outside].mean(), abs=1e-12)


def test_one_label_leaves_undefined_what_compares_two():
    assert np.isnan(ONE_LABEL.auc) and np.isnan(ONE_LABEL.recall)
    assert ONE_LABEL.recall_real == ONE_LABEL.accuracy
    assert ONE_LABEL.note == 'All images are REAL: measures that compare both labels are undefined.'
    assert 'undefined' in str(ONE_LABEL)


def test_few_images_are_noted():
    assert 'Only 10 images' in BY_HAND.note
    assert MADE_UP.note == ''
    assert 'Without leaks: Only 9 images' in str(BY_HAND)


@pytest.mark.parametrize('report', [MADE_UP, BY_HAND, BANDED, ONE_LABEL], ids=['many', 'ten', 'banded', 'one label'])
def test_it_prints_the_same_table_everywhere(report):
    assert str(report) == repr(report)
    cells = re.findall('<t[hd]>(.*?)</t[hd]>', report._repr_html_())
    assert len(cells) > len(MEASURES)
    for cell in cells: assert cell in repr(report)


def test_rows_of_a_band_and_of_unreadable_files_are_shown():
    text = repr(report_of(MANY, band=(0.4, 0.6), resamples=0, unreadable=3))
    rows = {line.rsplit(maxsplit=1)[0].strip(): line.rsplit(maxsplit=1)[1] for line in text.splitlines()[1:]}
    assert rows['unreadable, left out'] == '3'
    assert rows['unsure'] == f'{BANDED.unsure/500:.2%}'
    assert 'unsure' not in repr(MADE_UP)


def test_frame_holds_values_and_ends_of_both_columns():
    frame = BY_HAND.to_frame()
    assert (frame['test'].value['tp'], frame['test without leaks'].value['tp']) == (4, 3)
    for name in MEASURES:
        expected = (getattr(BY_HAND, name), *BY_HAND.intervals[name])
        np.testing.assert_allclose(frame['test'].loc[name].astype(float), expected, rtol=0, atol=1e-12)


def test_no_objects_no_groups():
    with pytest.raises(ValueError, match='are not known'): BY_HAND.by_object()


@pytest.mark.parametrize('change, match', [
    (dict(p_fake=1.2), r'\[0, 1\]'), (dict(p_fake=np.nan), r'\[0, 1\]'), (dict(label='fake'), 'not in')])
def test_what_cannot_be_measured_is_refused(change, match):
    with pytest.raises(ValueError, match=match): report_of(TEN.assign(**change))


def test_threshold_and_number_of_rows_are_checked():
    with pytest.raises(ValueError, match='`threshold` is 50'): report_of(TEN, threshold=50)
    with pytest.raises(ValueError, match='no predictions'): report_of(TEN[:0])


@pytest.mark.parametrize('report', [MADE_UP, BY_HAND, BANDED], ids=['many', 'ten', 'banded'])
def test_it_is_the_same_after_a_file(report):
    again = Report.from_json(report.to_json())
    assert again.predictions is None
    assert again.to_json() == report.to_json()
    assert Report.from_json(report.to_json(predictions=True)).predictions.p_fake.tolist() == (
        report.predictions.p_fake.tolist())


def test_band_stays_a_pair():
    assert Report.from_json(BANDED.to_json()).band == (0.4, 0.6)
    assert Report.from_json(MADE_UP.to_json()) == MADE_UP


def test_undefined_measures_are_null_in_the_file():
    def refuse(constant): raise AssertionError(f'{constant} is not JSON')
    assert json.loads(ONE_LABEL.to_json(), parse_constant=refuse)['auc'] is None
    assert np.isnan(Report.from_json(ONE_LABEL.to_json()).auc)


def test_measures_are_keys_of_the_file():
    values = json.loads(BY_HAND.to_json())
    assert values['accuracy'] == 0.7
    assert values['clean']['n'] == 9
    assert 'measures' not in values


def test_files_of_before_are_read():
    values = json.loads(BY_HAND.to_json())
    old = {k: v for k, v in values.items() if k not in ('ece', 'groups', 'band', 'wrong_when_sure')}
    found = Report.from_json(json.dumps(old | dict(clean=None)))
    assert np.isnan(found.ece) and np.isnan(found.wrong_when_sure)
    assert (found.accuracy, found.groups, found.band) == (0.7, [], None)


def test_page_needs_no_other_file_and_escapes_titles():
    page = MADE_UP.to_html('A made-up <detector>', {'By <hand>': BY_HAND.to_frame()})
    assert '&lt;detector&gt;' in page and '<detector>' not in page and 'http' not in page
    assert '<h2>By &lt;hand&gt;</h2>' in page and 'test without leaks' in page
    assert page.count('<img') == page.count('src="data:image/png;base64,iVBOR') == 2
    assert 'frog' in page and 'calibration error' in page


def test_without_predictions_it_has_one_figure():
    read = Report.from_json(MADE_UP.to_json())
    assert read.to_html().count('<img') == 1
    with pytest.raises(ValueError, match='has no predictions'): read.plot()


@pytest.mark.parametrize('report', [MADE_UP, ONE_LABEL, BY_HAND.clean], ids=['two labels', 'one label', 'clean'])
def test_it_draws_four_axes(report):
    assert len(report.plot()) == 4


def test_reliability_is_the_share_of_fake_in_each_bin():
    said, was = plot_reliability(FAKE, P_FAKE, bins=5).lines[-1].get_data()
    third = (P_FAKE >= 0.4) & (P_FAKE < 0.6)
    assert (said[2], was[2]) == pytest.approx((P_FAKE[third].mean(), FAKE[third].mean()), abs=1e-9)


@pytest.mark.parametrize('normalize, texts', [
    (False, ['1,500', '500', '0', '0']), (True, ['75.00%', '25.00%', '0.00%', '0.00%'])])
def test_confusion_matrix_shows_counts_or_shares(normalize, texts):
    ax = plot_counts([[1500, 500], [0, 0]], normalize=normalize)
    assert [o.get_text() for o in ax.texts] == texts
    assert [o.get_text() for o in ax.get_xticklabels()] == LABELS
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.75, 0.25], [0, 0]])
