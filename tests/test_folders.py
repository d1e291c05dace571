"Walks through folders: what systems leave, links, names and folders that make trouble; each picture once"
import json
import os
import shutil
from collections import Counter

import pandas as pd
import pytest

from cifake.data import folders
from cifake.data.core import on_disk, part_of_system, printable
from cifake.data.dataset import Cifake, check_cifake, labelled_files
from cifake.data.folders import folders_in, in_words, walk_pictures
from cifake.data.items import as_items
from conftest import lay_out

OURS = ['.ipynb_checkpoints', '@eaDir', '@EADIR', '__MACOSX', '.Trash-1000', '.Trashes', '$RECYCLE.BIN', 'lost+found',
        '#recycle', 'System Volume Information', '.git', '.cache', '.hidden']
FILES = ['._0001.jpg', '.DS_Store', 'Thumbs.db', 'thumbs.db', 'desktop.ini', 'Desktop.ini', '.0001.jpg', 'Icon\r']
FINE = ['0001.jpg', 'recycle/a.jpg', 'eadir/a.jpg', 'a..b.jpg', './a.jpg', '../a.jpg', 'thumbs.jpg', 'lost.png']


@pytest.mark.parametrize('name', [*OURS, *FILES])
def test_what_systems_leave_is_known_wherever_it_stands(name):
    assert part_of_system(name) and part_of_system(f'a/{name}/b.jpg') and part_of_system(f'a\\{name}\\b.jpg')


@pytest.mark.parametrize('name', FINE)
def test_other_names_are_data(name): assert part_of_system(name) == ''


@pytest.fixture
def tiny(tmp_path): return lay_out(tmp_path/'tiny')


def paths(*roots, **kwargs): return [os.path.relpath(o, roots[0]) for o, _ in walk_pictures(*roots, **kwargs)]


def test_copies_are_left_out_and_counted(tiny):
    fake, left_out = tiny/'train'/'FAKE', Counter()
    before = paths(fake)
    for name in OURS: shutil.copytree(tiny/'test'/'FAKE', fake/name)
    for name in FILES: (fake/name).write_bytes(b'x')
    (fake/'cat.SVG').write_text('x')
    (fake/'LICENSE').write_text('x')
    assert paths(fake, left_out=left_out) == before
    assert left_out.total() == len(OURS) + len(FILES) + 2 and left_out['.svg'] == left_out['without a suffix'] == 1
    assert left_out['@eaDir/'] == left_out['Thumbs.db'] == left_out['._*'] == 1
    row = check_cifake(tiny).loc['train', 'FAKE']
    assert row.files == 6 and row.left_out == left_out.total() and '1 .svg' in row.note and 'partial' in row.note
    assert check_cifake(tiny).loc['train', 'REAL'].note == 'partial'
    assert len(labelled_files(tiny/'train')) == 12


def test_a_hidden_folder_that_was_asked_for_is_read(tiny):
    tiny.rename(tiny.parent/'.hidden')
    assert len(paths(tiny.parent/'.hidden')) == 16


def test_words_name_the_most_frequent_first():
    assert in_words(Counter({'.svg': 1, '@eaDir/': 2})) == '2 @eaDir/, 1 .svg' and in_words(Counter()) == ''


def test_links_are_followed_once(tiny):
    "To what is listed anyway, up, to each other, to a folder elsewhere twice, and to what lies in it"
    fake, real = tiny/'train'/'FAKE', tiny/'train'/'REAL'
    first = sorted(os.listdir(fake))[0]
    (fake/'same.jpg').symlink_to(fake/first)
    (fake/'up').symlink_to(tiny)
    (fake/'self').symlink_to(fake)
    for name in ('one', 'two'): (fake/name).symlink_to(real)
    (fake/'part.jpg').symlink_to(sorted(real.iterdir())[0])
    left_out = Counter()
    found = [os.path.realpath(o) for o, _ in walk_pictures(fake, left_out=left_out)]
    assert sorted(found) == sorted(map(str, [*(fake/o for o in os.listdir(fake) if o[0] == '0'), *real.iterdir()]))
    assert left_out == {'link to what is listed': 5}


