"Datasets: files are read once, their faults are counted, and copies and groups stay on one side of a split"
import copy
import os
import pickle
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from cifake.data import dataset
from cifake.data.containers import FORMATS
from cifake.data.core import LABELS
from cifake.data.dataset import Cifake, check_cifake, labelled_files, read_items, split_items
from cifake.data.demo import demo_cifake
from cifake.data.find import find_cifake
from cifake.data.layout import objects_of
from conftest import lay_out


def table(groups, labels=LABELS, digests=None):
    "Rows as `read_items` gives them, one for each group named and each label"
    rows = pd.DataFrame([dict(path=f'train/{label}/{i:04}.jpg', label=label, group=group)
                         for i, group in enumerate(groups) for label in labels])
    rows = rows.assign(split='train', object_class='unknown', error='')
    rows['digest'] = digests or [str(i) for i in range(len(rows))]
    return rows


def sides(items, **kwargs):
    "The sides that each group has images on"
    parts = split_items(items, **kwargs)
    return parts[parts.group != ''].groupby('group').split.agg(set)


@pytest.mark.parametrize('share', [0.01, 0.1, 0.15, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.parametrize('seed', range(5))
def test_groups_stay_on_one_side(share, seed):
    items = table([f'group {i//4}' for i in range(160)])
    found = sides(items, valid_pct=share, seed=seed)
    assert found.map(len).max() == 1
    parts = split_items(items, share, seed)
    assert {'train', 'valid'} <= set(parts.split)
    assert abs((parts.split == 'valid').mean() - share) <= 1/40  # one of the forty groups


def test_the_draw_follows_the_seed_and_not_the_order_of_rows():
    items = table([f'group {i//2}' for i in range(40)])
    parts = split_items(items, 0.2, 1)
    shuffled = split_items(items.sample(frac=1, random_state=0), 0.2, 1).sort_index()
    assert shuffled.split.tolist() == parts.split.tolist()
    assert split_items(items, 0.2, 2).split.tolist() != parts.split.tolist()


def test_copies_tie_groups_together():
    "a and b share a file, b and c another: none of the three may be split from the others"
    items = table(['a', 'b', 'b', 'c', *'defgh'], labels=['FAKE'])
    items = pd.concat([items, table(['i', 'j', 'k', 'l'], labels=['REAL'])], ignore_index=True)
    items['digest'] = [str(i) for i in range(len(items))]
    items.loc[items.index[1], 'digest'] = items.digest[0]
    items.loc[items.index[3], 'digest'] = items.digest[2]
    seen = set()
    for seed in range(20):
        found = sides(items, valid_pct=0.3, seed=seed)
        assert len(found['a'] | found['b'] | found['c']) == 1
        seen |= found['a']
    assert seen == {'train', 'valid'}  # and they are not always on the same one


def test_files_without_a_group_are_drawn_one_by_one():
    items = table(['one']*20 + ['']*80)
    parts = split_items(items, 0.25)
    assert sides(items, valid_pct=0.25)['one'] in ({'train'}, {'valid'})
    assert abs((parts.split == 'valid').mean() - 0.25) < 0.06


def test_labels_are_balanced_over_groups_of_unlike_size():
    rng = np.random.default_rng(0)
    items = table(np.repeat([f'g{i}' for i in range(60)], rng.integers(1, 12, 60)))
    parts = split_items(items, 0.2)
    valid = parts[parts.split == 'valid'].label.value_counts()
    assert valid.FAKE == valid.REAL


def test_one_group_has_no_validation_part():
    with pytest.raises(ValueError, match='belong to one group'): split_items(table(['all']*10))


@pytest.fixture
def small(tmp_path): return shutil.copytree(demo_cifake(n=20), tmp_path/'set')


@pytest.mark.parametrize('text, words', [('path,set\na,b\n', 'needs the columns `path` and `group`'),
                                         ('', 'cannot be read as a table'), ('a,b\n"', 'cannot be read as a table')])
def test_a_table_of_groups_that_is_none(small, text, words):
    (small/'groups.csv').write_text(text)
    with pytest.raises(ValueError, match=words): read_items(small)


def test_groups_of_files_that_are_not_there_and_paths_of_windows(small):
    items = read_items(small)
    paths = items.path.str.replace('/', '\\')
    rows = pd.DataFrame(dict(path=[*paths, 'train\\FAKE\\gone.jpg'], group=[*items.group, 'gone']))
    rows.to_csv(small/'groups.csv', index=False)
    assert read_items(small).group.tolist() == items.group.tolist()
    (small/'groups.csv').unlink()
    assert set(read_items(small).group) == {''}


def cut_short(small):
    "A JPEG of the set that lacks its end"
    file = sorted((small/'train'/'REAL').glob('*.jpg'))[0]
    file.write_bytes(file.read_bytes()[:-40])
    return f'train/REAL/{file.name}'


CUT = 'This picture is damaged or cut short (OSError).'
NO_PICTURE = f'This is no picture of a known format ({", ".join(FORMATS)}), or its beginning is damaged.'
DAMAGED = 'This picture is damaged at its beginning.'


def errors(path): return dict(read_items(path).query('error != ""').set_index('path').error)


@pytest.mark.parametrize('first', [True, False])
def test_verdicts_of_another_setting_of_pillow_are_not_used(small, first, monkeypatch):
    "`LOAD_TRUNCATED_IMAGES` is one switch for the whole process: some libraries set it"
    path = cut_short(small)
    for tolerant in (first, not first, first):
        monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', tolerant)
        assert errors(small) == ({} if tolerant else {path: CUT})


def test_verdicts_of_another_pillow_are_not_used(small):
    (small/'train'/'FAKE'/'1999.jpg').write_bytes(b'\x89PNG\r\n\x1a\n, but of tomorrow')
    assert list(errors(small).values()) == [DAMAGED]

    def tomorrow(file, *args, **kwargs): return Image.new('RGB', (32, 32))
    with patch('cifake.data.pictures.Image.open', tomorrow): assert len(errors(small)) == 1  # kept, with this Pillow
    with patch('cifake.data.pictures.PILLOW', '99.0'), patch('cifake.data.pictures.Image.open', tomorrow):
        assert errors(small) == {}
    with patch('cifake.data.pictures.PILLOW', '99.0'): assert errors(small) == {}  # kept, with that one
    assert list(errors(small).values()) == [DAMAGED]


@pytest.fixture
def tiny(tmp_path): return lay_out(tmp_path/'tiny')


@pytest.fixture
def decoded():
    "Names of the files that are read, as they are read"
    names, inspect = [], dataset.inspect_picture

    def inspected(file):
        names.append(Path(file).name)
        return inspect(file)
    with patch.object(dataset, 'inspect_picture', inspected): yield names


def test_objects_are_named_by_the_number_in_brackets():
    names = ['0017.jpg', *['0017 (4).jpg']*18, '999 (10).jpg', '0017 (11).jpg']
    assert objects_of(names) == ['airplane', *['cat']*18, 'truck', 'unknown']


def test_numbers_alone_are_no_objects():
    for names in (['0001.jpg', '0002.jpg'], ['0001.jpg', '0001 (2).jpg', 'holiday (4).png'], []):
        assert objects_of(names) == ['unknown']*len(names)


def test_a_damaged_file_has_a_row_and_junk_has_none(tiny):
    (tiny/'train/FAKE/0000 (1).jpg').write_text('not a picture at all')
    cut = tiny/'train/REAL/0003 (4).jpg'
    cut.write_bytes(cut.read_bytes()[:-10])
    for junk in ['.DS_Store', '._0001.jpg', 'Thumbs.db']: (tiny/'train/REAL'/junk).write_bytes(b'junk')
    assert errors(tiny) == {'train/FAKE/0000 (1).jpg': NO_PICTURE, 'train/REAL/0003 (4).jpg': CUT}
    assert len(read_items(tiny)) == 16


@pytest.mark.parametrize('suffix', ['gif', 'TIFF', 'avif'])
def test_every_kind_of_picture_is_listed(tiny, suffix):
    Image.new('RGB', (32, 32)).save(tiny/'test'/'REAL'/f'holiday.{suffix}')
    assert f'test/REAL/holiday.{suffix}' in read_items(tiny).path.tolist() and not errors(tiny)


def test_a_file_is_read_again_only_when_it_changed(tiny, decoded):
    file = tiny/'train/REAL/0003 (4).jpg'
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    before = read_items(tiny)
    assert len(decoded) == 16
    decoded.clear()
    assert read_items(tiny).equals(before) and decoded == []
    file.write_bytes(whole)
    read_items(tiny)
    assert decoded == ['0003 (4).jpg']


@pytest.mark.parametrize('damage', [
    'path,size\nhalf a li', 'path,size,changed,digest,width,height,error\ntrain/FAKE/0001 (2).jpg,,', ''])
def test_a_damaged_cache_is_not_used(tiny, damage):
    before = read_items(tiny)
    (tiny/'.cifake-items.csv').write_text(damage)
    assert read_items(tiny).equals(before)


def test_a_dataset_that_cannot_be_written_has_its_cache_in_the_home_folder(tiny, decoded, tmp_path, monkeypatch):
    (tiny/'.cifake-items.csv').mkdir()  # nobody can write a file of this name, not even an administrator
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path/'home'))
    first = read_items(tiny)
    assert len(list((tmp_path/'home'/'items').iterdir())) == 1
    assert not [o for o in os.listdir(tiny) if o.endswith('.part')]
    decoded.clear()
    assert read_items(tiny).equals(first) and decoded == []
    monkeypatch.setenv('CIFAKE_HOME', str(tiny/'train/FAKE/0000 (1).jpg'))
    assert read_items(tiny).equals(first)


