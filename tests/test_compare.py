"Compare: runs are passed over, gone on with or refused by what they hold, and the table says what was measured"
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import save_file

import cifake.training.compare as room
from cifake.data.demo import demo_cifake
from cifake.measure.evaluate import evaluate, mcnemar
from cifake.measure.report import Report
from cifake.models.registry import create_model
from cifake.training.compare import StopAfter, compare_recipes, cost_of, leaderboard, plot_leaderboard
from cifake.training.learner import blank_dls, cifake_learner
from cifake.training.recipes import get_recipe
from cifake.training.runs import locked
from cifake.training.train import load_run, train_learner

pytestmark = pytest.mark.slow
ONE = dict(epochs=1, min_steps=0)


@pytest.fixture(scope='module')
def data(): return demo_cifake(n=60)


@pytest.fixture(scope='module')
def out(tmp_path_factory, data):
    "A folder with runs of two recipes"
    folder = tmp_path_factory.mktemp('compare')
    compare_recipes(['mlp', 'lenet'], data, folder, **ONE)
    return folder


@pytest.fixture
def table(out, data): return leaderboard(out, path=data)


@pytest.fixture
def whole(tmp_path, data):
    "What `compare_recipes` was asked, and its table"
    asked = dict(names='lenet', path=data, out=tmp_path/'whole', epochs=2, min_steps=0, precision='float32')
    return asked, compare_recipes(**asked)


class PressCtrlC(Callback):
    def after_batch(self): raise KeyboardInterrupt


# What is trained

def test_the_same_request_trains_nothing(out, data, table, capsys):
    again = compare_recipes(['mlp', 'lenet'], data, out, **ONE)
    assert again.equals(table) and capsys.readouterr().out == ''


def test_another_name_trains_one_more(out, data, tmp_path, capsys):
    more = shutil.copytree(out, tmp_path/'more')
    recipe = get_recipe('mlp', **ONE)
    both = compare_recipes([recipe, replace(recipe, name='second')], data, more)
    assert capsys.readouterr().out.count('on validation') == 1 and len(both) == 3


@pytest.mark.parametrize('change, words', [
    (dict(epochs=20), '`epochs` 1, and 20 is asked for'), (dict(lr=0.5), 'holds a run with `lr`'),
    (dict(subset=0.5), '`subset` None, and 0.5'), (dict(bs=8), 'holds a run with `bs`'),
    (dict(model_args=dict(hidden=[8])), 'holds a run with `model_args`'),
    (dict(weights=dict(lenet='file')), 'not among')])
def test_another_request_is_refused(change, words, out, data):
    with pytest.raises(ValueError, match=words): compare_recipes('mlp', data, out, **{**ONE, **change})


@pytest.mark.filterwarnings('ignore:This processor has no bfloat16')
def test_another_precision_is_refused(out, data):
    chosen = json.loads((out/'mlp-42'/'recipe.json').read_text())['precision']
    another = {'float32': 'bfloat16', 'bfloat16': 'float32'}[chosen]
    with pytest.raises(ValueError, match='holds a run with `precision`'):
        compare_recipes('mlp', data, out, precision=another, **ONE)


@pytest.mark.parametrize('names', [['mlp'], 'quick'])
def test_other_images_are_refused_before_anything_is_trained(names, out):
    with pytest.raises(ValueError, match='on other images'): compare_recipes(names, demo_cifake(n=200), out, **ONE)
    assert not (out/'quick-42').exists()


def test_two_recipes_of_one_name_are_refused(out, data):
    with pytest.raises(ValueError, match='same name'): compare_recipes(['mlp', get_recipe('mlp', lr=1e-4)], data, out)


