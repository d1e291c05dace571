"Temperatures, thresholds, unsure bands and verdicts"
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import log_loss

from cifake.measure.calibration import (
    CRITERIA,
    Calibration,
    choose_threshold,
    find_calibration,
    fit_scaling,
    rescale,
    unsure_band,
)
from cifake.measure.metrics import measures

TINY = pd.DataFrame(dict(label=['FAKE', 'FAKE', 'REAL', 'REAL'], p_fake=[.9, .6, .4, .1]))
TIES = pd.DataFrame(dict(label=['FAKE', 'REAL', 'FAKE', 'REAL'], p_fake=[.5]*4))


def predictions(n, seed, modesty=2.):
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 4, n)
    return rng.random(n) < expit(truth), expit(truth/modesty)


def table_of(fake, p_fake): return pd.DataFrame(dict(label=np.where(fake, 'FAKE', 'REAL'), p_fake=p_fake))


FAKE, P_FAKE = predictions(10_000, 0)
OTHER, P_OTHER = predictions(10_000, 1)
TABLE = table_of(FAKE, P_FAKE)


def test_calibration_needs_neither_torch_nor_pandas():
    code = ('import sys, cifake.measure.calibration; '
            'print(*{o for o in ("torch", "fastai", "pandas", "sklearn", "scipy.stats") if o in sys.modules})')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ''


def test_temperature_is_the_factor_of_modesty():
    temperature, bias = fit_scaling(FAKE, P_FAKE)
    assert abs(temperature - 0.5) < 0.03 and bias == 0


def test_temperature_makes_labels_most_likely():
    found, _ = fit_scaling(FAKE, P_FAKE)
    losses = [log_loss(FAKE, rescale(P_FAKE, found*o)) for o in (0.98, 1, 1.02)]
    assert losses[1] < min(losses[0], losses[2])


def test_temperature_helps_on_other_images_and_keeps_the_order():
    before = measures(OTHER, P_OTHER)
    after = measures(OTHER, rescale(P_OTHER, *fit_scaling(FAKE, P_FAKE)))
    assert after['ece'][0] < 0.02 < before['ece'][0]
    assert after['log_loss'][0] < before['log_loss'][0]
    assert after['auc'][0] == pytest.approx(before['auc'][0], abs=1e-12)


@pytest.mark.parametrize('lean', [-1, 0.5])
def test_the_bias_undoes_a_leaning(lean):
    "The boundary of a detector that leans by `lean` lies at `expit(lean)`"
    leaning = rescale(P_FAKE, 1., lean)
    temperature, bias = fit_scaling(FAKE, leaning, expit(lean))
    assert rescale([expit(lean)], temperature, bias) == pytest.approx(0.5, abs=1e-9)
    assert rescale(leaning, temperature, bias) == pytest.approx(
        rescale(P_FAKE, *fit_scaling(FAKE, P_FAKE)), abs=1e-6)


@pytest.mark.parametrize('boundary', [0., 1e-9, 1.])
def test_scaling_stays_in_its_limits(boundary):
    temperature, bias = fit_scaling(FAKE, P_FAKE, boundary)
    assert 0.05 <= temperature <= 20.1 and -20 <= bias <= 20


def test_temperature_1_changes_nothing():
    assert rescale([0, 0.2, 0.5, 1], 1.) == pytest.approx([0, 0.2, 0.5, 1], abs=1e-9)


def test_bias_is_added_to_the_scaled_logits():
    p = np.array([0.2, 0.5, 0.9])
    assert rescale(p, 2., 0.7) == pytest.approx(expit(logit(p)/2 + 0.7), abs=1e-12)


def errors(fake, p, threshold):
    "Shares of FAKE and of REAL called wrongly"
    found = measures(fake, p, threshold)
    return 1 - found['recall'][0], 1 - found['recall_real'][0]


def test_equal_errors_are_about_equal_on_other_images():
    missed, alarms = errors(OTHER, P_OTHER, choose_threshold(TABLE, 'equal_errors'))
    assert abs(missed - alarms) < 0.02


def test_false_positives_keep_their_budget():
    threshold = choose_threshold(TABLE, 'false_positives')
    assert errors(FAKE, P_FAKE, threshold)[1] <= 0.01
    assert abs(errors(OTHER, P_OTHER, threshold)[1] - 0.01) < 0.005


@pytest.mark.parametrize('criterion, measure', [('accuracy', 'accuracy'), ('youden', 'balanced_accuracy')])
def test_no_threshold_is_better_by_its_criterion(criterion, measure):
    best = max(measures(FAKE, P_FAKE, t)[measure][0] for t in np.linspace(0.3, 0.7, 401))
    assert measures(FAKE, P_FAKE, choose_threshold(TABLE, criterion))[measure][0] >= best


@pytest.mark.parametrize('criterion', CRITERIA)
def test_thresholds_lie_between_images(criterion):
    assert 0.4 < choose_threshold(TINY, criterion) < 0.6


def test_a_larger_budget_lowers_the_threshold():
    assert choose_threshold(TINY, 'false_positives', 0.5) == 0.25


def test_a_budget_that_nothing_keeps_is_refused():
    with pytest.raises(ValueError, match='still finds FAKE'):
        choose_threshold(TINY.assign(p_fake=[.9, .6, 1., .1]), 'false_positives')


def test_equal_values_are_called_one_thing():
    threshold = choose_threshold(TIES)
    assert measures(TIES.label == 'FAKE', TIES.p_fake, threshold)['recall'][0] == 0