def test_a_dataset_is_read_once(tiny):
    with patch.object(dataset, '_all_items', wraps=dataset._all_items) as read:
        data = Cifake(tiny)
        for _ in range(2):
            check_cifake(data)
            read_items(data)
            assert len(data.split(seed=1)) == len(data.items) == 16 and len(data.test) == 4
        read.assert_called_once()


def test_a_dataset_of_a_dataset_is_the_same(tiny):
    data = Cifake(tiny)
    assert Cifake(data) is data and find_cifake(data) == Path(data) == data.root == tiny
    assert not data.is_demo and Cifake(demo_cifake(n=20)).is_demo


def test_a_table_that_is_given_out_may_be_changed(tiny):
    data = Cifake(tiny)
    for table in (read_items(data), data.split()): table['split'] = table['label'] = 'x'
    assert set(data.items.split) == {'train', 'test'} and set(data.items.label) == set(LABELS)


def test_a_dataset_travels_without_its_table(tiny):
    data = Cifake(tiny)
    n = len(pickle.dumps(data))
    assert len(data.items) and len(pickle.dumps(data)) == n
    for other in (pickle.loads(pickle.dumps(data)), copy.copy(data)):
        assert other.root == tiny and other.items.equals(data.items)


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'): Cifake(tmp_path/'gone')


