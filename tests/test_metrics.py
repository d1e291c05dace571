"Measures agree with scikit-learn and scipy, and their intervals with what is known"
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as theirs

from cifake.measure.metrics import MEASURES, _draws, bootstrap, checked, intervals, measures, wilson

EXACT = dict(rtol=0, atol=1e-9)
TEN_FAKE = np.array([True]*5 + [False]*5)
TEN = np.array([.9, .8, .7, .6, .2, .9, .6, .4, .3, .1])


@pytest.fixture(scope='module')
def some():
    "Labels and `p_fake` of 2,000 images, with equal values"
    rng = np.random.default_rng(0)
    fake = rng.random(2_000) < 0.3
    return fake, np.clip(rng.normal(np.where(fake, .6, .4), .2), 0, 1).round(3)


@pytest.fixture(scope='module')
def good():
    "Labels and `p_fake` of 20,000 images of a good detector"
    rng = np.random.default_rng(0)
    fake = np.arange(20_000) < 10_000
    return fake, 1/(1 + np.exp(-rng.normal(np.where(fake, 4, -4), 2)))


@pytest.mark.parametrize('hits, n', [(98, 100), (0, 10), (10, 10), (19_500, 20_000)])
def test_wilson_is_that_of_scipy(hits, n):
    expected = binomtest(hits, n).proportion_ci(method='wilson')
    np.testing.assert_allclose(wilson(hits, n), (expected.low, expected.high), **EXACT)


def test_wilson_of_nothing_is_undefined():
    assert np.isnan(wilson(0, 0)).all()


def theirs_of(fake, p, called):
    "The same measures by scikit-learn"
    return dict(
        accuracy=theirs.accuracy_score(fake, called),
        balanced_accuracy=theirs.balanced_accuracy_score(fake, called),
        precision=theirs.precision_score(fake, called),
        recall=theirs.recall_score(fake, called),
        recall_real=theirs.recall_score(~fake, ~called),
        f1=theirs.f1_score(fake, called),
        f1_macro=theirs.f1_score(fake, called, average='macro'),
        auc=theirs.roc_auc_score(fake, p),
        average_precision=theirs.average_precision_score(fake, p),
        log_loss=theirs.log_loss(fake, p),
        brier=theirs.brier_score_loss(fake, p),
    )


def test_measures_are_those_of_scikit_learn(some):
    fake, p = some
    expected = theirs_of(fake, p, p >= 0.45)
    found = measures(fake, p, 0.45)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name][0], value, **EXACT, err_msg=name)
    rest = {'tpr_at_fpr_1pct', 'tpr_at_fpr_01pct', 'ece'}
    assert set(expected) | rest == set(MEASURES) == set(found)


@pytest.mark.parametrize('name, rate', [('tpr_at_fpr_1pct', 0.01), ('tpr_at_fpr_01pct', 0.001)])
def test_recall_at_few_alarms_is_read_off_the_curve(some, name, rate):
    fake, p = some
    fpr, tpr, _ = theirs.roc_curve(fake, p, drop_intermediate=False)
    np.testing.assert_allclose(measures(fake, p, 0.45)[name][0], tpr[fpr <= rate].max(), **EXACT)


def test_calibration_error_is_the_sum_over_bins(some):
    fake, p = some
    rng = np.random.default_rng(1)
    exact = np.clip(p + rng.uniform(-5e-4, 5e-4, len(p)), 0, 1)  # none on the edge of a bin
    confidence = np.maximum(exact, 1 - exact)
    right = (exact >= 0.5) == fake
    ece = 0
    for low in np.arange(15)/15:
        inside = (confidence > low) & (confidence <= low + 1/15)
        if inside.any(): ece += inside.mean()*abs(right[inside].mean() - confidence[inside].mean())
    np.testing.assert_allclose(measures(fake, exact)['ece'][0], ece, **EXACT)


def test_calibration_error_by_hand():
    expected = (0.7 + 0.6 + 0.6 + 0.2)/10  # confidences 0.9, 0.8, 0.7, 0.6: 2 of 3, 1 of 2, 2 of 2, 2 of 3 are right
    np.testing.assert_allclose(measures(TEN_FAKE, TEN)['ece'], expected, **EXACT)


def test_weights_are_the_same_as_copies(some):
    fake, p = some
    times = np.random.default_rng(2).integers(0, 4, len(p))
    weighted = measures(fake, p, 0.45, times[None])
    copied = measures(fake.repeat(times), p.repeat(times), 0.45)
    for name in MEASURES: np.testing.assert_allclose(weighted[name], copied[name], **EXACT, err_msg=name)


