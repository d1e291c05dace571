"Processes: one alone does nothing of its own; two of torchrun train as one process does"
import os
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from fastai.torch_core import maybe_gather, num_distrib

from cifake.data.demo import demo_cifake
from cifake.data.loaders import memory_dls
from cifake.models.networks import LeNet
from cifake.training.processes import OneProcess, current_processes, refuse_several
from cifake.training.torchrun import SeveralProcesses, SharedDL

TWO = dict(WORLD_SIZE='2', RANK='1')


class Imitated(SharedDL):
    "A share of one of several processes that are not there"
    def _broadcast(self, t, rank): return t


def test_one_process_does_everything_itself():
    processes = current_processes()
    assert type(processes) is OneProcess and processes.first and processes.n == 1
    processes.join()
    with processes.first_goes_first(), processes.alone(), processes.across('learner') as learn:
        assert learn == 'learner'
    assert processes.from_first(lambda: 3) == 3


def test_both_kinds_answer_the_same_calls():
    kinds = [{o for o in dir(kind()) if not o.startswith('_')} for kind in (OneProcess, SeveralProcesses)]
    assert kinds[0] == kinds[1]


def test_torchrun_is_seen_by_its_variables():
    with patch.dict(os.environ, TWO):
        processes = current_processes()
        assert type(processes) is SeveralProcesses and processes.n == 2 and not processes.first
    with patch.dict(os.environ, TWO, RANK='0'): assert current_processes().first


def test_the_missing_extra_is_named():
    with patch.dict(os.environ, TWO), patch.dict(sys.modules, {'cifake.training.torchrun': None}):
        with pytest.raises(ImportError, match=r'cifake\[distributed\]'): current_processes()


def test_alone_gathers_nothing_and_leaves_the_environment_as_it_is():
    with patch.dict(os.environ, TWO):
        before = dict(os.environ)
        with current_processes().alone():
            assert dict(os.environ) == before
            assert torch.equal(maybe_gather(torch.arange(3)), torch.arange(3))
        assert num_distrib() == 2
        with pytest.raises(RuntimeError, match='in alone'), current_processes().alone(): raise RuntimeError('in alone')
        with pytest.raises(ValueError, match='group'): maybe_gather(torch.arange(3))  # asks the others again


def test_what_trains_one_after_another_refuses_several():
    refuse_several('train_objects')
    with patch.dict(os.environ, TWO), pytest.raises(ValueError, match='`train_objects` works in one process'):
        refuse_several('train_objects')


def test_two_processes_take_halves_of_the_epoch():
    dls = memory_dls(demo_cifake(), bs=16, subset=164)
    order = list(range(164))
    dls.train.get_idxs = lambda: order
    parts = [Imitated(dls.train, rank=o, world_size=2) for o in range(2)]
    for part in parts:
        assert [len(x) for x, _ in part] == [16]*5
        assert len(part) == 5
    assert parts[0].taken + parts[1].taken == order


SHARES = (110, 2, 10, True), (110, 2, 10, False), (7, 4, 2, False), (9, 2, 4, True)


@pytest.mark.parametrize('n, world, bs, drop', SHARES)
def test_the_length_of_a_share_is_the_number_of_its_batches(n, world, bs, drop):
    dl = memory_dls(demo_cifake(), bs=bs, subset=n).train
    dl.drop_last = drop
    for rank in range(world):
        part = Imitated(dl, rank=rank, world_size=world)
        assert len(list(part)) == len(part)


SCRIPT = '''
import os, sys, warnings
warnings.simplefilter('ignore')
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD
from cifake.data.demo import demo_cifake
from cifake.data.loaders import memory_dls
from cifake.models.networks import LeNet
from cifake.training.callbacks import EpochSeed
from cifake.training.processes import current_processes

class SameImages(Callback):
    "Gives one process, at each step, what two would get"
    run_valid = False
    def before_batch(self):
        dl = self.dls.train
        b, start, half = dl.bs//2, self.iter*dl.bs//2, len(dl.taken)//2
        positions = dl.taken[start:start+b] + dl.taken[half+start:half+start+b]
        x, y = dl.after_batch(dl._batch(positions))
        self.learn.xb, self.learn.yb = (x,), (y,)

class Float64(Callback):
    "So that rounding, which a training makes larger step by step, stays far below what is looked for"
    order = 10
    def before_batch(self): self.learn.xb = (self.x.double(),)

def train(start, out, bs, cbs):
    processes = current_processes()
    processes.join()
    network = LeNet().double()
    network.load_state_dict(torch.load(start))
    if not processes.first: # the weights of the first process hold
        for o in network.parameters(): o.data.zero_()
    learn = Learner(memory_dls(demo_cifake(), bs=bs, subset=320), network, CrossEntropyLossFlat(), metrics=accuracy,
                    opt_func=SGD, cbs=[EpochSeed(7), Float64(), *cbs])
    with learn.no_bar(), learn.no_logging(), processes.across(learn): learn.fit(3, 0.3)
    assert processes.from_first(lambda: processes.first)
    values = [list(map(float, o)) for o in learn.recorder.values]
    torch.save(dict(weights=learn.model.state_dict(), values=values), out + os.environ.get('RANK', ''))

if __name__ == '__main__':
    torch.set_num_threads(1)
    torch.manual_seed(os.getpid())
    train(sys.argv[1], sys.argv[2], 16, [])
'''


def distance(a, b): return max((a['weights'][k] - b['weights'][k]).abs().max().item() for k in a['weights'])


@pytest.mark.slow
@pytest.mark.skipif(os.name == 'nt', reason='gloo under torchrun is not for Windows')
def test_two_processes_train_as_one_does(tmp_path):
    "In float64: another grouping of the same images differs far more than rounding"
    start = str(tmp_path/'start.pt')
    torch.save(LeNet().double().state_dict(), start)
    script = {'__name__': 'script'}
    exec(SCRIPT, script)
    script['train'](start, str(tmp_path/'one'), 32, [script['SameImages']()])
    script['train'](start, str(tmp_path/'other'), 32, [])
    (tmp_path/'script.py').write_text(SCRIPT)
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
               tmp_path/'script.py', start, tmp_path/'two']
    done = subprocess.run([str(o) for o in command], capture_output=True, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    one, other, first, second = (torch.load(tmp_path/o) for o in ('one', 'other', 'two0', 'two1'))
    assert distance(first, one) < 1e-9 < 1e-3 < distance(other, one)
    assert distance(first, second) == 0
    for a, b in zip(one['values'], first['values'], strict=True):
        assert abs(a[1] - b[1]) < 1e-4  # validation loss, gathered from both
    assert first['values'][-1][1:] == second['values'][-1][1:]
