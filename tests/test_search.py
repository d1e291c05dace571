"Search: spaces that fit, values of the epoch that is kept, pruning, grids that lose nothing, and several processes"
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD

import cifake.training.search as room
from cifake.data.demo import demo_cifake
from cifake.measure.evaluate import evaluate
from cifake.training.recipes import get_recipe
from cifake.training.search import PAPER_SPACES, best_recipe, plot_search, search_recipe
from cifake.training.train import train_learner

EVERY = [(32, False), (32, True), (64, False), (64, True)]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)


@pytest.fixture(scope='module')
def small(): return dict(path=demo_cifake(n=60), epochs=1, min_steps=0)


@pytest.fixture
def grid(small):
    space = dict(bs=[32, 64], flip=[True, False])
    return dict(recipe='mlp', space=space, trials=9, grid=True, storage='sqlite:///grid.db', **small)


def ended(**kwargs):
    "As a training is, without the training"
    return pd.DataFrame(dict(valid_loss=[1.], accuracy=[0.5]))


def trains(function): return patch.object(room, 'train_learner', function)


def combinations(study):
    done = [o for o in study.trials if o.state.name == 'COMPLETE']
    return sorted((o.params['bs'], o.params['flip']) for o in done)


# Spaces

def test_the_paper_s_spaces_fit_its_recipe():
    assert [np.prod([len(o) for o in space.values()]) for space in PAPER_SPACES] == [12, 24]
    for space in PAPER_SPACES: room._check_space(get_recipe('bird-lotfi-cnn'), space)


@pytest.mark.parametrize('recipe, space, words', [
    ('bird-lotfi-cnn', dict(lr='fast'), 'The space of'), ('bird-lotfi-cnn', dict(lr=(1, 0)), 'The space of'),
    ('bird-lotfi-cnn', dict(lr=[]), 'The space of'), ('bird-lotfi-cnn', dict(lr=(0.1, 0.2, 'linear')), 'The space of'),
    ('bird-lotfi-cnn', dict(filtres=[16, 32]), 'Nearest: filters'), ('mlp', dict(learning_rate=[1]), 'neither a field'),
    ('fastai-resnet26d', dict(drop_rate=[0.1]), "with the head 'fastai'"),
    ('fastai-resnet26d', dict(block=[0.1]), "with the head 'fastai'"), ('mlp', dict(lr=[0.1, -1.]), 'it has to be'),
    ('mlp', dict(bs=(1, 64)), 'it has to be'), ('mlp', dict(optimizer=['sgd']), 'it has to be')])
def test_a_space_that_does_not_fit_is_refused(recipe, space, words, small):
    with pytest.raises(ValueError, match=words): search_recipe(recipe, space, trials=1, **small)


def test_arguments_of_a_network_with_its_own_head_can_be_searched():
    room._check_space(get_recipe('efficientnet-lite0'), dict(drop_rate=[0.1]))


def test_a_grid_needs_lists(small):
    with pytest.raises(ValueError, match='grid needs'): search_recipe('mlp', dict(lr=(0.1, 0.2)), grid=True, **small)


def test_the_missing_extra_is_named(small):
    with patch.dict(sys.modules, optuna=None), pytest.raises(ImportError, match=r'cifake\[search\]'):
        search_recipe('mlp', **small)


# Values and proposals

@pytest.mark.slow
def test_a_value_is_the_accuracy_of_the_weights_that_the_run_keeps(small):
    "Measured anew; and in memory the seed settles the proposals"
    measured = []

    def measuring(**kwargs):
        learn = train_learner(**kwargs)
        with learn.removed_cbs(learn.calibrated): # which may move p_fake over 0.5
            measured.append(evaluate(learn, split='valid', threshold=0.5, resamples=0).accuracy)
        return learn

    again = []
    for function in (measuring, ended):
        with trains(function):
            again.append(search_recipe('mlp', dict(lr=(1e-3, 1e-2, 'log')), trials=2, **{**small, 'epochs': 3}))
    assert [o.params for o in again[0].trials] == [o.params for o in again[1].trials]
    assert [o.value for o in again[0].trials] == pytest.approx(measured, abs=1e-6)


def test_neither_the_last_epoch_counts_nor_the_highest_accuracy(small):
    rows = pd.DataFrame(dict(valid_loss=[2., 1., 3.], accuracy=[0.6, 0.7, 0.8]))
    with trains(lambda **kwargs: rows): study = search_recipe('mlp', dict(lr=[1e-3]), trials=1, **small)
    assert study.trials[0].value == 0.7


