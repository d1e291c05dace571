"Ctrl-C in a terminal: the signal goes to the training and to the processes that read images for it. And SIGKILL."
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

windows = pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGKILL and no process groups')
pytestmark = [pytest.mark.slow, windows]
BIN = Path(sys.executable).parent
PIPES = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(file, training, seconds=300):
    "Wait until the training has written `file`; one that ended before is the caller's to explain"
    deadline = time.monotonic() + seconds
    while not file.exists() and time.monotonic() < deadline and training.poll() is None: time.sleep(0.1)


def test_interrupted_run_stays_usable(tmp_path):
    out = tmp_path/'run'
    command = [BIN/'cifake-train', '--demo', '--recipe', 'lenet', '--epochs', '500', '--out', out]
    # a shell's background jobs ignore Ctrl-C
    training = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **PIPES,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    text = ''
    try:
        wait_for(out/'history.csv', training)
        time.sleep(1)
        for _ in range(2):  # as a user would press again: fastai and fastprogress swallow Ctrl-C in places (`except:`)
            os.killpg(training.pid, signal.SIGINT)
            try: text, _ = training.communicate(timeout=60)
            except subprocess.TimeoutExpired: continue
            break
    finally:
        if training.poll() is None: os.killpg(training.pid, signal.SIGKILL)
    assert training.returncode == 130, text
    assert 'Interrupted after' in text and 'Traceback' not in text
    assert json.loads((out/'recipe.json').read_text())['status'] == 'interrupted'
    assert not [o.name for o in out.iterdir() if o.name.startswith('.')]
    report = tmp_path/'report.json'
    measure = [BIN/'cifake-evaluate', out, '--split', 'valid', '--save', report]
    done = subprocess.run(measure, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(report.read_text())['n'] == 400


TRAIN = '''import sys, time
from pathlib import Path
from fastai.callback.core import Callback
from cifake.all import demo_cifake, train_learner
from cifake.training.recipes import recipe_from_json

class Hang(Callback):
    "Stay in the middle of the seventh epoch until the process is killed"
    order = 90
    def after_backward(self):
        if len(self.learn.history.rows) < 6 or self.iter < 5: return
        Path('hangs').touch()
        time.sleep(600)

recipe = recipe_from_json(Path(sys.argv[1]).read_text())
cbs = [Hang()] if sys.argv[3:] else None
train_learner(demo_cifake(n=200), recipe, out=sys.argv[2], precision='float32', cbs=cbs)'''


def test_killed_run_goes_on_to_the_same_result(tmp_path):
    "SIGKILL in the middle of an epoch; the result is that of a run that was left alone, in float32, bit for bit"
    values = dict(name='small', arch='lenet', optimizer='muon', lr=0.01, epochs=12, min_steps=0, average=0.99,
                  cutmix=0.5, flip_average=True)
    (tmp_path/'small.json').write_text(json.dumps(values))
    command = [sys.executable, '-W', 'ignore', '-c', TRAIN, 'small.json']
    killed, whole = tmp_path/'killed', tmp_path/'whole'
    training = subprocess.Popen([*command, killed, 'hang'], cwd=tmp_path, start_new_session=True, **PIPES)
    try: wait_for(tmp_path/'hangs', training)
    finally: os.killpg(training.pid, signal.SIGKILL)
    text, _ = training.communicate(timeout=60)
    assert len((killed/'history.csv').read_text().splitlines()) == 7, text  # a heading and six epochs
    assert json.loads((killed/'recipe.json').read_text())['status'] == 'started'
    went_on = subprocess.run([BIN/'cifake-train', '--resume', killed], cwd=tmp_path, capture_output=True, text=True)
    assert went_on.returncode == 0, went_on.stderr
    done = subprocess.run([*command, whole], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def without_seconds(out): return [line.rsplit(',', 1)[0] for line in (out/'history.csv').read_text().splitlines()]
    assert without_seconds(killed) == without_seconds(whole)
    assert (killed/'weights.safetensors').read_bytes() == (whole/'weights.safetensors').read_bytes()
    assert (killed/'report.json').read_text() == (whole/'report.json').read_text()
    assert not list(killed.glob('.*')) and not (killed/'checkpoint.pt').exists()
