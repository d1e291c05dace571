"What a user installs: the sdist, the wheel built from it, and that wheel in a fresh environment without any extra."
import tarfile
import zipfile
from configparser import ConfigParser
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from check import ROOT
from conftest import run

COMMANDS = 'cifake', 'cifake-data', 'cifake-train', 'cifake-evaluate', 'cifake-predict', 'cifake-app'


def test_sdist_can_be_built_from(dist):
    with tarfile.open(next(dist.glob('*.tar.gz'))) as archive: names = {n.split('/', 1)[-1] for n in archive.getnames()}
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'cifake/all.py'} <= names
    assert not [name for name in names if name.startswith(('nbs/', 'tests/', 'benchmarks/'))]


def test_wheel_holds_the_package_and_its_requirements(dist):
    with zipfile.ZipFile(next(dist.glob('*.whl'))) as archive:
        names = archive.namelist()
        metadata = message_from_bytes(archive.read(next(n for n in names if n.endswith('.dist-info/METADATA'))))
    assert {name.split('/')[0].split('-')[0] for name in names} == {'cifake'}
    settings = ConfigParser(interpolation=None)
    settings.read_string((ROOT/'settings.ini').read_text(encoding='utf-8'))
    lists = {name: {Requirement(line).name for line in text.split('\n') if line}
             for name, text in settings.defaults().items() if name != 'lib_name'}
    required = [Requirement(line) for line in metadata.get_all('Requires-Dist')]
    assert {r.name for r in required if 'extra' not in str(r.marker)} == lists.pop('requirements')
    assert set(metadata.get_all('Provides-Extra')) == set(lists)
    everything = {r.name for r in required if r.marker and r.marker.evaluate({'extra': 'dev'})}
    assert everything >= set().union(*lists.values())


def test_networks_in_the_box(dist, scripts, tmp_path):
    "Small, described, in the wheel and in the sdist, and ready to predict without the dataset and without a network"
    with zipfile.ZipFile(next(dist.glob('*.whl'))) as archive:
        boxed = [o for o in archive.infolist() if o.filename.startswith('cifake/pretrained/')]
        sizes = {Path(o.filename).name: o.file_size for o in boxed}
    with tarfile.open(next(dist.glob('*.tar.gz'))) as archive:
        kept = {Path(n).name for n in archive.getnames() if '/pretrained/' in n}
    expected = {f'{name}.{kind}' for name in ('fast', 'robust', 'vit') for kind in ('json', 'safetensors')}
    assert set(sizes) == kept and expected <= kept
    assert all(size <= 4_000_000 for size in sizes.values())
    code = ('from PIL import Image; from cifake.all import load_pretrained; learn = load_pretrained(); '
            'label, _, p = learn.predict(Image.new("RGB", (32,32), "red")); print(label, float(p.sum()))')
    home = dict(HOME=str(tmp_path), CIFAKE_HOME=str(tmp_path/'home'), HF_HUB_OFFLINE='1')
    out = run(scripts/'python', '-W', 'ignore', '-c', code, cwd=tmp_path, **home,
              https_proxy='http://127.0.0.1:9', http_proxy='http://127.0.0.1:9').split()
    assert out[-2] in ('FAKE', 'REAL') and abs(float(out[-1]) - 1) < 1e-5


def test_import_from_an_empty_folder(scripts, tmp_path):
    out = run(scripts/'python', '-c', 'import cifake.all; print(cifake.__file__)', cwd=tmp_path)
    assert Path(out.strip().splitlines()[-1]).is_relative_to(scripts.parent)


def test_the_command_line_imports_no_torch(scripts, tmp_path):
    code = 'import sys, cifake.cli; assert not {"torch", "fastai"} & set(sys.modules)'
    run(scripts/'python', '-c', code, cwd=tmp_path)


@pytest.mark.parametrize('name', COMMANDS)
def test_help(scripts, tmp_path, name):
    assert name in run(scripts/name, '--help', cwd=tmp_path)