def test_a_folder_inside_of_a_linked_one_is_walked_once(tmp_path):
    inner = lay_out(tmp_path/'outer'/'inner')
    (tmp_path/'set').mkdir()
    (tmp_path/'set'/'a').symlink_to(inner)
    (tmp_path/'set'/'b').symlink_to(inner.parent)
    found = [os.path.realpath(o) for o, _ in walk_pictures(tmp_path/'set')]
    assert len(found) == len(set(found)) == 16


def test_links_into_a_hidden_store_are_followed(tiny):
    "As git-annex and DVC lay out a dataset"
    fake = tiny/'train'/'FAKE'
    shutil.move(fake, tiny/'.store')
    fake.mkdir()
    for i, o in enumerate(sorted((tiny/'.store').iterdir())): (fake/f'{i}.jpg').symlink_to(o)
    assert paths(fake) == [f'{i}.jpg' for i in range(6)]


def test_a_link_between_splits_stays_and_is_a_leak(tiny):
    (tiny/'test'/'FAKE'/'0009.jpg').symlink_to(tiny/'train'/'FAKE'/'0000 (1).jpg')
    assert check_cifake(tiny).in_other_split.tolist() == [1, 0, 1, 0]


def test_links_that_lead_nowhere_have_rows(tiny):
    fake = tiny/'train'/'FAKE'
    (fake/'gone.jpg').symlink_to('/nowhere/a.jpg')
    (fake/'loop.jpg').symlink_to(fake/'loop.jpg')
    (fake/'disk').symlink_to('/nowhere')
    (fake/'notes.txt').symlink_to('/nowhere')
    data = Cifake(tiny)
    bad = data.items[data.items.error != '']
    assert bad.path.tolist() == ['train/FAKE/disk', 'train/FAKE/gone.jpg', 'train/FAKE/loop.jpg']
    assert bad.error.str.startswith('This file cannot be read').all() and data.left_out['train', 'FAKE'] == {'.txt': 1}
    with pytest.warns(UserWarning, match=r'3 unreadable image\(s\) left out; the first is train/FAKE/disk'):
        as_items(data.items, tiny)


@pytest.fixture
def refused(monkeypatch):
    "Makes folders of some names refuse to be listed, as they do for others than an administrator"
    def refuse(*names):
        scandir = os.scandir
        def guarded(path):
            if os.path.basename(path) in names: raise PermissionError(13, 'Permission denied', str(path))
            return scandir(path)
        monkeypatch.setattr(folders.os, 'scandir', guarded)
    return refuse


def test_a_folder_that_cannot_be_listed_is_one_row(tiny, refused):
    shutil.copytree(tiny/'test'/'REAL', tiny/'train'/'FAKE'/'more')
    refused('more')
    items = Cifake(tiny).items
    bad = items[items.error != '']
    assert bad.path.tolist() == ['train/FAKE/more'] and len(items) == 17
    assert bad.error.tolist() == ['This folder cannot be listed: Permission denied.']
    refused('test', 'FAKE', 'REAL')
    items = Cifake(tiny).items
    assert items.path[items.split == 'test'].tolist() == ['test/FAKE', 'test/REAL']
    assert (items.error != '').all()


LATIN1 = os.fsdecode(b'caf\xe9 0099.jpg')


def latin1_copy(folder):
    "A picture of `folder` under a name that is not UTF-8, or a skipped test"
    try: shutil.copy(sorted(folder.iterdir())[0], folder/LATIN1)
    except OSError: pytest.skip('this file system takes names in UTF-8 only')
    (folder/LATIN1).write_bytes((folder/LATIN1).read_bytes() + b'x')


