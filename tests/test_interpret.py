"The interpretation of a learner: its table, reports, galleries, and the test by object"
from contextlib import redirect_stdout
from copy import copy
from io import StringIO

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.interpret import ClassificationInterpretation
from matplotlib import pyplot as plt
from scipy.stats import chi2_contingency

from cifake.data.demo import demo_cifake
from cifake.data.loaders import test_dl as dl_of_test
from cifake.explain.interpret import GALLERIES, CifakeInterpretation
from cifake.explain.maps import cam_maps
from cifake.measure.evaluate import calibration_of
from cifake.training.train import load_run, train_learner


@pytest.fixture(scope='module')
def learn(trained): return load_run(trained)


@pytest.fixture(scope='module')
def interp(learn): return CifakeInterpretation.from_learner(learn)


@pytest.fixture(scope='module')
def plain(learn): return ClassificationInterpretation.from_learner(learn)


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    "A network of one output with a sigmoid"
    return train_learner(demo_cifake(), 'bird-lotfi-cnn', epochs=2, subset=200, precision='float32', verbose=False,
                         out=tmp_path_factory.mktemp('runs')/'single')


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def wrong(interp): return interp.table[interp.table.label != interp.table.called]


def printed(interp):
    with redirect_stdout(StringIO()) as text, interp.learn.no_bar(): interp.print_classification_report()
    return text.getvalue()


def test_table_holds_what_fastai_predicts(learn, interp):
    with learn.no_bar(): probabilities, targets, losses = learn.get_preds(ds_idx=1, with_loss=True)
    np.testing.assert_allclose(interp.table.p_fake, probabilities[:,0], atol=1e-4)
    np.testing.assert_allclose(interp.table.loss, losses, atol=1e-3)
    assert interp.table.label.tolist() == [learn.dls.vocab[i] for i in targets]


def test_agrees_with_fastai(interp, plain):
    np.testing.assert_allclose(interp.losses, plain.losses, atol=1e-3)
    np.testing.assert_array_equal(interp.confusion_matrix(), plain.confusion_matrix())  # by the learner's own threshold
    assert interp.confusion_matrix().sum() == len(interp.table)
    assert printed(interp) == printed(plain)


def test_agrees_with_fastai_without_calibration(learn):
    with learn.removed_cbs(learn.calibrated):
        ours = CifakeInterpretation.from_learner(learn)
        theirs = ClassificationInterpretation.from_learner(learn)
    np.testing.assert_array_equal(ours.confusion_matrix(), theirs.confusion_matrix())


def test_counts_are_those_of_the_report_of_the_run(learn, interp):
    own = learn.report
    assert interp.confusion_matrix().tolist() == [[own.tp, own.fn], [own.fp, own.tn]]
    ax = interp.plot_confusion_matrix()
    assert ax.texts[1].get_text() == f'{own.fn:,}'


def test_most_confused_counts_every_error(interp):
    assert sum(n for *_, n in interp.most_confused()) == len(wrong(interp))
    assert interp.most_confused(min_val=10**6) == []


def test_accuracy_stands_in_the_report(interp):
    assert interp.report().loc['accuracy', 'f1-score'] == pytest.approx(1 - len(wrong(interp))/len(interp.table))
    assert list(interp.report().columns) == ['precision', 'recall', 'f1-score', 'support']


@pytest.mark.slow
def test_one_sigmoid_output_has_the_same_tables(single):
    dl, logits = dl_of_test(single.dls), []
    ours, theirs = (o.from_learner(single, dl=dl) for o in (CifakeInterpretation, ClassificationInterpretation))
    hook = single.model[-2].register_forward_hook(lambda module, inputs, out: logits.append(out.detach()))
    with single.removed_cbs(single.calibrated), single.no_bar(): p_fake = single.get_preds(dl=dl)[0][:,0]
    hook.remove()
    logits = torch.cat(logits)
    assert logits.shape == (len(dl.items), 1)
    np.testing.assert_allclose(p_fake, 1 - logits[:,0].sigmoid(), atol=1e-5)
    in_order = ours.table.p_fake.corr(pd.Series(p_fake.double()), 'spearman')
    assert in_order == pytest.approx(1, abs=1e-3)  # calibration keeps the order
    np.testing.assert_array_equal(ours.confusion_matrix(), theirs.confusion_matrix())
    np.testing.assert_allclose(ours.losses, theirs.losses, atol=1e-3)
    p_label = np.where(ours.table.label == 'FAKE', ours.table.p_fake, 1 - ours.table.p_fake)
    np.testing.assert_allclose(ours.losses, -np.log(p_label), atol=1e-3)


def test_top_losses_of_one_label(interp):
    axs = interp.plot_top_losses(3, label='REAL')
    worst = interp.table[interp.table.label == 'REAL'].sort_values('loss', ascending=False).iloc[0]
    assert axs[0,0].get_title() == f'REAL {worst.p_fake:.2f}\n{worst.object_class}'
    assert interp.table.loss.iloc[interp.top_losses(1)[1].item()] == interp.table.loss.max()
    with pytest.raises(ValueError, match='is one of'): interp.plot_top_losses(label='fake')


def test_confidence_of_one_object(interp):
    own = interp.table[interp.table.object_class == 'bird']
    axs = interp.plot_confidence(object_class='bird')
    assert axs[0].get_title() == f'right verdicts: {(own.label == own.called).sum()}'
    assert sum(o.get_height() for ax in axs for o in ax.patches) == len(own)
    with pytest.raises(ValueError, match='There are: airplane'): interp.plot_confidence(object_class='birds')


