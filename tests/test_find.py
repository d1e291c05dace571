"Finding CIFAKE: the order of places, archives that are damaged or hostile, and what to do where it is not"
import os
import shutil
import zipfile
from unittest.mock import patch

import pytest

from cifake.data import find
from cifake.data.find import HANDLE, download_cifake, download_pictures, find_cifake
from conftest import lay_out

NO_NETWORK = OSError('no route to host')


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A machine on which CIFAKE is nowhere"
    for name in ('CIFAKE_PATH', 'KAGGLEHUB_CACHE', 'KAGGLE_KERNEL_RUN_TYPE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path/'someone'))
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path/'someone'/'.cifake'))
    monkeypatch.setattr(find, 'KAGGLE_INPUT', tmp_path/'kaggle')
    (tmp_path/'someone'/'.cifake').mkdir(parents=True)
    return tmp_path/'someone'


@pytest.fixture
def nested(tmp_path):
    "A dataset inside of a folder"
    lay_out(tmp_path/'input'/'cifake')
    return tmp_path/'input'


@pytest.fixture
def archive(nested, tmp_path):
    "A zip of that folder"
    shutil.make_archive(tmp_path/'archive', 'zip', nested)
    return tmp_path/'archive.zip'


def in_hub(home): return lay_out(home/'.cache'/'kagglehub'/'datasets'/HANDLE/'versions'/'1')


def test_a_zip_in_the_home_folder_is_found_and_unpacked(home, archive):
    shutil.move(archive, home/'.cifake'/'cifake.zip')
    assert find_cifake().is_relative_to(home/'.cifake'/'unpacked')


def test_what_was_unpacked_for_an_argument_is_not_found_without_it(home, archive):
    assert find_cifake(archive).is_relative_to(home/'.cifake'/'unpacked')
    with pytest.raises(FileNotFoundError, match='found nowhere'): find_cifake()


def test_places_are_searched_in_order(home, nested, tmp_path, monkeypatch):
    root = in_hub(home)
    assert find_cifake() == root
    on_kaggle = lay_out(tmp_path/'kaggle'/'datasets'/'cifake')
    assert find_cifake() == on_kaggle
    monkeypatch.setenv('CIFAKE_PATH', str(nested))
    assert find_cifake() == nested/'cifake'
    assert find_cifake(root) == root


def test_a_demo_set_is_passed_over(home, tmp_path):
    root = in_hub(home)
    on_kaggle = lay_out(tmp_path/'kaggle'/'datasets'/'cifake')
    (on_kaggle/'.cifake-demo').touch()
    assert find_cifake() == root


def test_a_variable_that_names_nothing_is_an_error(home, tmp_path, monkeypatch):
    in_hub(home)
    monkeypatch.setenv('CIFAKE_PATH', str(tmp_path/'gone'))
    for call in (find_cifake, download_cifake):
        with pytest.raises(FileNotFoundError, match='CIFAKE_PATH names'): call()


def test_colab_has_a_remedy_of_its_own(home):
    with patch.object(find, 'in_colab', return_value=True), pytest.raises(FileNotFoundError, match='not on this Colab'):
        find_cifake()


def bad_zip(folder, entry):
    with zipfile.ZipFile(folder/'bad.zip', 'w') as z: z.writestr(entry, 'x')
    return folder/'bad.zip'


@pytest.mark.parametrize('entry', ['../out.jpg', '/out.jpg', 'train/../../out.jpg', '..\\out.jpg', 'C:\\out.jpg'])
def test_an_entry_that_climbs_out_of_the_folder_is_never_written(home, tmp_path, entry):
    with pytest.raises(ValueError, match='climbs out'): find_cifake(bad_zip(tmp_path, entry))
    assert not list(tmp_path.rglob('out.jpg')) and not list((home/'.cifake'/'unpacked').iterdir())


@pytest.mark.parametrize('entry', ['./', 'readme.txt'])
def test_a_zip_without_a_dataset_says_what_it_lacks(home, tmp_path, entry):
    with pytest.raises(ValueError, match='has no train/FAKE'): find_cifake(bad_zip(tmp_path, entry))


@pytest.mark.parametrize('damage', [slice(200, 400), slice(2000, None)], ids=['a hole', 'cut short'])
def test_a_damaged_zip_leaves_nothing_behind(home, archive, damage):
    data = bytearray(archive.read_bytes())
    data[damage] = bytes(200) if damage.stop else b''
    archive.write_bytes(data)
    with pytest.raises(ValueError, match='not a whole zip'): find_cifake(archive)
    assert not list((home/'.cifake'/'unpacked').iterdir())


def test_another_process_may_unpack_the_same_zip(home, archive):
    target = find._unpacked(archive)
    shutil.rmtree(target)
    alone = find._extract
    def beside_another(archive, folder):
        alone(archive, folder)
        shutil.copytree(folder, target)
    with patch.object(find, '_extract', beside_another): assert find_cifake(archive).is_relative_to(target)


@pytest.mark.parametrize('error', [NO_NETWORK, ValueError('a page, not an answer')], ids=['no network', 'a login page'])
def test_a_failed_download_says_what_else_to_do(home, error, monkeypatch):
    "The login page of a hotel is a ValueError of json"
    with patch('kagglehub.dataset_download', side_effect=error):
        with pytest.raises(ConnectionError, match='check the network'): download_cifake()
        monkeypatch.setenv('KAGGLE_KERNEL_RUN_TYPE', 'Batch')
        with pytest.raises(ConnectionError, match='Add Input'): download_cifake()


def test_a_copy_that_is_there_is_not_downloaded(home, nested):
    with patch('kagglehub.dataset_download', return_value=str(nested)) as download:
        assert download_cifake() == nested/'cifake'
        download.assert_called_once_with(HANDLE, force_download=False)
        root = in_hub(home)
        with patch.dict(os.environ, CIFAKE_PATH=str(root)):
            assert download_cifake() == root
            download.assert_called_once()
            assert download_cifake(force=True) == nested/'cifake'


def test_other_pictures_are_downloaded_as_they_are(home, nested):
    with patch('kagglehub.dataset_download', return_value=str(nested)) as download:
        assert download_pictures() == nested
        download.assert_called_once_with('cashbowman/ai-generated-images-vs-real-images', force_download=False)
    with patch('kagglehub.dataset_download', side_effect=NO_NETWORK):
        with pytest.raises(ConnectionError, match='in a browser and unzip it'): download_pictures('a/b')


def test_a_user_without_a_home_is_told_where_downloads_may_go(home, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('KAGGLEHUB_CACHE', str(tmp_path/'file'/'hub'))
    with pytest.raises(OSError, match='set KAGGLEHUB_CACHE'): download_pictures()
