"Two processes that torchrun starts on this machine train one detector, and go on after a kill"
import json, os, signal, socket, subprocess, sys, time
from pathlib import Path
import pandas as pd, psutil, pytest
from safetensors.torch import load_file

BIN = Path(sys.executable).parent
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '--no-python']
ENV = {**os.environ, 'OMP_NUM_THREADS':'1'}
pytestmark = pytest.mark.skipif(os.name == 'nt', reason='gloo under torchrun is not for Windows')


def train(*options, cwd, several=True, **kwargs):
    command = [*(TORCHRUN if several else []), BIN/'cifake-train', *options]
    return subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, timeout=300, **kwargs)


def recipe_in(folder, **values):
    "A file with a small recipe that uses what has to be the same in all processes: a suggested rate, an average of weights, objects"
    values = dict(name='small', arch='lenet', optimizer='muon', epochs=3, min_steps=0, average=0.9, flip_average=True, objects=True, bs=64, shift=1) | values
    (folder/'small.json').write_text(json.dumps(values))
    return folder/'small.json'


def test_two_processes_leave_one_run(tmp_path):
    done = train('--demo', '--recipe', recipe_in(tmp_path, lr=None), '--out', 'run', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('Kept in run') == done.stdout.count('recall of FAKE  ') == 1
    card = json.loads((tmp_path/'run'/'recipe.json').read_text())
    assert card['status'] == 'finished' and card['epochs_done'] == 3 and 1e-5 < card['lr'] < 1
    assert not [o.name for o in (tmp_path/'run').iterdir() if o.name.startswith('.') or o.name == 'checkpoint.pt']
    assert (tmp_path/'run'/'top_losses.png').exists()
    again = subprocess.run([BIN/'cifake-evaluate', 'run', '--split', 'valid', '--save', 'again.json'], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    report, again = (json.loads((tmp_path/o).read_text()) for o in ('run/report.json', 'again.json'))
    assert report['accuracy'] == again['accuracy'] and report['n'] == again['n'] == 200


def test_killed_together_and_resumed(tmp_path):
    recipe = recipe_in(tmp_path, lr=0.01, epochs=16)
    whole = train('--demo', '--recipe', recipe, '--out', 'whole', cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    killed = tmp_path/'killed'
    training = subprocess.Popen([*TORCHRUN, BIN/'cifake-train', '--demo', '--recipe', recipe, '--out', 'killed'], cwd=tmp_path, env=ENV, start_new_session=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    def epochs(): return len((killed/'history.csv').read_text().splitlines()) - 1 if (killed/'history.csv').exists() else 0
    try:
        deadline = time.monotonic() + 120
        while epochs() < 3 and time.monotonic() < deadline and training.poll() is None: time.sleep(0.05)
        for o in psutil.Process(training.pid).children(recursive=True): o.kill() # torchrun gives its processes sessions of their own
    finally: os.killpg(training.pid, signal.SIGKILL)
    text, _ = training.communicate(timeout=60)
    assert 3 <= epochs() < 16, text
    assert json.loads((killed/'recipe.json').read_text())['status'] == 'started'
    went_on = train('--resume', 'killed', cwd=tmp_path)
    assert went_on.returncode == 0, went_on.stderr
    a, b = (load_file(tmp_path/o/'weights.safetensors') for o in ('whole', 'killed'))
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 1e-5
    a, b = (pd.read_csv(tmp_path/o/'history.csv') for o in ('whole', 'killed'))
    assert len(a) == len(b) == 16 and (a.valid_loss - b.valid_loss).abs().max() < 1e-4


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
        meeting = ['--nnodes', '2', '--nproc-per-node', '1', '--rdzv-backend', 'c10d', '--rdzv-id', 'cifake', '--rdzv-endpoint', f'127.0.0.1:{s.getsockname()[1]}']
    recipe = recipe_in(tmp_path, lr=0.01, epochs=1)
    machines = [tmp_path/o for o in ('first', 'second')]
    for o in machines: o.mkdir()
    command = [sys.executable, '-m', 'torch.distributed.run', *meeting, '--local-addr', '127.0.0.1', '--no-python', BIN/'cifake-train', '--demo', '--recipe', recipe, '--out', 'run']
    both = [subprocess.Popen(command, cwd=o, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for o in machines]
    said = [o.communicate(timeout=300) for o in both]
    assert [o.returncode for o in both] == [0, 0], said
    assert sorted(out.count('Kept in run') for out, _ in said) == [0, 1]
    (kept,) = [o/'run' for o in machines if (o/'run').exists()]
    card = json.loads((kept/'recipe.json').read_text())
    assert card['status'] == 'finished' and card['epochs_done'] == 1
