"Train: one scan of the dataset, quiet where asked, a folder that opens again, and pictures from elsewhere"
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch
from fastai.callback.core import Callback
from fastai.vision.core import PILImage
from safetensors.torch import load_file

import cifake.training.train as room
from cifake.data import dataset
from cifake.data.core import LABELS
from cifake.data.demo import demo_cifake
from cifake.measure.evaluate import calibrate, evaluate
from cifake.measure.report import Report
from cifake.training.callbacks import choose_precision
from cifake.training.recipes import get_recipe
from cifake.training.runs import read_history
from cifake.training.train import demo_run, load_run, resume_run, train_learner

pytestmark = pytest.mark.slow
TINY = get_recipe('quick', arch='lenet', epochs=2, min_steps=0)


class PressCtrlC(Callback):
    "In the second epoch"
    order = 70
    def after_batch(self):
        if self.training and self.epoch == 1: raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def small(): return demo_cifake(n=60)


@pytest.fixture(scope='module')
def first(tmp_path_factory, small):
    "A finished run of LeNet in float32"
    return train_learner(small, TINY, out=tmp_path_factory.mktemp('runs')/'first', precision='float32', verbose=False)


@pytest.fixture(scope='module')
def stopped(tmp_path_factory, small):
    "The folder of a run that was interrupted in its second epoch"
    out = tmp_path_factory.mktemp('runs')/'stopped'
    with pytest.raises(KeyboardInterrupt):
        train_learner(small, TINY, out=out, precision='float32', verbose=False, cbs=[PressCtrlC()])
    return out


def card_of(learn): return json.loads((learn.run_folder/'recipe.json').read_text())


def same_weights(a, b):
    pairs = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def same(a, b):
    rows = [read_history(o).drop(columns='seconds').values.tolist() for o in (a, b)]
    return rows[0] == rows[1] and same_weights(a, b) and a.report == b.report


# What a training leaves

def test_the_folder_holds_what_the_learner_has(first):
    assert sorted(o.name for o in first.run_folder.iterdir()) == [
        'calibration.json', 'confusion_matrix.png', 'history.csv', 'history.png', 'recipe.json', 'report.json',
        'valid.txt', 'weights.safetensors']
    card = card_of(first)
    rows = read_history(first)
    assert read_history(first.run_folder).accuracy.round(6).tolist() == rows.accuracy.round(6).tolist()
    assert card['best_epoch'] == int(rows.valid_loss.argmin())
    assert (card['status'], card['precision']) == ('finished', 'float32')


def test_the_chosen_precision_is_stored(small):
    learn = train_learner(small, TINY, epochs=1, verbose=False)
    assert card_of(learn)['precision'] == choose_precision(device=learn.dls.device)


def test_the_dataset_is_found_once_and_scanned_once(small, monkeypatch):
    "Its path is resolved in one place, and its files are listed in one place, by one `Cifake`"
    scans, finds = [], []
    items, found = dataset._all_items, dataset.find_cifake
    monkeypatch.setattr(dataset, '_all_items', lambda root, *args: scans.append(root) or items(root, *args))
    monkeypatch.setattr(dataset, 'find_cifake', lambda path, *args: finds.append(path) or found(path, *args))
    train_learner(small, TINY, epochs=1, verbose=False)
    assert (len(finds), len(scans)) == (1, 1)


@pytest.mark.parametrize('recipe, fields, words', [
    ('quik', {}, 'Nearest: quick'), ('quick', dict(learning_rate=1), 'has no field'),
    ('quick', dict(arch='resnet_26d'), 'no architecture')])
def test_a_mistake_trains_nothing(recipe, fields, words, small):
    with pytest.raises(ValueError, match=words): train_learner(small, recipe, **fields)
    assert not Path('runs').exists() and not Path('models').exists()


def test_a_folder_with_a_run_is_not_written_over(first, small):
    with pytest.raises(ValueError, match='not empty'): train_learner(small, TINY, out=first.run_folder)


def test_numbers_of_numpy_are_taken(first, small):
    n = np.int64(len(first.dls.train_ds))
    again = train_learner(small, TINY, out='again', precision='float32', seed=np.int64(42), subset=n, verbose=False)
    assert same(first, again)


def test_another_seed_gives_other_weights(first, small):
    other = train_learner(small, TINY, out='other', precision='float32', seed=1, verbose=False)
    assert not same_weights(first, other)


# Quiet

def test_nothing_is_printed_where_nobody_wants_it(small, capfd):
    "Neither losses nor progress bars nor notes, in training, resuming and opening"
    learn = train_learner(small, TINY, out='quiet', verbose=False)
    with pytest.raises(KeyboardInterrupt): train_learner(small, TINY, out='half', verbose=False, cbs=[PressCtrlC()])
    capfd.readouterr()
    train_learner(small, TINY, out='more', verbose=False)
    resume_run('half', verbose=False)
    load_run(learn.run_folder)
    assert capfd.readouterr() == ('', '')