@pytest.mark.parametrize('t', [0.5, 1.])
def test_images_at_1_are_counted_at_every_threshold(t):
    table = pd.DataFrame(dict(label=['REAL', 'REAL', 'FAKE', 'FAKE', 'FAKE'], p_fake=[1., 1., 1., 0., 0.]))
    fake = table.label == 'FAKE'
    chosen = choose_threshold(table, 'accuracy')
    assert measures(fake, table.p_fake, t)['accuracy'][0] <= measures(fake, table.p_fake, chosen)['accuracy'][0]


def test_a_column_called_split_makes_no_report():
    assert choose_threshold(TABLE.assign(split='train')) == choose_threshold(TABLE)


@pytest.mark.parametrize('wrong', [np.nan, 1.5])
def test_what_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match=r'has to lie in \[0, 1\]'): choose_threshold(TABLE.assign(p_fake=wrong))


def test_criterion_budget_and_labels_are_checked():
    with pytest.raises(ValueError, match='choose one of accuracy'): choose_threshold(TABLE, 'best')
    with pytest.raises(ValueError, match='choose one of accuracy'): find_calibration(TABLE, 'even odds')
    with pytest.raises(ValueError, match='`budget` is 1.5'): choose_threshold(TABLE, budget=1.5)
    with pytest.raises(ValueError, match='both labels are needed'): choose_threshold(TABLE[TABLE.label == 'REAL'])


def test_band_is_as_narrow_as_the_error_allows():
    low, high = unsure_band(TABLE, 0.5, 0.05)
    wrong = (P_FAKE >= 0.5) != FAKE
    for verdict in (P_FAKE >= high, P_FAKE < low): assert 0.03 < wrong[verdict].mean() < 0.05


@pytest.mark.slow
def test_band_keeps_its_promise_on_other_images():
    kept = []
    for seed in range(2, 42):
        low, high = unsure_band(table_of(*predictions(2_000, seed)), 0.5, 0.05)
        kept += [(~OTHER)[P_OTHER >= high].mean() <= 0.05, OTHER[P_OTHER < low].mean() <= 0.05]
    assert np.mean(kept) > 0.9


def test_nothing_is_unsure_where_nothing_is_wrong():
    certain = pd.DataFrame(dict(label=['FAKE']*80 + ['REAL']*80, p_fake=[.9]*80 + [.1]*80))
    assert unsure_band(certain, 0.5, 0.05) == (0.5, 0.5)


@pytest.mark.parametrize('few', [TIES, TINY])
def test_few_images_allow_no_band(few):
    with pytest.raises(ValueError, match='allow more'): unsure_band(few, 0.5, 0.1)


def test_share_of_errors_is_checked():
    with pytest.raises(ValueError, match='`error` is'): unsure_band(TABLE, 0.5, 1.)


def test_a_band_travels_with_its_calibration():
    found = find_calibration(TABLE, error=0.05)
    assert Calibration.from_json(found.to_json()) == found
    scaled = found.p_fake(P_OTHER)
    assert ((found.verdicts(scaled) == 'FAKE') == (scaled >= found.band[1])).all()


@pytest.mark.parametrize('table', [TABLE, TINY])
def test_an_even_detector_gets_no_bias(table):
    found = find_calibration(table)
    assert (found.threshold, found.bias, found.criterion) == (0.5, 0, 'even odds')


def test_unequal_errors_move_the_bias_and_leave_one_half():
    leaning = TABLE.assign(p_fake=rescale(P_FAKE, 1., -1.))  # says FAKE too rarely
    assert np.subtract(*errors(FAKE, leaning.p_fake, 0.5)) > 0.1
    found = find_calibration(leaning)
    missed, alarms = errors(FAKE, found.p_fake(leaning.p_fake), found.threshold)
    assert found.threshold == 0.5 and found.bias > 1
    assert abs(missed - alarms) < 0.002


def test_the_bias_changes_no_verdict_of_its_boundary():
    leaning = TABLE.assign(p_fake=rescale(P_FAKE, 1., -1.))
    verdicts = find_calibration(leaning).p_fake(leaning.p_fake) >= 0.5
    assert (verdicts == (leaning.p_fake >= choose_threshold(leaning, 'equal_errors'))).all()


def test_budget_is_part_of_the_criterion():
    assert find_calibration(TABLE, 'false_positives', 0.02).criterion == 'false_positives, at most 0.02'


def test_words_of_verdicts():
    assert Calibration().verdicts([0.2, 0.5, 0.9]).tolist() == ['REAL', 'FAKE', 'FAKE']
    banded = Calibration(band=(0.4, 0.6))
    assert banded.verdicts([0.39, 0.4, 0.59, 0.6]).tolist() == ['REAL', 'unsure', 'unsure', 'FAKE']
    assert [banded.verdict(o) for o in (0.39, 0.5, 0.6)] == ['REAL', 'unsure', 'FAKE']
    assert Calibration().verdicts([]).tolist() == []


def test_files_of_before_are_read():
    text = ('{"temperature": 0.49, "threshold": 0.73, "unsure": [0.4, 0.8], "criterion": "equal_errors", '
            '"error": null, "images": 400}')
    found = Calibration.from_json(text)
    expected = Calibration(temperature=0.49, threshold=0.73, band=(0.4, 0.8), criterion='equal_errors', images=400)
    assert found == expected
    assert Calibration.from_json('{"temperature": 2.0}') == Calibration(temperature=2.)


def test_the_test_is_refused():
    class OnTest: split = 'test'
    with pytest.raises(ValueError, match='on validation'): choose_threshold(OnTest())


def test_a_report_without_predictions_is_refused():
    class Bare:
        split = 'valid'
        predictions = None
    with pytest.raises(ValueError, match='holds no predictions'): choose_threshold(Bare())
