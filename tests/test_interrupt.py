"Ctrl-C in a terminal: the signal goes to the training and to the processes that read images for it."
import json, os, signal, subprocess, sys, time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no process groups to interrupt')
def test_interrupted_run_stays_usable(tmp_path):
    out = tmp_path/'run'
    training = subprocess.Popen([BIN/'cifake-train', '--demo', '--recipe', 'lenet', '--epochs', '500', '--out', out], cwd=tmp_path,
                                start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (out/'history.csv').exists() and time.monotonic() < deadline and training.poll() is None: time.sleep(0.5)
        time.sleep(1)
        os.killpg(training.pid, signal.SIGINT)
        text, _ = training.communicate(timeout=60)
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
