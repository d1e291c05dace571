"Runs: what is written, who may write, when a run gives up, and what a kill leaves"
import json
import os
import subprocess
import sys
from types import SimpleNamespace
from unittest.mock import patch

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy

from cifake.data.demo import demo_cifake
from cifake.data.loaders import memory_dls
from cifake.models.networks import LeNet
from cifake.models.registry import read_weights
from cifake.training.callbacks import ComputeCounter, EpochSeed
from cifake.training.runs import (
    FolderBusy,
    FolderTaken,
    HistoryKeeper,
    RunKeeper,
    locked,
    new_run,
    plot_history,
    read_history,
    remove_partial_files,
)

HOLD = '''import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print('held', flush=True)
    time.sleep(60)'''


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
    "A learner that was trained for two and for three epochs, the latter with a `RunKeeper`"
    dls = memory_dls(demo_cifake(n=60), bs=16)
    learn = Learner(dls, LeNet(), CrossEntropyLossFlat(), metrics=accuracy,
                    cbs=[HistoryKeeper(), EpochSeed(0), ComputeCounter()])
    run = RunKeeper(tmp_path_factory.mktemp('run'), dict(recipe=dict(name='lenet')))
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 0.003)
        learn.fit(3, 0.001, cbs=[run])
    run.learn = learn
    return run


def test_the_history_spans_all_calls_of_fit(kept):
    rows = read_history(kept.learn)
    assert rows.epoch.tolist() == [0, 1, 2, 3, 4]
    assert list(rows) == ['epoch', 'train_loss', 'valid_loss', 'accuracy', 'seconds']
    pd.testing.assert_frame_equal(read_history(kept.folder), rows)
    assert read_history(rows) is rows


def test_the_files_hold_what_the_learner_has(kept):
    card = json.loads((kept.folder/'recipe.json').read_text())
    assert (card['status'], card['epochs_done']) == ('started', 5) and card['training_pflop'] > 0
    assert card['best_epoch'] == int(read_history(kept.learn).valid_loss.argmin())
    if card['best_epoch'] == 4:
        kept_weights = read_weights(kept.folder/'weights.safetensors')
        assert all(torch.equal(v, kept.learn.model.state_dict()[k]) for k, v in kept_weights.items())
    state = torch.load(kept.folder/'checkpoint.pt', weights_only=True)
    assert (state['epoch'], len(state['rows'])) == (3, 5)
    assert not list(kept.folder.glob('.*'))


def test_a_finished_run_drops_its_checkpoint(kept, tmp_path):
    run = RunKeeper(tmp_path, {})
    (tmp_path/'checkpoint.pt').touch()
    run.finish(kept.learn.history.rows)
    card = json.loads((tmp_path/'recipe.json').read_text())
    assert card['status'] == 'finished' and card['seconds'] >= 0 and not (tmp_path/'checkpoint.pt').exists()


@pytest.mark.parametrize('losses, patience, first, last, expected', [
    ((3., 2., 2.5), 1, 0, True, True), ((3., 2., 1.), 1, 0, True, False), ((3., 2., 2.5), 2, 0, True, False),
    ((3., 2., 2.5), None, 0, True, False), ((3., 2., 2.5), 1, 0, False, False), ((1., 2., 1.5), 1, 1, True, False),
    ((2., float('nan')), 1, 0, True, True), ((), 1, 0, True, False)])
def test_a_run_gives_up_when_patience_is_over(losses, patience, first, last, expected):
    run = RunKeeper(None, {})
    run.patience, run.first, run.last_phase = patience, first, last
    run.learn = SimpleNamespace(history=SimpleNamespace(rows=[dict(valid_loss=o) for o in losses]))
    assert run.gave_up is expected


def test_a_folder_without_a_history_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no history.csv'): read_history(tmp_path)


def test_a_figure_has_two_lines_of_loss_and_one_of_the_metric_for_each_run(kept):
    rows = read_history(kept.learn)
    losses, scores = plot_history(kept.learn, kept.folder, names=['a', 'b'])
    assert [o.get_label() for o in losses.lines] == ['a, training', 'a, validation', 'b, training', 'b, validation']
    assert losses.lines[1].get_ydata().tolist() == rows.valid_loss.tolist()
    assert scores.lines[0].get_ydata().tolist() == rows.accuracy.tolist()
    plt.close('all')


def test_a_new_run_needs_an_empty_folder(tmp_path):
    with new_run(tmp_path/'mine', 'lenet') as folder: assert folder == tmp_path/'mine'
    with new_run(tmp_path/'mine', 'lenet'): pass  # left empty
    (tmp_path/'mine'/'recipe.json').write_text('{}')
    with pytest.raises(FolderTaken, match='not empty'), new_run(tmp_path/'mine', 'lenet'): pass
    with pytest.raises(ValueError, match='is a file'), new_run(tmp_path/'mine'/'recipe.json', 'lenet'): pass


def test_a_folder_in_use_is_refused_before_its_files_are_looked_at(tmp_path):
    with new_run(tmp_path/'mine', 'lenet') as folder:
        (folder/'recipe.json').write_text('{}')
        with pytest.raises(FolderBusy, match='Another process'), new_run(folder, 'lenet'): pass


def test_a_lock_dies_with_its_holder(tmp_path):
    command = [sys.executable, '-c', HOLD, tmp_path/'.lock']
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        holder.stdout.readline()
        with pytest.raises(FolderBusy, match='Another process'), locked(tmp_path): pass
        assert (tmp_path/'.lock').exists()
    finally: holder.kill()
    holder.wait()
    with locked(tmp_path): pass
    assert not list(tmp_path.iterdir())


def test_half_files_of_a_killed_process_are_removed(tmp_path):
    names = 'recipe.json', '.lock', '.123.checkpoint.pt', '.history.csv.123-456.part'
    for name in names: (tmp_path/name).touch()
    remove_partial_files(tmp_path)
    assert sorted(o.name for o in tmp_path.iterdir()) == ['.lock', 'recipe.json']


def test_all_processes_but_the_first_leave_nothing(tmp_path):
    with patch.dict(os.environ, WORLD_SIZE='2', RANK='1'), new_run(tmp_path/'second', 'lenet') as folder:
        assert folder is None
    keeper = RunKeeper(None, {})
    keeper.note(lr=1)
    keeper.keep_weights()
    keeper.keep_checkpoint()
    keeper.keep_rows([dict(valid_loss=1.)], {})
    assert keeper.card == dict(status='started', epochs_done=1, lr=1, best_epoch=0)
    assert not (tmp_path/'second').exists()
