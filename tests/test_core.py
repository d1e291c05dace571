"The ground: files written in one step, digests, JSON, work on many files"
import json
import math
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fastcore.foundation import L
from packaging.requirements import Requirement

from check import ROOT
from cifake.data.core import (
    _too_old,
    available_cores,
    can_share,
    can_write,
    cifake_home,
    digest_of,
    file_digest,
    home_errors,
    items_digest,
    map_files,
    place_for,
    project_url,
    replacing,
    settle_process,
    show_versions,
    write_file,
)
from cifake.data.demo import demo_cifake
from cifake.data.numbers import as_number, json_values, plain, to_json
from conftest import clean_env


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    "Neither CIFAKE_HOME nor a home that can be written; a folder for temporary files"
    monkeypatch.setenv('CIFAKE_HOME', '')
    (tmp_path/'home').write_text('a file, in which nobody makes a folder, root neither')
    monkeypatch.setattr('cifake.data.core.user_cache_path', lambda *args, **kwargs: tmp_path/'home'/'cifake')
    (tmp_path/'tmp').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'tmp'))
    return tmp_path


def test_the_home_folder_follows_its_variable(monkeypatch, tmp_path):
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path))
    assert cifake_home() == tmp_path
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('CIFAKE_HOME', '~/kept')
    assert cifake_home() == tmp_path/'kept'


def test_without_its_variable_it_is_the_folder_for_caches(monkeypatch, tmp_path):
    monkeypatch.setenv('CIFAKE_HOME', '')
    monkeypatch.setattr('cifake.data.core.user_cache_path', lambda *args, **kwargs: tmp_path/'caches'/'cifake')
    assert cifake_home() == tmp_path/'caches'/'cifake' and not (tmp_path/'caches').exists()


def test_a_home_that_cannot_be_written_gives_way_to_a_temporary_one_that_is_said_once(homeless, caplog):
    found = cifake_home()
    assert found.parent == homeless/'tmp' and found.stat().st_mode & 0o77 == 0
    assert cifake_home() == found and caplog.text.count('CIFAKE_HOME') == 1


def test_a_folder_that_another_user_put_there_is_not_taken(homeless):
    (homeless/'elsewhere').mkdir()
    user = os.getuid() if hasattr(os, 'getuid') else 0
    (homeless/'tmp'/f'cifake-{user}').symlink_to(homeless/'elsewhere')
    found = cifake_home()
    assert found.is_dir() and not found.is_symlink() and found.name != f'cifake-{user}'


def test_what_needs_a_folder_names_the_variable(monkeypatch, tmp_path):
    (tmp_path/'full').write_text('')
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path/'full'))
    with pytest.raises(OSError, match=f'{tmp_path}/full.*set CIFAKE_HOME'): demo_cifake(n=20)
    with pytest.raises(OSError, match='CIFAKE_HOME'), home_errors(): raise OSError(28, 'No space left on device')
    with pytest.raises(FileNotFoundError, match='other'), home_errors(): (tmp_path/'other').read_bytes()


def test_neither_home_nor_user_nor_temporary_folder(monkeypatch):
    monkeypatch.setenv('CIFAKE_HOME', '')
    monkeypatch.setattr('cifake.data.core.user_cache_path', lambda *args, **kwargs: Path('~/.cache/cifake'))
    monkeypatch.setattr(tempfile, 'gettempdir', lambda: os.stat('no such folder'))
    assert not can_write(cifake_home())


def test_files_of_other_libraries_go_where_they_can_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path/'ours'))
    (tmp_path/'file').write_text('')
    assert place_for(tmp_path/'hub') == tmp_path/'hub' and place_for(tmp_path/'file'/'hub') == tmp_path/'ours'/'hub'


@pytest.fixture
def variables(monkeypatch):
    "Variables that other libraries look at, which are as before after the test"
    names = 'CIFAKE_HOME', 'MPLCONFIGDIR', 'XDG_CACHE_HOME', 'TMPDIR'
    for name in names: monkeypatch.setenv(name, '')
    for name in names: monkeypatch.delenv(name)


def test_a_command_on_a_usual_machine_changes_no_variable(variables, monkeypatch, tmp_path):
    monkeypatch.setattr('cifake.data.core.user_cache_path', lambda *args, **kwargs: tmp_path)
    before = dict(os.environ)
    settle_process()
    assert dict(os.environ) == before