def test_one_label_leaves_undefined_what_compares_two():
    alone = measures(TEN_FAKE[:5], TEN[:5])
    assert [k for k, v in alone.items() if np.isnan(v[0])] == [
        'balanced_accuracy', 'recall_real', 'f1_macro', 'auc', 'average_precision',
        'tpr_at_fpr_1pct', 'tpr_at_fpr_01pct']


@pytest.mark.parametrize('wrong', [[1, 2], ['FAKE', 'REAL']])
def test_labels_have_to_be_true_or_false(wrong):
    with pytest.raises(ValueError, match='True or 1 for FAKE'): measures(wrong, [0.1, 0.2])


def test_numbers_serve_as_labels():
    assert measures([1, 0], [0.9, 0.1]) == measures([True, False], [0.9, 0.1])


@pytest.mark.parametrize('wrong', [[0.1, np.nan], [3., 0.5]])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match=r'has to lie in \[0, 1\]'): measures([True, False], wrong)


def test_no_images_and_no_draws_are_refused():
    with pytest.raises(ValueError, match='one of each'): bootstrap([], [])
    with pytest.raises(ValueError, match='at least once'): bootstrap([True, False], [0.9, 0.1], resamples=0)
    with pytest.raises(ValueError, match='2 labels and 1 probabilities'): checked([True, False], [0.5])


def test_draws_keep_the_number_of_each_label(good):
    fake = good[0][::40]
    counts = _draws(fake, 7, np.random.default_rng(0))
    assert counts.sum(1).tolist() == [500.]*7
    assert counts[:, fake].sum(1).tolist() == [250.]*7


def test_bootstrap_is_the_same_each_time(good):
    fake, p = good[0][::40], good[1][::40]
    assert bootstrap(fake, p, resamples=50) == bootstrap(fake, p, resamples=50)


def test_bootstrap_of_one_label_has_no_area(good):
    fake, p = good
    assert np.isnan(bootstrap(fake[:50], p[:50], resamples=20)['auc']).all()


def test_intervals_are_wilsons_for_shares_of_images(good):
    fake, p = good[0][::40], good[1][::40]
    found = intervals(fake, p, resamples=50)
    hits = round(500*measures(fake, p)['accuracy'][0])
    assert found['accuracy'] == wilson(hits, 500)
    assert found['auc'] == bootstrap(fake, p, resamples=50)['auc']
    assert set(intervals(fake, p, resamples=0)) == {'accuracy', 'precision', 'recall', 'recall_real'}


@pytest.mark.slow
def test_bootstrap_agrees_with_wilson_and_ends(good):
    fake, p = good
    found = bootstrap(fake, p)  # 5 s on two cores
    hits = round(20_000*measures(fake, p)['accuracy'][0])
    np.testing.assert_allclose(found['accuracy'], wilson(hits, 20_000), rtol=0, atol=2e-4)


def test_recall_at_few_alarms_is_the_least_certain(good):
    found = bootstrap(*good, resamples=200)
    widths = {k: found[k][1] - found[k][0] for k in ('tpr_at_fpr_01pct', 'accuracy', 'ece', 'auc')}
    assert max(widths, key=widths.get) == 'tpr_at_fpr_01pct'


def scores(n, seed, boldness):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) < n//2
    return labels, 1/(1 + np.exp(-boldness*rng.normal(np.where(labels, 1, -1), 1.2)))


@pytest.mark.slow
@pytest.mark.parametrize('name, boldness, least', [('auc', 1, 0.9), ('ece', 1, 0.85), ('ece', 1.3, 0.85)])
def test_intervals_contain_the_true_value_as_often_as_promised(name, boldness, least):
    true = measures(*scores(2_000_000, 0, boldness))[name][0]
    ends = [bootstrap(*scores(1000, seed, boldness), resamples=200, seed=seed)[name] for seed in range(200)]
    covered = np.mean([low <= true <= high for low, high in ends])
    assert covered > least
    if name == 'auc': assert covered < 0.99


@pytest.mark.parametrize('name, value, ends, text', [
    ('accuracy', 0.979, (0.976, 0.9816), '97.90% (97.60% to 98.16%)'),
    ('accuracy', 0.979, None, '97.90%'),
    ('auc', 0.99771, (np.nan, np.nan), '0.9977'),
    ('auc', 0.99771, (None, None), '0.9977'),
    ('auc', np.nan, None, 'undefined'),
    ('auc', None, None, 'undefined'),
])
def test_a_measure_shows_its_value(name, value, ends, text):
    assert MEASURES[name].show(value, ends) == text
