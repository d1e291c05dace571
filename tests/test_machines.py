"Odd machines, imitated: one core, no AVX2, no /dev/shm, little memory, a clock that jumps. All train and predict."
import os
import shutil
import subprocess
import sys
from datetime import datetime
from unittest.mock import patch

import pytest

from cifake.data.demo import demo_cifake
from cifake.training.runs import FolderTaken, new_run
from conftest import clean_env

WORK = '''import json, sys, warnings
warnings.simplefilter('ignore')
from cifake.all import demo_cifake, load_detector, train_learner, cifake_dls
learn = train_learner(demo_cifake(n=60), 'quick', epochs=1, out='run', verbose=False)
pictures = [o.file for o in learn.dls.valid.items]
rows = load_detector().predict(pictures)
read = sum(len(x) for x, _ in cifake_dls(demo_cifake(n=60), bs=4).valid)
status = open('/proc/self/status') if sys.platform == 'linux' else []
peak = next((int(o.split()[1])//1000 for o in status if o.startswith('VmHWM')), 0)
print(json.dumps(dict(judged=int((rows.error == '').sum()), read=read, megabytes=peak)))'''
PRECISION = "from cifake.training.callbacks import choose_precision; print(choose_precision())"


def on(*before, code=WORK, cwd, **env):
    "What `code` prints as JSON or text in a process of its own on an imitated machine"
    command = [*before, sys.executable, '-c', code]
    done = subprocess.run(command, cwd=cwd, env=clean_env(CIFAKE_PRECISION=None, **env), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def works(said): assert '"judged": 12, "read": 12' in said, said


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('taskset'), reason='needs taskset')
def test_one_core(tmp_path): works(on('taskset', '-c', str(min(os.sched_getaffinity(0))), cwd=tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize('kernels, instructions', [('default', 'SSE41'), ('avx2', 'AVX2')])
def test_older_processors(kernels, instructions, tmp_path):
    env = dict(ATEN_CPU_CAPABILITY=kernels, ONEDNN_MAX_CPU_ISA=instructions)
    works(on(cwd=tmp_path, **env))
    assert on(code=PRECISION, cwd=tmp_path, **env) == 'float32'


def unshared():
    "Whether this user may give a process mounts of its own"
    command = ['unshare', '-m', 'umount', '/dev/shm']
    return bool(shutil.which('unshare')) and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not unshared(), reason='needs the right to unmount /dev/shm for one process')
def test_without_shared_memory(tmp_path):
    "As in a container that has no /dev/shm, or one that cannot be written"
    hidden = 'umount /dev/shm; mount -t tmpfs -o ro,size=4k none /dev/shm; exec "$@"'
    works(on('unshare', '-m', 'sh', '-c', hidden, 'sh', cwd=tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_a_training_fits_in_little_memory(tmp_path):
    "The network of `quick` with its batches of 112 images, in a machine of 4 GB that also runs other things"
    code = WORK.replace("demo_cifake(n=60), 'quick'", "demo_cifake(), 'quick'")
    said = on(code=code, cwd=tmp_path)
    assert 300 < int(said.split('"megabytes": ')[1].rstrip('}')) < 2500, said


PAGE = '''import json, urllib.request
from cifake.all import launch_app
app = launch_app(prevent_thread_lock=True, quiet=True, inline=False)
ask = urllib.request.build_opener(urllib.request.ProxyHandler({}))
page = ask.open(app.local_url).status
app.close(verbose=False)
print(json.dumps(dict(page=page)))'''


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='needs /proc')
def test_a_page_without_home_behind_a_proxy_of_an_unknown_kind_and_in_a_folder_that_is_read_only(tmp_path):
    "As a service, in a container, or on a company's machine"
    gone = dict.fromkeys(['CIFAKE_HOME', 'XDG_CACHE_HOME', 'NO_PROXY', 'no_proxy', 'GRADIO_TEMP_DIR'])
    proxies = dict(HTTP_PROXY='http://127.0.0.1:9', http_proxy='http://127.0.0.1:9', ALL_PROXY='socks5://127.0.0.1:9')
    (tmp_path/'file').write_text('')
    home = dict(HOME=str(tmp_path/'file'/'home'), TMPDIR=str(tmp_path))
    assert on(code=PAGE, cwd='/proc', **home, **gone, **proxies) == '{"page": 200}'
    assert any(o.name.startswith('cifake-') for o in tmp_path.iterdir())


def test_two_runs_in_one_second_and_a_clock_that_is_set_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with patch('cifake.training.runs.datetime') as clock:
        clock.now.return_value = datetime(2026, 1, 1)
        names = []
        for _ in range(3):
            with new_run(None, 'quick') as folder:
                (folder/'recipe.json').write_text('{}')
                names.append(folder.name)
    assert names == ['quick-20260101-000000', 'quick-20260101-000000-2', 'quick-20260101-000000-3']
    with pytest.raises(FolderTaken), new_run(tmp_path/'runs'/names[0], 'quick'): pass


@pytest.mark.slow
@pytest.mark.parametrize('jump', [-40*24*3600, 40*24*3600])
def test_a_clock_that_jumps_during_a_training(jump, tmp_path, monkeypatch):
    "Epochs are timed by a clock that never jumps; the decoded images are there, or made again"
    import time

    from fastai.callback.core import Callback

    from cifake.all import read_history, train_learner
    real, shift = time.time, [0]
    monkeypatch.setattr(time, 'time', lambda: real() + shift[0])

    class Jump(Callback):
        def after_batch(self): shift[0] = jump

    for name in 'first', 'second':
        learn = train_learner(demo_cifake(n=60), 'lenet', epochs=2, out=tmp_path/name, cbs=[Jump()], verbose=False)
        assert read_history(learn).seconds.between(0, 600).all()
