"Two processes that torchrun starts on this machine train one detector, and go on after a kill"
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file

BIN = Path(sys.executable).parent
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'CIFAKE_PRECISION': 'float32'}
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == 'nt', reason='gloo under torchrun is not for Windows')]


def run(*command, cwd):
    return subprocess.run([str(o) for o in command], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=600)


def train(*options, cwd): return run(*TORCHRUN, '--no-python', BIN/'cifake-train', *options, cwd=cwd)


def recipe_in(folder, **values):
    "A file with a small recipe that uses what has to be the same in all processes: a rate, an average, objects"
    values = dict(name='small', arch='lenet', optimizer='muon', epochs=3, min_steps=0, average=0.9, flip_average=True,
                  objects=True, bs=64, shift=1) | values
    (folder/'small.json').write_text(json.dumps(values))
    return folder/'small.json'


def test_two_processes_leave_one_run(tmp_path):
    done = train('--demo', '--recipe', recipe_in(tmp_path, lr=None), '--out', 'run', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('Kept in run') == done.stdout.count('recall of FAKE  ') == 1
    card = json.loads((tmp_path/'run'/'recipe.json').read_text())
    assert card['status'] == 'finished' and card['epochs_done'] == 3 and 1e-5 < card['lr'] < 1
    assert card['precision'] == 'float32'
    assert not [o.name for o in (tmp_path/'run').iterdir() if o.name.startswith('.') or o.name == 'checkpoint.pt']
    assert (tmp_path/'run'/'top_losses.png').exists()
    again = run(BIN/'cifake-evaluate', 'run', '--split', 'valid', '--save', 'again.json', cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    report, again = (json.loads((tmp_path/o).read_text()) for o in ('run/report.json', 'again.json'))
    assert report['accuracy'] == again['accuracy'] and report['n'] == again['n'] == 400


TRAIN = '''import sys, time, warnings
warnings.simplefilter('ignore')
from pathlib import Path
from fastai.callback.core import Callback
from cifake.all import demo_cifake, train_learner
from cifake.training.recipes import recipe_from_json

class Hang(Callback):
    "Stay in the middle of the fourth epoch until the process is killed"
    order = 90
    def after_backward(self):
        if len(self.learn.history.rows) < 3 or self.iter < 2: return
        Path('hangs').touch()
        time.sleep(600)

recipe = recipe_from_json(Path('small.json').read_text())
train_learner(demo_cifake(n=200), recipe, out=sys.argv[1], cbs=[Hang()] if sys.argv[2:] else None)'''


def test_killed_together_and_resumed(tmp_path):
    recipe_in(tmp_path, lr=0.01, epochs=6, bs=32)
    (tmp_path/'train.py').write_text(TRAIN)
    whole = run(*TORCHRUN, 'train.py', 'whole', cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path/'killed'
    command = [*TORCHRUN, 'train.py', 'killed', 'hang']
    training = subprocess.Popen(command, cwd=tmp_path, env=ENV, start_new_session=True, text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path/'hangs').exists() and time.monotonic() < deadline and training.poll() is None:
            time.sleep(0.1)
        # torchrun gives its processes sessions of their own
        for o in psutil.Process(training.pid).children(recursive=True): o.kill()
    finally: os.killpg(training.pid, signal.SIGKILL)
    text, _ = training.communicate(timeout=60)
    assert len((killed/'history.csv').read_text().splitlines()) == 4, text  # a heading and three epochs
    assert json.loads((killed/'recipe.json').read_text())['status'] == 'started'
    went_on = train('--resume', 'killed', cwd=tmp_path)
    assert went_on.returncode == 0, went_on.stderr
    a, b = (load_file(tmp_path/o/'weights.safetensors') for o in ('whole', 'killed'))
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 1e-5
    a, b = (pd.read_csv(tmp_path/o/'history.csv') for o in ('whole', 'killed'))
    assert len(a) == len(b) == 6 and (a.valid_loss - b.valid_loss).abs().max() < 1e-4


def test_one_sentence_for_a_folder_in_use(tmp_path):
    (tmp_path/'used').mkdir()
    (tmp_path/'used'/'mine.txt').write_text('mine')
    done = train('--demo', '--recipe', 'lenet', '--epochs', '1', '--out', 'used', cwd=tmp_path)
    assert done.returncode != 0 and 'used is not empty' in done.stderr
    assert [o.name for o in (tmp_path/'used').iterdir()] == ['mine.txt']


def test_two_machines_train_one_detector(tmp_path):
    "Two machines of one process each, as `torchrun --nnodes 2` has them, here at two folders of one machine"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    meeting = ['--nnodes', '2', '--nproc-per-node', '1', '--rdzv-backend', 'c10d', '--rdzv-id', 'cifake',
               '--rdzv-endpoint', f'127.0.0.1:{port}', '--local-addr', '127.0.0.1']
    recipe = recipe_in(tmp_path, lr=0.01, epochs=1)
    machines = [tmp_path/o for o in ('first', 'second')]
    for o in machines: o.mkdir()
    command = [sys.executable, '-m', 'torch.distributed.run', *meeting, '--no-python', BIN/'cifake-train', '--demo',
               '--recipe', recipe, '--out', 'run']
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    both = [subprocess.Popen(command, cwd=o, env=ENV, **pipes) for o in machines]
    said = [o.communicate(timeout=600) for o in both]
    assert [o.returncode for o in both] == [0, 0], said
    assert sorted(out.count('Kept in run') for out, _ in said) == [0, 1]
    (kept,) = [o/'run' for o in machines if (o/'run').exists()]
    card = json.loads((kept/'recipe.json').read_text())
    assert card['status'] == 'finished' and card['epochs_done'] == 1