def test_what_is_checked_is_counted(tiny):
    (tiny/'train/FAKE/0000 (1).jpg').write_text('not a picture at all')
    (tiny/'train/REAL/0003 (4).jpg').write_text('nor this')
    shutil.copy(tiny/'train/FAKE/0002 (3).jpg', tiny/'test/FAKE/0002 (3).jpg')
    seen = check_cifake(tiny)
    assert seen.files.tolist() == [6, 6, 3, 2]
    assert seen.unreadable.tolist() == [1, 1, 0, 0]
    assert seen.in_other_split.tolist() == [1, 0, 1, 0]
    assert set(seen.note) == {'partial'}
    Image.new('RGB', (40, 32)).save(tiny/'test/REAL/0007.png')
    shutil.copy(tiny/'test/REAL/0000 (1).jpg', tiny/'test/FAKE/0008.jpg')
    shutil.copy(tiny/'test/REAL/0000 (1).jpg', tiny/'test/REAL/0009.jpg')
    seen = Cifake(tiny).check()
    assert seen.wrong_size.tolist() == [0, 0, 0, 1]
    assert seen.repeated.tolist() == [0, 0, 0, 1]
    assert seen.in_other_label.tolist() == [0, 0, 1, 2]
    shutil.rmtree(tiny/'test'/'REAL')
    assert check_cifake(tiny).note.tolist() == ['partial', 'partial', 'partial', 'missing']


def test_a_split_is_stratified_seeded_and_does_not_follow_the_disk(tmp_path):
    items = read_items(lay_out(tmp_path/'sixty', train=30))
    parts = split_items(items, valid_pct=0.2)
    assert parts[parts.split == 'valid'].groupby('label').size().to_dict() == {'FAKE': 6, 'REAL': 6}
    assert split_items(items, valid_pct=0.2).split.tolist() == parts.split.tolist()
    shuffled = split_items(items.sample(frac=1, random_state=1), valid_pct=0.2).sort_values('path')
    assert shuffled.split.tolist() == parts.split.tolist()
    assert split_items(items, 0.2, seed=1).split.tolist() != parts.split.tolist()


def test_copies_of_an_image_stay_on_one_side(tmp_path):
    root = lay_out(tmp_path/'sixty', train=30)
    for i in range(1, 10): shutil.copy(root/'train/FAKE/0000 (1).jpg', root/f'train/FAKE/{i:04} (1).jpg')
    items = read_items(root)
    copies = items.digest.duplicated(keep=False)
    sides = [set(split_items(items, 0.2, seed=s).split[copies]) for s in range(40)]
    assert {len(o) for o in sides} == {1}
    assert set.union(*sides) == {'train', 'valid'}


@pytest.mark.parametrize('share', [0, 1, 1.5, -0.1])
def test_a_share_outside_of_its_range_is_refused(tiny, share):
    with pytest.raises(ValueError, match='between 0 and 1'): Cifake(tiny).split(valid_pct=share)


def test_pictures_from_elsewhere_are_those_in_folders_of_labels(tiny):
    files = sorted(o for o in (tiny/'test').rglob('*') if o.is_file())
    assert sorted(o for o, _ in labelled_files(tiny/'test')) == files
    assert {label for _, label in labelled_files(tiny/'test')} == set(LABELS)
    shutil.move(tiny/'test'/'FAKE', tiny/'test'/'AiArtData')
    assert {label for _, label in labelled_files(tiny/'test')} == set(LABELS)


def test_a_folder_without_labels_is_refused(tiny):
    with pytest.raises(FileNotFoundError, match='does not exist'): labelled_files(tiny/'gone')
    with pytest.raises(ValueError, match='has no pictures'): labelled_files(tiny)