def test_a_name_that_is_not_utf8_can_be_printed_and_found_again(tmp_path):
    shown = printable(LATIN1)
    assert shown == 'caf\\xe9 0099.jpg' and shown.encode() and on_disk(shown) == LATIN1
    assert printable('\udfff\ud800') == '\\udfff\\ud800' and on_disk('\\udfff') == '\udfff'
    (tmp_path/shown).touch()
    assert on_disk(tmp_path/shown) == str(tmp_path/shown)  # a file that is really called so


def test_a_name_that_is_not_utf8_goes_through_tables_and_files(tiny, tmp_path):
    latin1_copy(tiny/'train'/'REAL')
    for _ in range(2):  # read, then from the cache
        items = Cifake(tiny).items
        assert 'train/REAL/caf\\xe9 0099.jpg' in items.path.tolist() and (items.error == '').all() and len(items) == 17
    items.to_csv(tmp_path/'items.csv')
    assert pd.read_csv(tmp_path/'items.csv').path.tolist() == items.path.tolist()
    assert json.loads(items.path.to_json())
    (item,) = [o for o in as_items(items, tiny) if '99' in o.path]
    assert item.file.exists()


def test_a_path_of_4000_characters_is_walked(tiny):
    deep = tiny/'train'/'FAKE'
    here = os.getcwd()
    try:
        os.chdir(deep)
        for _ in range(1900):
            os.mkdir('a')
            os.chdir('a')
        (deep.parent/'REAL'/'0000 (1).jpg').rename('last.jpg')
    finally: os.chdir(here)
    items = Cifake(tiny).items
    assert len(items) == 16 and items.path.str.len().max() > 3800
    assert (items.error == '').all() or items.error[items.error != ''].str.contains('long').all()
    while (deep/'a').exists():  # without a recursion that `rmtree` has
        os.rename(deep/'a', deep.parent/'b')
        os.rename(deep.parent/'b'/'a', deep/'a') if (deep.parent/'b'/'a').exists() else None
        for o in (deep.parent/'b').iterdir(): o.unlink()
        (deep.parent/'b').rmdir()


def test_a_file_that_vanishes_after_it_was_listed_is_one_row(tiny, monkeypatch):
    from cifake.data import dataset
    listing = dataset._listing
    def listed(*args, **kwargs):
        found = listing(*args, **kwargs)
        (tiny/'train'/'FAKE'/'0000 (1).jpg').unlink()
        return found
    monkeypatch.setattr(dataset, '_listing', listed)
    items = Cifake(tiny).items
    assert items.path[items.error != ''].tolist() == ['train/FAKE/0000 (1).jpg'] and len(items) == 16


def test_folders_may_be_written_in_lower_case_and_deep(tiny):
    (tiny/'train').rename(tiny/'Train')
    (tiny/'Train'/'FAKE').rename(tiny/'Train'/'fake')
    (tiny/'test'/'REAL').rename(tiny/'test'/'Real')
    more = tiny/'Train'/'fake'/'sd'/'cats'
    more.mkdir(parents=True)
    shutil.move(tiny/'Train'/'fake'/'0000 (1).jpg', more)
    data = Cifake(tiny)
    assert data.check().files.tolist() == [6, 6, 2, 2]
    assert 'Train/fake/sd/cats/0000 (1).jpg' in data.items.path.tolist()
    assert all(o.file.exists() for o in as_items(data.items, tiny))


def test_two_spellings_of_one_folder_are_one(tiny):
    "Some people link `fake` to `FAKE`, for a program that wants it so"
    try: (tiny/'train'/'fake').symlink_to('FAKE')
    except FileExistsError: pytest.skip('this file system takes them for one')
    assert check_cifake(tiny).files.tolist() == [6, 6, 2, 2]


def test_folders_in_a_folder(tiny):
    (tiny/'@eaDir').mkdir()
    (tiny/'link').symlink_to(tiny/'train')
    assert [o.name for o in folders_in(tiny)] == ['link', 'test', 'train']
