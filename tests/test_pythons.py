"The wheel under another version of Python: installed, trained on the demo set, asked for a verdict"
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import clean_env, run
from fresh import scripts_of

VERSIONS = '3.12', '3.13', '3.10', '3.11'
JUDGE = '''from cifake.all import demo_cifake, load_detector
file = sorted((demo_cifake()/'test'/'FAKE').iterdir())[0]
print(load_detector().predict(file).verdict[0])'''


def interpreters():
    "Pythons of other versions on this machine, on the path or below pyenv, those we mean to support"
    home = Path(os.environ.get('PYENV_ROOT') or Path.home()/'.pyenv')
    for version in VERSIONS:
        if version == f'{sys.version_info.major}.{sys.version_info.minor}': continue
        below = sorted(home.glob(f'versions/{version}.*/bin/python'))
        for python in [shutil.which(f'python{version}'), *below]:
            if python and works(python, version): yield version, python


def works(python, version):
    "Whether `python` is that version and can make an environment: pyenv's shims may name one that is not there"
    code = 'import sys, venv, ensurepip; print("{}.{}".format(*sys.version_info))'
    done = subprocess.run([python, '-c', code], env=clean_env(), capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == version


def test_another_python(dist, tmp_path):
    "One of them: CI's matrix has the others"
    found = next(interpreters(), None)
    if found is None: pytest.skip('There is no other supported version of Python here.')
    run(found[1], '-m', 'venv', tmp_path/'env', cwd=tmp_path)
    scripts = scripts_of(tmp_path/'env')
    wheel = next(dist.glob('*.whl'))
    run(scripts/'python', '-m', 'pip', 'install', '--quiet', '--no-compile', wheel, cwd=tmp_path)
    home = dict(CIFAKE_HOME=str(tmp_path/'home'), PYTHONWARNINGS='ignore')
    train = scripts/'cifake-train', '--demo', '--recipe', 'lenet', '--epochs', '1', '--out', 'run'
    said = run(*train, cwd=tmp_path, **home)
    assert 'Kept in run' in said
    assert run(scripts/'python', '-c', JUDGE, cwd=tmp_path, **home).split()[-1] in ('FAKE', 'REAL')
    shutil.rmtree(tmp_path/'env')  # several gigabytes
