"Two trainings on one machine: each can be seen by others, and a command that finds one says how to share the cores"
import subprocess
import sys

import pytest

from cifake.data.core import available_cores, marked_training, other_trainings
from conftest import clean_env

HOLD = '''import sys
from cifake.data.core import marked_training
with marked_training():
    print('marked', flush=True)
    sys.stdin.read()'''
SAY = '''import os, sys
before = dict(os.environ)
from cifake.cli import _say_shared
_say_shared()
print(dict(os.environ) == before, 'torch' in sys.modules)'''


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


def said(**env):
    "What a command says before it imports torch"
    done = subprocess.run([sys.executable, '-c', SAY], env=clean_env(**env), capture_output=True, text=True, check=True)
    *text, state = done.stdout.splitlines()
    assert state == 'True False', 'the environment was changed, or torch was imported'
    return '\n'.join(text)


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


@pytest.mark.skipif(available_cores() < 2, reason='one core cannot be shared out')
def test_a_command_says_how_to_share_the_cores(another):
    assert 'Another training runs on this machine.' in said()
    assert f'OMP_NUM_THREADS={available_cores()//2}.' in said()
    assert said(OMP_NUM_THREADS=str(available_cores())) == said()


def test_who_has_taken_a_share_is_told_nothing(another): assert said(OMP_NUM_THREADS='1') == ''


def test_a_command_alone_says_nothing(home): assert said() == ''