def test_the_demo_run_is_quiet_too(monkeypatch, small, capfd):
    monkeypatch.setenv('CIFAKE_HOME', os.getcwd())
    monkeypatch.setattr(room, 'demo_cifake', lambda: small)
    monkeypatch.setattr(room, 'train_learner', lambda path, **kwargs: train_learner(path, TINY, **kwargs))
    folder = demo_run()
    assert capfd.readouterr() == ('', '') and json.loads((folder/'recipe.json').read_text())['status'] == 'finished'
    assert demo_run() == folder


def test_progress_is_shown_by_default(small, capfd):
    train_learner(small, TINY, out='loud')
    shown = capfd.readouterr().out
    assert 'epoch' in shown and 'Computing in' in shown and 'Kept in loud' in shown and 'demo set' in shown


# Opened again

def test_a_run_comes_back_with_its_scores(first):
    again = load_run(first.run_folder)
    assert evaluate(again, split='valid') == first.report == again.report
    assert read_history(again).epoch.tolist() == read_history(first).epoch.tolist()
    calibration = again.calibrated.calibration
    calibrate(again)
    assert again.calibrated.calibration == calibration


def test_a_changed_copy_validates_on_no_image_that_was_trained_on(first, small):
    changed = Path(shutil.copytree(small, 'changed'))
    for o in sorted((changed/'train'/'FAKE').iterdir())[:5]: o.unlink()
    moved = load_run(first.run_folder, changed)
    trained = {o.digest for o in first.dls.train.items}
    assert not [o.path for o in moved.dls.valid.items if o.digest in trained]
    assert len(first.dls.valid.items) - 5 <= len(moved.dls.valid.items) <= len(first.dls.valid.items)
    assert moved.report == Report.from_json(first.report.to_json())


def test_a_run_predicts_without_its_dataset(first, small):
    bare = load_run(first.run_folder, data=False)
    expected = evaluate(load_run(first.run_folder)).predictions.p_fake.to_numpy()
    assert evaluate(bare, small).predictions.p_fake.to_numpy() == pytest.approx(expected, abs=1e-4)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='not the folder of a run'): load_run(tmp_path)


def test_a_new_calibration_is_stored(trained):
    own = load_run(shutil.copytree(trained, 'copy'))
    calibrate(own, error=0.1)
    again = load_run('copy')
    assert again.calibrated.calibration == own.calibrated.calibration
    assert evaluate(again, split='valid') == evaluate(own, split='valid')


@pytest.mark.parametrize('threshold, verdict', [(0., 'FAKE'), (1., 'REAL')])
def test_verdicts_of_fastai_go_by_the_threshold(threshold, verdict, first):
    learn = load_run(first.run_folder)
    learn.calibrated.calibration = replace(learn.calibrated.calibration, threshold=threshold)
    with learn.no_bar(): assert learn.predict(learn.dls.valid.items[0].file)[0] == verdict
    learn.show_results(max_n=4)
    assert {o.get_title().split('\n')[1] for o in plt.gcf().axes if o.get_title()} == {verdict}
    plt.close('all')


def test_one_image_gets_the_probability_and_verdict_of_the_report(first):
    p = first.report.predictions.set_index('path').p_fake
    for item in first.dls.valid.items[::3]:
        with first.no_bar(): name, position, both = first.predict(item.file)
        assert float(both[0]) == pytest.approx(p[item.path], abs=1e-4)
        assert name == LABELS[position] == str(first.calibrated.calibration.verdicts([p[item.path]])[0])


def test_a_network_with_one_output_comes_back(small):
    recipe = get_recipe('bird-lotfi-cnn', model_args=dict(filters=8))
    single = train_learner(small, recipe, epochs=1, precision='float32', verbose=False)
    kept = load_run(single.run_folder)
    assert evaluate(kept, split='valid') == single.report
    assert type(kept.model[-1]).__name__ == 'OneSigmoid'


# Interrupted and resumed

def test_an_interrupted_run_is_usable(stopped):
    card = json.loads((stopped/'recipe.json').read_text())
    assert card['status'] == 'interrupted' and len(read_history(stopped)) == 1
    assert 0 <= evaluate(load_run(stopped), split='valid').accuracy <= 1
    assert not list(stopped.rglob('.*'))


def test_a_resumed_run_is_that_of_one_left_alone(first, stopped):
    "Bit for bit, in float32; `test_resume.py` has other recipes and moments"
    resumed = resume_run(shutil.copytree(stopped, 'stopped'), verbose=False)
    assert same(first, resumed)
    assert resume_run('stopped').report == resumed.report  # a finished run is only opened


def test_a_run_that_ends_just_before_the_lock_is_opened(first):
    folder, truth = first.run_folder, room._read_run
    answers = iter([dict(truth(folder), status='interrupted')])
    with patch.object(room, '_read_run', lambda o: next(answers, None) or truth(o)), patch.object(room, '_fit', None):
        assert resume_run(folder).report == Report.from_json(first.report.to_json())