def test_a_command_without_a_home_gives_other_libraries_a_place(variables, homeless):
    settle_process()
    home = cifake_home()
    assert os.environ['XDG_CACHE_HOME'] == str(home/'caches') and os.environ['MPLCONFIGDIR'] == str(home/'matplotlib')
    assert home.parent == homeless/'tmp' and 'TMPDIR' not in os.environ


def test_a_command_without_a_temporary_folder_makes_one_or_names_the_variable(variables, homeless, monkeypatch):
    def nowhere():
        if tempfile.tempdir: return tempfile.tempdir
        raise FileNotFoundError('No usable temporary directory found')
    monkeypatch.setattr(tempfile, 'tempdir', None)
    monkeypatch.setattr(tempfile, 'gettempdir', nowhere)
    with pytest.raises(OSError, match='set CIFAKE_HOME'): settle_process()
    os.environ['CIFAKE_HOME'] = str(homeless/'ours')
    settle_process()
    assert tempfile.tempdir == os.environ['TMPDIR'] == str(homeless/'ours'/'tmp')


def test_text_and_bytes_are_written_and_folders_made(tmp_path):
    assert write_file(tmp_path/'a'/'b.txt', 'é').read_bytes() == 'é'.encode()
    assert write_file(str(tmp_path/'a'/'b.txt'), b'\xff').read_bytes() == b'\xff'


