"A run that was stopped or killed goes on to the result of one that was left alone, under any recipe, in float32."
import json
from dataclasses import asdict
from unittest.mock import patch

import pytest
import torch
from fastai.callback.core import Callback

from cifake.all import CifakeNet, demo_cifake, get_recipe, read_history, register_model, resume_run, train_learner
from cifake.training.runs import RunKeeper

pytestmark = pytest.mark.slow
CARD = 'recipe', 'best_epoch', 'epochs_done', 'training_pflop', 'lr', 'status', 'data_digest'


@register_model
class SmallNet(CifakeNet):
    def __init__(self, n_out=2): super().__init__(n_out, widths=(8, 8, 8), stem=8)


class StopAfter(Callback):
    "Press Ctrl-C after `n` epochs, or as soon as training begins"
    order = 70
    def __init__(self, n): self.n = n
    def before_train(self):
        if self.n == 0: raise KeyboardInterrupt
    def after_epoch(self):
        if len(self.learn.history.rows) == self.n: raise KeyboardInterrupt


class Losses(Callback):
    "Give each epoch the validation loss that the test wants, so that nothing hangs on how well a small training goes"
    order = 56  # after the row was made, before it is kept
    def __init__(self, *losses): self.losses = losses
    def after_epoch(self):
        rows = self.learn.history.rows
        if rows and self.learn.history.trained: rows[-1]['valid_loss'] = self.losses[len(rows) - 1]


PATIENCE = 3., 2., 1., 1.5, 0., 0., 0., 0.  # with a patience of 1, training ends after the fourth epoch
FINE_TUNE = {**asdict(get_recipe('fastai-resnet26d')), 'arch': 'test_resnet', 'size': 32, 'epochs': 2,
             'freeze_epochs': 2, 'lr': 0.01}
RECIPES = dict(
    muon=(dict(arch='lenet', epochs=3), False, (0, 1, 2)),
    adamw=(dict(arch='lenet', optimizer='adamw', average=0., epochs=3, lr=None), False, (1,)),
    patience=(dict(arch='lenet', epochs=8, patience=1), False, (1, 3)),
    own=(dict(arch='smallnet', epochs=2, cutmix=0.5, window=24, window_share=0.5), False, (1,)),
    frozen=(dict(arch='test_resnet', optimizer='adamw', average=0.9, epochs=2), True, (1,)),
    fine_tune=(FINE_TUNE, True, (0, 1, 2, 3)))


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path): monkeypatch.chdir(tmp_path)


def same(a, b):
    assert read_history(a).drop(columns='seconds').equals(read_history(b).drop(columns='seconds'))
    pairs = zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True)
    assert not [name for (name, x), y in pairs if not torch.equal(x, y)]
    assert a.report == b.report
    cards = [json.loads((o.run_folder/'recipe.json').read_text()) for o in (a, b)]
    assert {k: cards[0][k] for k in CARD} == {k: cards[1][k] for k in CARD}
    assert sorted(o.name for o in a.run_folder.iterdir()) == sorted(o.name for o in b.run_folder.iterdir())


@pytest.mark.parametrize('name', RECIPES)
def test_stopped_between_epochs(name, resnet_weights, tmp_path):
    fields, pretrained, stops = RECIPES[name]
    recipe = get_recipe('quick', **{**fields, 'min_steps': 0})
    args = dict(subset=300, precision='float32', seed=3, weights_path=resnet_weights if pretrained else None)
    def losses(): return [Losses(*PATIENCE)] if name == 'patience' else []
    whole = train_learner(demo_cifake(), recipe, out=tmp_path/'whole', cbs=losses(), **args)
    if name == 'patience': assert len(read_history(whole)) == 4
    for n in stops:
        out = tmp_path/str(n)
        with pytest.raises(KeyboardInterrupt):
            train_learner(demo_cifake(), recipe, out=out, cbs=[StopAfter(n), *losses()], **args)
        assert json.loads((out/'recipe.json').read_text())['status'] != 'finished'
        same(whole, resume_run(out, cbs=losses()))


@pytest.mark.parametrize('before', ['keep_checkpoint', 'keep_rows', 'keep_weights', 'note'])
@pytest.mark.parametrize('epoch', [1, 2])
def test_killed_between_the_files_of_an_epoch(before, epoch, tmp_path):
    recipe = get_recipe('quick', arch='lenet', epochs=3, min_steps=0, objects=False)
    args = dict(subset=300, precision='float32')
    def losses(): return [Losses(3., 2., 1.)]  # every epoch is better than the last
    whole = train_learner(demo_cifake(), recipe, out=tmp_path/'whole', cbs=losses(), **args)
    original = getattr(RunKeeper, before)

    def kill(self, *values, **fields):
        if self.learn and len(self.learn.history.rows) == epoch: raise SystemExit
        return original(self, *values, **fields)

    with patch.object(RunKeeper, before, kill), pytest.raises(SystemExit):
        train_learner(demo_cifake(), recipe, out=tmp_path/'killed', cbs=losses(), **args)
    (tmp_path/'killed'/'.123.checkpoint.pt').write_bytes(b'half a file')
    same(whole, resume_run(tmp_path/'killed', cbs=losses()))


def test_nothing_is_left_behind_by_an_error(tmp_path):
    class Fail(Callback):
        def after_pred(self): raise RuntimeError('in the middle of a batch')
    with pytest.raises(RuntimeError):
        train_learner(demo_cifake(), 'lenet', subset=300, precision='bfloat16', cbs=[Fail()])
    assert not torch.is_autocast_enabled('cpu')
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()


def test_options_that_a_resumed_run_cannot_take(tmp_path):
    from cifake.cli import cifake_train
    with pytest.raises(ValueError, match='leave out --epochs'): cifake_train(resume=str(tmp_path), epochs=3)
    with pytest.raises(FileNotFoundError, match='not the folder of a run'): cifake_train(resume=str(tmp_path))


def test_muon_refuses_pretrained_weights(resnet_weights):
    with pytest.raises(ValueError, match='random weights'):
        train_learner(demo_cifake(), 'quick', arch='test_resnet', weights_path=resnet_weights)
