"Two trainings on one machine: each can be seen by others, and a command that finds one chooses how its threads wait"
import os
import subprocess
import sys

import pytest

from cifake.data import marked_training, other_trainings
from conftest import clean_env

HOLD = '''import sys
from cifake.data import marked_training
with marked_training():
    print('marked', flush=True)
    sys.stdin.read()'''
CHOOSE = '''import os, sys
from cifake.cli import _share_cores
_share_cores()
print(os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules)'''


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path))
    for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'OMP_NUM_THREADS'): monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def another(home):
    "A process that trains, as far as others can see"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, '-c', HOLD], env=clean_env(), **pipes)
    assert process.stdout.readline() == 'marked\n'
    yield process
    process.kill()
    process.communicate()


def chosen(**env):
    "The waiting policy that a command chooses, and whether torch was imported by then"
    command = [sys.executable, '-c', CHOOSE]
    done = subprocess.run(command, env=clean_env(**env), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_a_training_is_seen_until_its_process_ends(another, home):
    assert other_trainings() == 1
    another.kill()  # as a machine without memory does: nothing is tidied up
    another.wait()
    assert other_trainings() == 0
    assert not list((home/'training').iterdir())


def test_a_process_does_not_see_itself(home):
    with marked_training(): assert other_trainings() == 0
    assert not list((home/'training').iterdir())


@pytest.mark.parametrize('place', ['a file', 'below a file'])
def test_a_home_that_cannot_be_written_stops_no_training(place, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path/'file' if place == 'a file' else tmp_path/'file'/'below'))
    with marked_training(): assert other_trainings() == 0


def test_a_command_waits_passively_beside_another_training(another):
    assert chosen() == 'PASSIVE False'
    assert 'OMP_WAIT_POLICY' not in os.environ


@pytest.mark.parametrize('name, value', [
    ('OMP_NUM_THREADS', '1'), ('OMP_WAIT_POLICY', 'ACTIVE'), ('GOMP_SPINCOUNT', '7')])
def test_what_a_user_chose_is_kept(name, value, another):
    assert chosen(**{name: value}) == f'{value if name == "OMP_WAIT_POLICY" else None} False'


def test_a_command_alone_chooses_nothing(home): assert chosen() == 'None False'