def test_the_best_trial_makes_a_recipe(small):
    "Of fields and of arguments of the network"
    values = iter([0.5, 0.9, 0.6])
    def trained(**kwargs): return pd.DataFrame(dict(valid_loss=[1.], accuracy=[next(values)]))
    with trains(trained):
        study = search_recipe('bird-lotfi-cnn', dict(lr=(1e-4, 1e-2, 'log'), filters=[8, 16, 32]), trials=3, **small)
    best = best_recipe(study, 'bird-lotfi-cnn')
    assert best.lr == study.trials[1].params['lr']
    assert best.model_args == dict(filters=study.trials[1].params['filters'])
    left, right = plot_search(study)
    assert left.lines[0].get_xydata().tolist() == [[0, 0.5], [1, 0.9], [2, 0.6]]
    assert left.lines[1].get_ydata().tolist() == [0.5, 0.9, 0.9]
    assert {o.get_text() for o in right.get_yticklabels()} == {'lr', 'filters'}
    assert sum(o.get_width() for o in right.patches) == pytest.approx(1, abs=1e-6)
    plt.close('all')


def test_one_trial_makes_no_figure(small):
    with trains(ended): study = search_recipe('mlp', dict(lr=[1e-3]), trials=1, **small)
    with pytest.raises(ValueError, match='two are needed'): plot_search(study)


# Pruning

class Offset(torch.nn.Module):
    "Calls all FAKE until its one weight has grown to 5: a large rate gets there in an epoch, a tiny one never"
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
    def forward(self, x): return torch.cat([10 - self.weight*x, self.weight*x], 1)