def test_first_weights_are_part_of_the_request(tmp_path, data):
    tiny = get_recipe('efficientnet-lite0', arch='test_resnet', size=32, epochs=1, min_steps=1)
    asked = dict(names=tiny, path=data, out=tmp_path/'runs')
    files = {}
    for seed in (0, 1):
        torch.manual_seed(seed)
        files[seed] = tmp_path/f'{seed}.safetensors'
        save_file(create_model('test_resnet', n_out=1000).state_dict(), files[seed])
    compare_recipes(**asked, weights={tiny.name: files[0]})
    with pytest.raises(ValueError, match='`pretrained` True, and False'): compare_recipes(**asked, pretrained=False)
    with pytest.raises(ValueError, match='with other `weights`'):
        compare_recipes(**asked, weights={tiny.name: files[1]})
    with pytest.raises(FileNotFoundError, match='no such file'):
        compare_recipes(**asked, weights={tiny.name: tmp_path/'2.safetensors'})


# Stopped, killed, and by several processes

def test_a_budget_ends_between_epochs_and_loses_nothing(whole, tmp_path):
    asked, table = whole
    short = {**asked, 'out': tmp_path/'short'}
    compare_recipes(**short, budget=1e-4)
    card = json.loads((tmp_path/'short'/'lenet-42'/'recipe.json').read_text())
    assert (card['status'], card['epochs_done']) == ('interrupted', 1)
    assert compare_recipes(**short).drop(columns='minutes').equals(table.drop(columns='minutes'))


def test_a_measurement_does_not_stop(whole):
    asked, table = whole
    learn = load_run(asked['out']/'lenet-42', cbs=[StopAfter(0)])
    assert evaluate(learn, split='valid').accuracy == table.accuracy.iloc[0]


def test_a_run_that_was_killed_before_it_was_measured_is_measured(whole):
    asked, table = whole
    file = asked['out']/'lenet-42'/'recipe.json'
    card = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in card.items() if k not in ('flops', 'parameters')}))
    assert compare_recipes(**asked).equals(table)


@pytest.mark.parametrize('gone', [1, 2, 3])
def test_a_run_that_was_killed_before_it_had_weights_is_begun_anew(gone, whole):
    asked, table = whole
    run = asked['out']/'lenet-42'
    card = json.loads((run/'recipe.json').read_text())
    (run/'recipe.json').write_text(json.dumps({**card, 'status': 'started'}))
    kept = ['recipe.json', 'valid.txt', 'weights.safetensors'][:-gone]
    for o in run.iterdir():
        if o.name not in kept: o.unlink()
    (run/'.123.recipe.json').write_text('{"half')
    assert room._state(run) == 'new'
    assert compare_recipes(**asked).drop(columns='minutes').equals(table.drop(columns='minutes'))
    assert not list(run.glob('.*'))


def test_a_run_that_another_process_finished_meanwhile_is_passed_over(whole, capsys):
    asked, _ = whole
    late = asked['out']/'late'/'lenet-42'

    def quicker(out, cbs):
        shutil.copytree(asked['out']/'lenet-42', out)
        return train_learner(asked['path'], 'lenet', out=out, **ONE)

    room._run_one(late, asked['path'], {}, quicker, [])
    assert 'on validation' not in capsys.readouterr().out and room._state(late) == 'measured'


def test_a_folder_in_use_is_left_to_its_process(tmp_path, data, capsys):
    (tmp_path/'lenet-42').mkdir()
    with locked(tmp_path/'lenet-42'): assert len(compare_recipes(['lenet', 'mlp'], data, tmp_path, **ONE)) == 1
    assert 'Another process' in capsys.readouterr().out


def test_weights_that_cannot_be_had_end_one_run_only(tmp_path, data, capsys):
    with patch('timm.models._builder.load_pretrained', side_effect=OSError('no network')):
        table = compare_recipes(['fastai-resnet26d-32', 'mlp'], data, tmp_path, **ONE)
    assert table.index.tolist() == [('mlp', 42)] and 'weights_path' in capsys.readouterr().out


def test_a_person_s_ctrl_c_ends_the_call(tmp_path, data):
    with patch.object(room, 'StopAfter', lambda end: PressCtrlC()), pytest.raises(KeyboardInterrupt):
        compare_recipes('mlp', data, tmp_path, **ONE)


LINE = '''
import sys, time
from pathlib import Path
from cifake.all import compare_recipes, demo_cifake
Path(sys.argv[1]).touch()
while not (Path('first').exists() and Path('second').exists()): time.sleep(0.02)
compare_recipes(['lenet', 'mlp'], demo_cifake(n=60), 'shared', epochs=2)
'''