@pytest.mark.parametrize('error', [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_other(tmp_path, error):
    file = write_file(tmp_path/'a.txt', 'old')
    with pytest.raises(error), replacing(file) as part:
        part.write_text('ne')
        raise error
    assert file.read_text() == 'old' and os.listdir(tmp_path) == ['a.txt']


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(tmp_path):
    (tmp_path/'taken').mkdir()
    with pytest.raises(OSError): write_file(tmp_path/'taken', 'x')
    assert os.listdir(tmp_path) == ['taken']


def test_threads_may_write_one_file(tmp_path):
    texts = [str(i)*10_000 for i in range(8)]
    threads = [Thread(target=write_file, args=(tmp_path/'a.txt', o)) for o in texts]
    for o in threads: o.start()
    for o in threads: o.join()
    assert (tmp_path/'a.txt').read_text() in texts and os.listdir(tmp_path) == ['a.txt']


def test_a_written_file_can_be_read_by_whom_the_system_allows(tmp_path):
    "Not by its owner alone, as temporary files are"
    (tmp_path/'plain').write_text('')
    write_file(tmp_path/'ours', '')
    assert (tmp_path/'ours').stat().st_mode == (tmp_path/'plain').stat().st_mode


def test_digests_are_those_of_earlier_runs(tmp_path):
    "They stand in files of runs and must not change"
    assert digest_of('cifake') == digest_of(b'cifake') == 'd1c526e888f472c5760816b74bd38e86'
    assert file_digest(write_file(tmp_path/'a', 'cifake')) == digest_of('cifake')
    assert len(digest_of('', 8)) == 16


def test_the_digest_of_items_depends_on_labels_and_splits_and_not_on_their_order():
    items = [SimpleNamespace(split='train', label=o, digest=o.lower()) for o in ('FAKE', 'REAL')]
    assert items_digest(items) == items_digest(items[::-1]) == digest_of('train FAKE fake\ntrain REAL real')
    assert items_digest(items) != items_digest([SimpleNamespace(split='valid', label='FAKE', digest='fake'), items[1]])


def test_plain_values_are_of_pythons_own_types():
    value = dict(a=np.float32(0.5), b=(np.int64(1), [np.bool_(True)]), c=L(1, np.int8(2)), d=np.eye(2), e=None)
    found = plain(value)
    assert found == dict(a=0.5, b=(1, [True]), c=[1, 2], d=[[1, 0], [0, 1]], e=None)
    assert [type(o) for o in (found['a'], found['b'], found['b'][0], found['c'])] == [float, tuple, int, list]


def test_tensors_of_a_checkpoint_stay_tensors():
    step = torch.tensor(3.)
    assert plain(dict(step=step)) == dict(step=3.0)
    kept = plain(dict(step=step, n=np.int64(2)), tensors=False)
    assert kept['step'] is step and type(kept['n']) is int


def test_json_has_no_nan():
    value = dict(a=[float('nan'), np.float64('inf'), 1.5], b={np.int64(3): Path('x/y')}, c=True, d=10**20)
    strict = json.loads(to_json(value), parse_constant=lambda o: pytest.fail(f'{o} is not JSON'))
    assert strict == json_values(value) == dict(a=[None, None, 1.5], b={'3': 'x/y'}, c=True, d=10**20)


def test_json_does_not_guess_at_other_types():
    with pytest.raises(TypeError): to_json(dict(a=object()))


def test_cores_are_those_this_process_may_use():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    if not hasattr(os, 'sched_setaffinity'): pytest.skip('needs sched_setaffinity')
    code = 'from cifake.data.core import available_cores; print(available_cores())'
    pinned = f'import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {code}'
    done = subprocess.run([sys.executable, '-c', pinned], capture_output=True, text=True, check=True, env=clean_env())
    assert done.stdout.split() == ['1']


def length(file): return len(str(file))


def test_files_are_read_in_one_process_where_none_can_share(monkeypatch):
    "As in containers without /dev/shm, where a lock cannot be made"
    files = [str(i) for i in range(3000)]
    def no_lock(self): raise FileNotFoundError(2, 'No such file or directory')
    monkeypatch.setattr('multiprocessing.context.BaseContext.Lock', no_lock)
    assert not can_share()
    with patch('cifake.data.core.ProcessPoolExecutor', side_effect=AssertionError('started a process')):
        assert list(map_files(length, files, 'reading')) == [len(o) for o in files]
    monkeypatch.undo()
    assert list(map_files(length, files, 'reading')) == [len(o) for o in files]


def test_the_ground_is_light():
    code = 'import sys, cifake.data.core, cifake.data.pictures; print({"torch", "fastai", "pandas"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=clean_env())
    assert done.stdout.strip() == 'set()'


def test_a_package_that_is_missing_or_too_old_is_named():
    assert 'fastai is missing' not in (_too_old([Requirement('fastai')]) or '')
    assert 'nowhere-to-be-found is missing' in _too_old([Requirement('nowhere-to-be-found>=1')])
    assert 'is installed, but cifake needs numpy' in _too_old([Requirement('numpy<0.1')])
    assert _too_old([Requirement('numpy'), Requirement('pandas>=0.1')]) is None


def test_a_checkout_that_is_not_installed_says_so():
    with patch('importlib.metadata.requires', side_effect=metadata.PackageNotFoundError('cifake')):
        with pytest.raises(ImportError, match='on the path but not installed'): show_versions()


def test_an_address_is_that_of_the_installed_package():
    urls = ['Repository, https://github.com/someone/cifake', 'Documentation, https://someone.github.io/cifake']
    with patch('importlib.metadata.metadata', lambda name: SimpleNamespace(get_all=lambda key: urls)):
        assert project_url('Documentation') == 'https://someone.github.io/cifake'
        assert project_url('Issues') == ''
    with patch('importlib.metadata.metadata', lambda name: SimpleNamespace(get_all=lambda key: None)):
        assert project_url('Repository') == ''
    with patch('importlib.metadata.metadata', side_effect=metadata.PackageNotFoundError):
        assert project_url('Repository') == ''


@pytest.mark.parametrize('value', [np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5])], ids=repr)
def test_one_number_of_any_library_is_a_number_of_python(value):
    assert plain(value) == 0.5 and type(plain(dict(a=[value]))['a'][0]) is float


def test_json_is_written_in_one_place():
    "`to_json`, which writes no NaN; the others use it"
    writers = [o.name for o in (ROOT/'cifake').rglob('*.py') if 'json.dump' in o.read_text(encoding='utf-8')]
    assert writers == ['numbers.py']


@pytest.mark.parametrize('value', [3, np.int16(3), np.array([3]), torch.tensor(3), torch.tensor([3])], ids=repr)
def test_a_whole_number_of_any_library_is_one_of_python(value):
    assert as_number('n', value, int, 1, 9) == 3 and type(as_number('n', value, int)) is int


@pytest.mark.parametrize('value', ['3', None, True, math.nan, math.inf, 3., 0, 10, [3, 4], torch.ones(2)], ids=repr)
def test_what_is_no_such_number_is_told(value):
    with pytest.raises(ValueError, match=r'`n` is .*: give a whole number from 1 to 9\.'):
        as_number('n', value, int, 1, 9)