def offset_trained(recipe, cbs, **kwargs):
    pairs = [(torch.tensor([o]), int(o > 0)) for o in (-1., 1.)]*32
    dls = DataLoaders.from_dsets(pairs, pairs, bs=16, num_workers=0)
    learn = Learner(dls, Offset(), CrossEntropyLossFlat(), opt_func=SGD, metrics=accuracy, cbs=cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit(5, recipe.lr)
    return pd.DataFrame(list(learn.recorder.values), columns=['train_loss', 'valid_loss', 'accuracy'])


def test_a_trial_behind_five_others_is_given_up_and_counts(small):
    fast, slow = dict(lr=10.), dict(lr=1e-7)
    queued = optuna.create_study(storage='sqlite:///pruned.db', study_name='mlp', direction='maximize')
    for o in [fast]*5 + [slow]: queued.enqueue_trial(o)
    with trains(offset_trained):
        study = search_recipe('mlp', dict(lr=[10., 1e-7]), trials=6, storage='sqlite:///pruned.db', **small)
    tried = study.trials
    assert [o.params for o in tried] == [fast]*5 + [slow]
    assert [o.state.name for o in tried] == ['COMPLETE']*5 + ['PRUNED']
    assert [o.value for o in tried[:5]] == [1.]*5
    assert 0 < len(tried[5].intermediate_values) < len(tried[0].intermediate_values)


@pytest.mark.parametrize('recipe, prune, callbacks', [
    ('mlp', True, 1), ('mlp', False, 0), ('fastai-resnet26d-32', True, 0)])
def test_nothing_is_pruned_where_unwanted_or_in_two_phases(recipe, prune, callbacks, small):
    asked = []
    def trained(**kwargs):
        asked.append(kwargs)
        return ended()
    with trains(trained): search_recipe(recipe, prune=prune, trials=1, **small)
    assert [len(o['cbs']) for o in asked] == [callbacks]


# A study goes on

def test_a_study_goes_on_to_its_number_and_not_beyond(small):
    asked = dict(recipe='mlp', space=dict(lr=(1e-4, 1e-2)), storage='sqlite:///study.db', **small)
    with trains(ended):
        assert len(search_recipe(**asked, trials=2).trials) == 2
        assert len(search_recipe(**asked, trials=2).trials) == 2
        study = search_recipe(**asked, trials=3)
        assert len(study.trials) == 3
        study.ask()  # begun by a process that was killed: it does not count, and costs the others nothing
        after = search_recipe(**asked, trials=4)
    assert (len(after.trials), sum(o.state.is_finished() for o in after.trials)) == (5, 4)


@pytest.mark.parametrize('change', [
    dict(space=dict(lr=(1e-4, 1e-3))), dict(epochs=4), dict(subset=20), dict(seed=1), dict(path=demo_cifake)],
    ids=lambda change: next(iter(change)))
def test_another_request_to_a_study_is_refused(change, small):
    asked = dict(recipe='mlp', space=dict(lr=(1e-4, 1e-2)), storage='sqlite:///study.db', trials=1, **small)
    if 'path' in change: change = dict(path=demo_cifake(n=200))
    with trains(ended): search_recipe(**asked)
    with pytest.raises(ValueError, match='give this one another `name`'): search_recipe(**{**asked, **change})


@pytest.mark.parametrize('storage', ['sqlite:///grid.db', None])
def test_a_grid_is_tried_once(storage, grid):
    with trains(ended):
        study = search_recipe(**{**grid, 'storage': storage})
        assert combinations(study) == EVERY
        assert len(search_recipe(**{**grid, 'storage': None, 'trials': 3}).trials) == 3


def test_a_grid_loses_nothing_to_ctrl_c(grid):
    calls = SimpleNamespace(n=0)
    def pressed(**kwargs):
        calls.n += 1
        if calls.n == 3: raise KeyboardInterrupt
        return ended()
    with trains(pressed):
        with pytest.raises(KeyboardInterrupt): search_recipe(**grid)
        assert combinations(search_recipe(**grid)) == EVERY and calls.n == 5
        search_recipe(**grid)
    assert calls.n == 5  # nothing is left


KILLED = '''
import time
from cifake.data.demo import demo_cifake
from cifake.training import search
def hang(**kwargs):
    print('training', flush=True)
    time.sleep(60)
search.train_learner = hang
search.search_recipe(**{**eval(input()), 'path': demo_cifake(n=60)})'''


@pytest.mark.slow
def test_a_grid_loses_nothing_to_a_kill(grid):
    asked = {**grid, 'name': 'killed'}
    victim = subprocess.Popen([sys.executable, '-c', KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True)
    print({k: v for k, v in asked.items() if k != 'path'}, file=victim.stdin, flush=True)
    try: assert victim.stdout.readline() == 'training\n'
    finally: victim.kill()
    victim.wait()
    with trains(ended): after = search_recipe(**asked)
    assert combinations(after) == EVERY and [o.state.name for o in after.trials].count('RUNNING') == 1


LINE = '''
import sys, time
from pathlib import Path
from cifake.all import demo_cifake, search_recipe
Path(sys.argv[1]).touch()
while not (Path('first').exists() and Path('second').exists()): time.sleep(0.02)
search_recipe('mlp', dict(lr=(1e-4, 1e-2, 'log')), demo_cifake(n=60), trials=4, storage='sqlite:///two.db', epochs=1,
              min_steps=0)
'''


@pytest.mark.slow
def test_two_processes_share_a_study(small):
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    pipes = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    workers = [subprocess.Popen([sys.executable, '-c', LINE, o], env=env, **pipes) for o in ('first', 'second')]
    said = [o.communicate()[1] for o in workers]
    assert [o.returncode for o in workers] == [0, 0], said
    study = search_recipe('mlp', dict(lr=(1e-4, 1e-2, 'log')), trials=4, storage='sqlite:///two.db', **small)
    assert 4 <= len(study.trials) <= 5
    had_a_part = {o.user_attrs['process'].split()[1] for o in study.trials}
    assert had_a_part == {str(o.pid) for o in workers}
    assert len({o.params['lr'] for o in study.trials}) == len(study.trials)


@pytest.mark.slow
def test_a_real_trial_leaves_no_run_behind(small, tmp_path):
    study = search_recipe('mlp', dict(lr=[1e-3]), trials=1, **small)
    assert 0 <= study.best_value <= 1 and not (tmp_path/'runs').exists()


# Trials that fail, and where a study is kept

@pytest.mark.parametrize('prune', [False, True])
def test_a_trial_that_diverges_is_one_failed_trial(small, prune, capsys):
    small = {**small, 'epochs': 2}
    study = search_recipe('lenet', dict(lr=[1e-3, 1e30]), trials=9, grid=True, prune=prune, **small)
    states = {o.params['lr']: o.state.name for o in study.trials}
    assert states == {1e-3: 'COMPLETE', 1e30: 'FAIL'} and study.best_params == dict(lr=1e-3)
    assert 'diverged' in capsys.readouterr().out


def test_failed_trials_are_counted_and_told(small):
    def train(recipe, **kwargs):
        if recipe.bs == 64: raise RuntimeError('out of memory')
        return ended()
    with trains(train): study = search_recipe('mlp', dict(bs=[32, 64]), trials=6, **small)
    assert len(study.trials) == 6
    assert all(o.user_attrs.get('error') == 'out of memory' for o in study.trials if o.params['bs'] == 64)


def test_a_search_in_which_all_fails_says_why(small):
    def train(**kwargs): raise RuntimeError('no memory at all')
    with trains(train), pytest.raises(ValueError, match='All 2 trials failed, .*no memory at all'):
        search_recipe('mlp', dict(bs=[32, 64]), trials=2, **small)


@pytest.mark.parametrize('storage', ['study.db', Path('study.db'), 'a b.db', 'sqlite:///study.db'], ids=str)
def test_a_study_is_kept_in_a_file_however_it_is_named(small, storage):
    with trains(ended):
        for n in (1, 2): study = search_recipe('mlp', dict(bs=[32, 64]), trials=n, storage=storage, **small)
    assert len(study.trials) == 2 and list(Path().glob('*.db'))


@pytest.mark.parametrize('storage', ['gone/study.db', Path('gone')/'study.db', 'sqlite:///gone/study.db'], ids=str)
def test_a_folder_that_is_not_there_is_named(small, storage):
    with trains(ended), pytest.raises(FileNotFoundError, match='there is no folder gone'):
        search_recipe('mlp', dict(bs=[32, 64]), trials=1, storage=storage, **small)


@pytest.mark.parametrize('storage', ['nosuch://host/study', 'mysql+nodriver://host/study'])
def test_an_address_that_is_none_is_refused(small, storage):
    with trains(ended), pytest.raises(ValueError, match='cannot be opened'):
        search_recipe('mlp', dict(bs=[32, 64]), trials=1, storage=storage, **small)
