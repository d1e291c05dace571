"Finding CIFAKE: the order of places, archives that are damaged or hostile, and what to do where it is not"
import os
import shutil
import zipfile
from unittest.mock import patch

import pytest

from cifake.data import find
from cifake.data.core import cifake_home
from cifake.data.dataset import check_cifake
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


def in_hub(home, version=1, done=True, **kwargs):
    "A version of the dataset in kagglehub's cache; kagglehub marks what it has unpacked to the end"
    cache = home/'.cache'/'kagglehub'/'datasets'/HANDLE
    root = lay_out(cache/'versions'/str(version), **kwargs)
    if done: (cache/f'{version}.complete').touch()
    return root


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


def test_an_empty_zip_lacks_a_dataset(home, tmp_path):
    zipfile.ZipFile(tmp_path/'none.zip', 'w').close()
    with pytest.raises(ValueError, match='has no train/FAKE'): find_cifake(tmp_path/'none.zip')


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


def other_set(root):
    "A dataset that has `train/REAL` too, and names of its own"
    for o in sorted(lay_out(root).rglob('*.jpg')): o.rename(o.with_name(f'face-{o.name[:4]}.jpg'))
    return root


@pytest.fixture
def official(monkeypatch):
    "A whole copy has as many files as `lay_out` writes"
    monkeypatch.setattr(find, '_OFFICIAL', {(s, o): n for s, n in (('train', 6), ('test', 2)) for o in find.LABELS})


def test_cifake_is_told_from_another_input_by_its_names(home, tmp_path):
    other_set(tmp_path/'kaggle'/'ai-faces')
    with pytest.raises(FileNotFoundError, match='ai-faces holds train/FAKE or train/REAL, but its names are not'):
        find_cifake()
    cifake = lay_out(tmp_path/'kaggle'/'cifake')
    assert find_cifake() == find_cifake(tmp_path/'kaggle') == cifake
    assert find_cifake(tmp_path/'kaggle'/'ai-faces') == tmp_path/'kaggle'/'ai-faces'


def test_several_sets_in_a_folder_are_asked_for(home, tmp_path):
    for name in ('a', 'b'): other_set(tmp_path/'sets'/name)
    with pytest.raises(ValueError, match='holds several datasets'): find_cifake(tmp_path/'sets')
    (tmp_path/'sets'/'c').symlink_to(tmp_path/'sets'/'a')
    shutil.rmtree(tmp_path/'sets'/'b')
    assert find_cifake(tmp_path/'sets').samefile(tmp_path/'sets'/'a')  # once, however many links lead there


def test_a_whole_copy_is_taken_before_parts_of_one(home, tmp_path, official):
    place = tmp_path/'kaggle'
    lay_out(place/'a-part', train=4)
    lay_out(place/'b-part', train=3)
    with pytest.raises(ValueError, match='none of them is complete'): find_cifake()
    whole = lay_out(place/'whole')
    assert find_cifake() == whole


def test_an_interrupted_download_and_an_older_version_are_passed_over(home, official):
    in_hub(home, 3, done=False, train=3)
    with pytest.raises(FileNotFoundError, match='a download that was interrupted'): find_cifake()
    in_hub(home, 2)
    assert find_cifake().name == '2'
    assert in_hub(home, 10) == find_cifake()
    in_hub(home, 11, train=5)
    assert find_cifake().name == '10'  # whole, as the newer one is not


def test_a_whole_copy_needs_no_mark_of_kagglehub(home, official): assert in_hub(home, done=False) == find_cifake()


def test_a_damaged_zip_beside_a_whole_one_is_passed_over(home, archive):
    shutil.copy(archive, cifake_home()/'whole.zip')
    (cifake_home()/'a.zip').write_bytes(archive.read_bytes()[:3000])
    (cifake_home()/'b.zip.crdownload').write_bytes(b'PK')
    assert find_cifake().is_relative_to(cifake_home()/'unpacked')


def test_a_folder_with_one_zip_stands_for_the_zip(home, archive):
    (archive.parent/'downloads').mkdir()
    shutil.move(archive, archive.parent/'downloads')
    assert find_cifake(archive.parent/'downloads').is_relative_to(cifake_home()/'unpacked')


def rewritten(archive, change):
    "The zip with other names"
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(archive.parent/'new.zip', 'w') as new:
        for o in old.namelist():
            if not o.endswith('/'):
                for name in change(o): new.writestr(name, old.read(o))
    return archive.parent/'new.zip'


@pytest.mark.parametrize('change', [
    lambda o: [o, f'__MACOSX/{os.path.dirname(o)}/._{os.path.basename(o)}'],
    lambda o: [o.replace('/', '\\')],
    lambda o: [o.lower()],
    lambda o: [f'a/b/{o}'],
], ids=['from a Mac', 'from Windows', 'lower case', 'deeper'])
def test_zips_of_all_origins(home, archive, change):
    root = find_cifake(rewritten(archive, change))
    assert '__MACOSX' not in root.parts
    assert check_cifake(root).files.tolist() == [6, 6, 2, 2]


def test_names_that_cannot_be_written_are_one_sentence(home, tmp_path):
    with pytest.raises(ValueError, match='has a name that is no file here'): find_cifake(bad_zip(tmp_path, 'a'*300))


def test_an_encrypted_zip_says_so(home, archive):
    data = bytearray(archive.read_bytes())
    for mark, place in ((b'PK\x01\x02', 8), (b'PK\x03\x04', 6)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(mark, at + 4)
    archive.write_bytes(data)
    with pytest.raises(ValueError, match='is encrypted'): find_cifake(archive)


def test_a_path_that_no_system_takes_does_not_exist(home):
    for path in ('x'*5000, 'a\0b'):
        with pytest.raises(FileNotFoundError, match='does not exist'): find_cifake(path)