def test_other_images_are_refused(stopped, small):
    fewer = Path(shutil.copytree(small, 'fewer'))
    next((fewer/'train'/'FAKE').glob('*.jpg')).unlink()
    with pytest.raises(ValueError, match='not those that the run'): resume_run(stopped, fewer)


def test_a_run_of_an_earlier_version_is_refused(stopped):
    old = Path(shutil.copytree(stopped, 'old'))
    card = json.loads((old/'recipe.json').read_text())
    del card['data_digest']
    (old/'recipe.json').write_text(json.dumps(card))
    with pytest.raises(ValueError, match='earlier version'): resume_run(old)


# Pictures from elsewhere

@pytest.fixture
def more(small):
    for label in LABELS:
        Path('more', label).mkdir(parents=True)
        for o in sorted((small/'train'/label).iterdir())[:4]:
            PILImage.create(o).resize((40, 40)).save(Path('more', label, o.name))
    return Path('more')


def test_extra_pictures_are_trained_on_and_not_needed_afterwards(more, small):
    wider = train_learner(small, TINY, subset=50, extra=more, multi_scale=0.25, verbose=False)
    assert (len(wider.dls.train_ds), len(wider.dls.valid_ds)) == (58, 12)
    assert len(load_run(wider.run_folder).dls.train_ds) == 58
    shutil.rmtree(more)
    assert evaluate(load_run(wider.run_folder), split='valid').accuracy == wider.report.accuracy


def test_a_resumed_run_has_its_extra_pictures(more, small):
    with pytest.raises(KeyboardInterrupt):
        train_learner(small, TINY, extra=[more], subset=50, out='half', verbose=False, cbs=[PressCtrlC()])
    assert len(resume_run('half', verbose=False).dls.train_ds) == 58


# Schedules

FINE_TUNE = dict(arch='test_resnet', size=32, lr=None, min_steps=0, patience=1)


def test_fine_tuning_is_two_schedules_in_one_history(resnet_weights, small):
    recipe = get_recipe('fastai-resnet26d', **FINE_TUNE, epochs=3)
    tuned = train_learner(small, recipe, weights_path=resnet_weights, num_workers=0, verbose=False)
    rows = read_history(tuned)
    assert rows.epoch.tolist() == list(range(len(rows))) and 2 <= len(rows) <= 4
    assert card_of(tuned)['lr'] > 0  # it was looked for
    again = load_run(tuned.run_folder)
    assert evaluate(again, split='valid').accuracy == pytest.approx(tuned.report.accuracy, abs=1e-9)


def test_from_random_weights_it_is_one_with_nothing_frozen(small):
    recipe = get_recipe('fastai-resnet26d', **{**FINE_TUNE, 'lr': 0.01})
    bare = train_learner(small, recipe, epochs=1, pretrained=False, num_workers=0, verbose=False)
    assert len(read_history(bare)) == 2 and all(o.requires_grad for o in bare.model.parameters())


def test_frozen_layers_stay_as_they_were_statistics_included(resnet_weights, small):
    "Only the last layers of a body, a dense head, one sigmoid, Adam at a constant rate"
    recipe = get_recipe('mobilenetv2-160', arch='test_resnet', size=32, train_last=8, epochs=1, min_steps=0)
    late = train_learner(small, recipe, weights_path=resnet_weights, num_workers=0, verbose=False)
    given = timm.create_model('test_resnet', num_classes=1000)
    given.load_state_dict(load_file(resnet_weights))
    own, state = late.model[0].model.state_dict(), given.state_dict()
    moved = {k for k, v in own.items() if not torch.equal(v.cpu(), state[k])}
    body = [k for k, o in late.model[0].model.named_modules() if not list(o.children())]
    assert moved and all(o.rpartition('.')[0] in body[-8:] for o in moved), moved
    late.export('late.pkl')  # nothing in it that cannot be pickled
    again = load_run(late.run_folder)
    assert evaluate(again, split='valid').accuracy == pytest.approx(late.report.accuracy, abs=1e-9)


def test_a_whole_pretrained_network_is_trained_whole(resnet_weights, small):
    recipe = get_recipe('efficientnet-lite0', arch='test_resnet', size=32)
    whole = train_learner(small, recipe, epochs=1, weights_path=resnet_weights, num_workers=0, verbose=False)
    assert all(o.requires_grad for o in whole.model.parameters())
    mean = timm.create_model('test_resnet').default_cfg['mean']
    assert card_of(whole)['stats'][0] == pytest.approx(mean, abs=1e-6)
    assert len(card_of(whole)['weights_digest']) == 32


def test_the_shared_run_is_finished(trained):
    learn = load_run(trained)
    assert card_of(learn)['status'] == 'finished' and learn.report.accuracy > 0.5
