"""A tutorial as its reader meets it: alone in an empty folder, in an environment with the wheel and jupyter.

The index that the first cell installs `cifake` from is a folder with the wheel, in place of PyPI.
"""
import os
import shutil
import sys
from pathlib import Path

import pytest

from check import ROOT
from conftest import alone_in, execute, run
from fresh import install


@pytest.mark.parametrize('notebook', sorted((ROOT/'nbs'/'tutorials').glob('*.ipynb')), ids=lambda path: path.stem)
def test_alone_in_an_empty_folder(jupyter, notebook, tmp_path): alone_in(tmp_path, jupyter, notebook)


def on_kaggle(folder):
    "What makes a machine one of Kaggle's: its variable, and an input folder, which is moved below `folder`"
    startup = folder/'home'/'.ipython'/'profile_default'/'startup'
    startup.mkdir(parents=True)
    moved = f'cifake.data.find.KAGGLE_INPUT = pathlib.Path({str(folder/"input")!r})'
    (startup/'kaggle.py').write_text(f'import cifake.data.find, pathlib\n{moved}\n')
    return dict(KAGGLE_KERNEL_RUN_TYPE='Interactive')


def switched_on(source): return source.replace('FULL = False', 'FULL = True')


def test_kaggle_finds_the_attached_dataset(jupyter, tmp_path):
    attached = tmp_path/'input'/'cifake-real-and-ai-generated-synthetic-images'
    draw = f'p = cifake.data.demo.demo_cifake({str(attached)!r}, n=200)'
    make = f'import cifake.data.demo; {draw}; (p/".cifake-demo").unlink()'
    attached.parent.mkdir()
    run(jupyter/'python', '-c', make, cwd=tmp_path)
    (folder := tmp_path/'notebook').mkdir()
    env = on_kaggle(tmp_path) | dict(HOME=str(tmp_path/'home'))
    text = execute(jupyter, ROOT/'nbs'/'tutorials'/'quickstart.ipynb', folder, switched_on, **env)
    assert 'demo set' not in text
    images = next(line for line in text.splitlines() if line.startswith('images')).split()[1]
    assert int(images) == 40, 'a tenth of 400 attached images is the validation part'


def test_kaggle_without_a_dataset_says_what_to_do(jupyter, tmp_path):
    quickstart = ROOT/'nbs'/'tutorials'/'quickstart.ipynb'
    error = execute(jupyter, quickstart, tmp_path, switched_on, fails=True, **on_kaggle(tmp_path),
                    https_proxy='http://127.0.0.1:9', HTTPS_PROXY='http://127.0.0.1:9')
    assert 'Kaggle did not give the dataset' in error and 'Add Input' in error and '\n' not in error


@pytest.fixture(scope='session')
def bare(tmp_path_factory):
    "An environment with jupyter alone, as a host has it before the first cell"
    folder = tmp_path_factory.mktemp('bare')/'env'
    run(sys.executable, '-m', 'venv', folder, cwd=folder.parent)
    path = folder/('Scripts' if os.name == 'nt' else 'bin')
    install(path/'python', 'nbconvert', 'ipykernel')
    return path


def first_cell(source): return source if 'find_spec' in source else ''


def test_the_first_cell_without_a_network(bare, tmp_path):
    error = execute(bare, ROOT/'nbs'/'tutorials'/'quickstart.ipynb', tmp_path, first_cell, fails=True,
                    PIP_NO_INDEX='1', PIP_FIND_LINKS=str(tmp_path))
    assert error.startswith('cifake could not be installed: check the network') and '\n' not in error


def test_the_first_cell_installs_and_finds_an_old_fastai(bare, dist, tmp_path):
    "Last, since it changes the environment: the wheel is all that the index holds, and the host's fastai is an old one"
    site = Path(run(bare/'python', '-c', 'import site; print(site.getsitepackages()[0])', cwd=tmp_path).strip())
    info = site/'fastai-2.7.19.dist-info'
    info.mkdir()
    (info/'METADATA').write_text('Metadata-Version: 2.1\nName: fastai\nVersion: 2.7.19\n')
    shutil.copy(next(dist.glob('*.whl')), tmp_path)
    needed = 'kagglehub', 'fastcore', 'filelock', 'pandas', 'pillow', 'tqdm', 'packaging', 'scipy'
    install(bare/'python', *needed)
    error = execute(bare, ROOT/'nbs'/'tutorials'/'quickstart.ipynb', tmp_path, first_cell, fails=True,
                    PIP_NO_INDEX='1', PIP_FIND_LINKS=str(tmp_path), PIP_NO_DEPS='1')
    assert 'is installed, but cifake needs fastai>=' in error and '%pip install' in error and '\n' not in error
