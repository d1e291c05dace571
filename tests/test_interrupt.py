"Ctrl-C in a terminal: the signal goes to the training and to the processes that read images for it."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no process groups to interrupt')
def test_interrupted_run_stays_usable(tmp_path):
    out = tmp_path/'run'
    training = subprocess.Popen([BIN/'cifake-train', '--demo', '--recipe', 'lenet', '--epochs', '500', '--out', out], cwd=tmp_path,
                                start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) # a shell's background jobs ignore Ctrl-C
    text = ''
    try:
        deadline = time.monotonic() + 120
        while not (out/'history.csv').exists() and time.monotonic() < deadline and training.poll() is None: time.sleep(0.5)
        time.sleep(1)
        for _ in range(2): # as a user would press again: fastai and fastprogress have places that swallow Ctrl-C (`except:`)
            os.killpg(training.pid, signal.SIGINT)
            try: text, _ = training.communicate(timeout=30)
            except subprocess.TimeoutExpired: continue
            break
    finally:
        if training.poll() is None: os.killpg(training.pid, signal.SIGKILL)
    assert training.returncode == 130, text
    assert 'Interrupted after' in text and 'Traceback' not in text
    assert json.loads((out/'recipe.json').read_text())['status'] == 'interrupted'
    assert not [o.name for o in out.iterdir() if o.name.startswith('.')]
    report = tmp_path/'report.json'
    done = subprocess.run([BIN/'cifake-evaluate', out, '--split', 'valid', '--save', report], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(report.read_text())['accuracy'] < 1


def epochs_done(out): return len((out/'history.csv').read_text().splitlines()) - 1 if (out/'history.csv').exists() else 0


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGKILL')
def test_killed_run_goes_on_to_the_same_result(tmp_path):
    "SIGKILL, somewhere in an epoch; what comes out is what a run that was left alone gives, in float32, to the last digit"
    recipe = tmp_path/'small.json'
    values = dict(name='small', arch='lenet', optimizer='muon', lr=0.01, epochs=40, min_steps=0, average=0.99, cutmix=0.5, flip_average=True)
    recipe.write_text(json.dumps(values))
    command = [BIN/'python', '-W', 'ignore', '-c', 'import sys; from cifake.all import *; from cifake.recipes import recipe_from_json; from pathlib import Path; '
               'train_learner(demo_cifake(), recipe_from_json(Path(sys.argv[1]).read_text()), out=sys.argv[2], precision="float32")', recipe]
    killed, whole = tmp_path/'killed', tmp_path/'whole'
    training = subprocess.Popen([*command, killed], cwd=tmp_path, start_new_session=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 120
        while epochs_done(killed) < 5 and time.monotonic() < deadline and training.poll() is None: time.sleep(0.05)
    finally: os.killpg(training.pid, signal.SIGKILL)
    text, _ = training.communicate(timeout=60)
    assert 5 <= epochs_done(killed) < 40, text
    assert json.loads((killed/'recipe.json').read_text())['status'] == 'started'
    went_on = subprocess.run([BIN/'cifake-train', '--resume', killed], cwd=tmp_path, capture_output=True, text=True)
    assert went_on.returncode == 0, went_on.stderr
    done = subprocess.run([*command, whole], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    without_seconds = lambda out: [line.rsplit(',', 1)[0] for line in (out/'history.csv').read_text().splitlines()]
    assert without_seconds(killed) == without_seconds(whole)
    assert (killed/'weights.safetensors').read_bytes() == (whole/'weights.safetensors').read_bytes()
    assert (killed/'report.json').read_text() == (whole/'report.json').read_text()
    assert not list(killed.glob('.*')) and not (killed/'checkpoint.pt').exists()