def test_two_processes_share_the_work(tmp_path):
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    both = [subprocess.Popen([sys.executable, '-c', LINE, o], cwd=tmp_path, env=env, **pipes)
            for o in ('first', 'second')]
    said = [o.communicate()[0] for o in both]
    assert [o.returncode for o in both] == [0, 0], said
    assert sum(o.count('on validation') for o in said) == 2  # each is trained once
    assert any('Another process' in o for o in said) and 'not empty' not in ''.join(said), said
    assert [room._state(tmp_path/'shared'/f'{o}-42') for o in ('lenet', 'mlp')] == ['measured']*2


# What the table says

def test_the_best_stands_first_and_the_other_is_tested_against_it(out, table):
    assert len(table) == 2 and table.accuracy.is_monotonic_decreasing
    assert (table.pflop > 0).all() and (table.minutes > 0).all()
    best, worst = (Report.from_json((out/f'{name}-42'/'valid.json').read_text()) for name, _ in table.index)
    assert np.isnan(table.p_value.iloc[0])
    assert table.p_value.iloc[1] == pytest.approx(mcnemar(best, worst)['p_value'], abs=1e-9)


def test_cost_is_that_of_the_layers():
    parameters = 3072*512 + 512 + 512*128 + 128 + 128*2 + 2
    flops = 2*(3072*512 + 512*128 + 128*2)
    assert cost_of(cifake_learner(blank_dls(32), 'mlp')) == dict(parameters=parameters, flops=flops)


@pytest.mark.parametrize('cost', ['pflop', 'flops', 'minutes', 'parameters'])
def test_each_run_is_a_point_with_its_interval(cost, table):
    ax = plot_leaderboard(table, cost)
    assert (ax.get_xscale(), ax.get_ylabel()) == ('log', 'accuracy (%)')
    assert [o.get_text() for o in ax.texts] == [name for name, _ in table.index]
    for bar, (_, row) in zip(ax.containers, table.iterrows(), strict=True):
        assert bar.lines[0].get_xydata()[0] == pytest.approx((row[cost], 100*row.accuracy), abs=1e-9)
        assert bar.lines[2][0].get_segments()[0][:, 1] == pytest.approx((100*row.low, 100*row.high), abs=1e-9)
    plt.close('all')


def test_the_test_of_another_dataset_is_measured_anew(out, data, tmp_path):
    "And the own one again; a leaked file counts once, not twice"
    other = demo_cifake(n=200)
    assert leaderboard(out, 'test').images.tolist() == [30]*2
    assert leaderboard(out, 'test', other).images.tolist() == [100]*2
    leaky = Path(shutil.copytree(data, tmp_path/'leaky'))
    pairs = zip(sorted((leaky/'train'/'FAKE').iterdir())[:4], sorted((leaky/'test'/'FAKE').iterdir()), strict=False)
    for a, b in pairs: shutil.copy(a, b)
    known = {o.read_bytes() for o in (leaky/'train').glob('*/*.jpg')}
    fresh = sum(o.read_bytes() not in known for o in (leaky/'test').glob('*/*.jpg'))
    found = leaderboard(out, 'test', leaky)
    assert (found.images.tolist(), found.clean_images.tolist()) == ([30]*2, [fresh]*2) and fresh <= 26
    for (name, _), row in found.iterrows():
        report = evaluate(load_run(out/f'{name}-42', data=False), leaky)
        expected = report.accuracy, report.clean.accuracy, report.clean.f1, report.clean.auc
        assert (row.accuracy, row.clean_accuracy, row.clean_f1, row.clean_auc) == expected
    assert leaderboard(out, 'test').images.tolist() == [30]*2


def test_a_table_of_nothing_is_refused(out, tmp_path):
    with pytest.raises(ValueError, match='`split` is'): leaderboard(out, split='train')
    with pytest.raises(FileNotFoundError, match='no run'): leaderboard(tmp_path)
    with pytest.raises(ValueError, match='`cost` is'): plot_leaderboard(leaderboard(out), 'euros')