def test_galleries_hold_what_their_names_say(interp):
    positives, negatives, least, worst = (interp.errors(o, 1000) for o in GALLERIES)
    assert len(positives) + len(negatives) == len(worst) == len(wrong(interp))
    assert (set(positives.label), set(negatives.label)) == ({'REAL'}, {'FAKE'})
    assert len(least) == len(interp.table)
    threshold = calibration_of(interp.learn).threshold
    assert (least.p_fake - threshold).abs().is_monotonic_increasing
    assert (worst.p_fake - threshold).abs().is_monotonic_decreasing
    for o in worst.itertuples(): assert o.file.as_posix().endswith(o.path)
    with pytest.raises(ValueError, match='one of false_positives'): interp.errors('wrong')


def test_maps_are_asked_for_the_images_shown_alone(interp):
    asked = []
    def flat_maps(learn, files):
        asked.extend(files)
        return np.zeros((len(files),32,32))
    axs = interp.plot_gallery('least_certain', 3, maps=flat_maps)
    files = list(interp.errors('least_certain', 3).file)
    assert (axs.shape, asked) == ((2,3), files)
    assert axs[0,0].get_title().endswith(files[0].name)
    assert interp.plot_gallery('false_negatives', 2).shape == (1,2)


def test_maps_of_a_wrong_number_are_refused(interp):
    with pytest.raises(ValueError, match='shape'):
        interp.plot_gallery('least_certain', 3, maps=lambda *args: np.zeros((1,32,32)))


def test_the_files_of_a_gallery_can_be_given_to_cam_maps(learn, interp):
    assert len(cam_maps(learn, interp.errors('false_negatives', 3).file)) == 3


def test_a_gallery_without_errors_says_so(interp, capsys):
    flawless = copy(interp)
    flawless.table = interp.table.assign(called=interp.table.label)
    assert flawless.plot_gallery('false_positives') is None
    assert capsys.readouterr().out == 'There are no false positives.\n'


def test_errors_by_object_add_up(interp):
    rows = interp.by_object()
    assert rows.errors.sum() == len(wrong(interp))
    assert (rows.fake_called_real + rows.real_called_fake).tolist() == rows.errors.tolist()
    assert rows.images.sum() == len(interp.table)
    assert rows.error_rate.is_monotonic_decreasing
    own = interp.table[interp.table.object_class == rows.index[0]]
    called_fake = own.p_fake >= calibration_of(interp.learn).threshold
    assert (called_fake != (own.label == 'FAKE')).sum() == rows.errors.iloc[0]


def test_every_image_is_in_the_histogram_of_its_object(interp):
    rows = interp.by_object()
    axs = interp.plot_confidence_by_object()
    assert axs.shape == (2,5)
    assert sum(o.get_height() for ax in axs.flat for o in ax.patches) == len(interp.table)
    titles = [f'{o.Index}: {o.errors} of {o.images} wrong' for o in rows.itertuples()]
    assert [ax.get_title() for ax in axs.flat] == titles


def test_the_loader_of_the_test_can_be_interpreted(learn):
    on_test = CifakeInterpretation.from_learner(learn, dl=dl_of_test(learn.dls))
    assert len(on_test.table) == len(dl_of_test(learn.dls).items)
    assert set(on_test.table.path.str.split('/').str[0]) == {'test'}


# Whether objects differ: made-up verdicts, no learner

def with_errors(rates, n=400, seed=0):
    "An interpretation with `n` REAL images of each object, of which about the given shares are wrong"
    made, rng = CifakeInterpretation.__new__(CifakeInterpretation), np.random.default_rng(seed)
    names = np.repeat([f'object {i}' for i in range(len(rates))], n)
    missed = rng.random(len(names)) < np.repeat(rates, n)
    made.table = pd.DataFrame(dict(object_class=names, label='REAL', called=np.where(missed, 'FAKE', 'REAL')))
    return made


def test_objects_that_differ_are_found():
    one = with_errors([.05, .1, .1, .02])
    counts = pd.crosstab(one.table.object_class, one.table.called)
    found = one.objects_differ()
    assert found['chi2'] == pytest.approx(chi2_contingency(counts, correction=False).statistic, abs=1e-6)
    assert found['p'] < 0.001
    assert one.objects_differ('REAL')['images'] == 1600


def test_the_same_seed_gives_the_same_p():
    one = with_errors([.05, .06, .04])
    assert one.objects_differ(draws=499, seed=3) == one.objects_differ(draws=499, seed=3)


def test_objects_that_do_not_differ_are_found_as_often_as_the_level_says():
    p = [with_errors([.03]*10, 100, i).objects_differ(draws=499)['p'] for i in range(200)]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.1


@pytest.mark.parametrize(('rates', 'label', 'objects'), [
    ([0, 0], None, 2), ([1, 1], None, 2), ([.1], None, 1), ([.1, .2], 'FAKE', 0)],
    ids=['no error', 'errors alone', 'one object', 'no image'])
def test_nothing_to_compare_has_p_1(rates, label, objects):
    found = with_errors(rates).objects_differ(label)
    assert (found['chi2'], found['p'], found['objects']) == (0, 1, objects)
