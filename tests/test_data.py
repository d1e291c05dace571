"Datasets: groups stay on one side, cached verdicts belong to how they were reached, odd machines can read files too"
import os
import shutil
import subprocess
import sys
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from cifake.data.dataset import LABELS, available_cores, can_share, map_files, read_items, split_items
from cifake.data.demo import demo_cifake
from cifake.data.loaders import ImageStore, cifake_dls
from conftest import clean_env


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


def errors(path): return dict(read_items(path).query('error != ""').set_index('path').error)


@pytest.mark.parametrize('first', [True, False])
def test_verdicts_of_another_setting_of_pillow_are_not_used(small, first, monkeypatch):
    "`LOAD_TRUNCATED_IMAGES` is one switch for the whole process: some libraries set it"
    path = cut_short(small)
    for tolerant in (first, not first, first):
        monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', tolerant)
        assert errors(small) == ({} if tolerant else {path: 'damaged or cut short'})


def test_verdicts_of_another_pillow_are_not_used(small):
    (small/'train'/'FAKE'/'1999.jpg').write_bytes(b'a format of tomorrow')
    assert list(errors(small).values()) == ['not an image']

    def tomorrow(file, *args, **kwargs): return Image.new('RGB', (32, 32))
    with patch('cifake.data.dataset.Image.open', tomorrow): assert len(errors(small)) == 1  # kept, with this Pillow
    with patch('cifake.data.dataset.PILLOW', '99.0'), patch('cifake.data.dataset.Image.open', tomorrow):
        assert errors(small) == {}
    with patch('cifake.data.dataset.PILLOW', '99.0'): assert errors(small) == {}  # kept, with that one
    assert list(errors(small).values()) == ['not an image']


def test_decoded_pixels_belong_to_the_pillow_that_decoded_them(small):
    ours = ImageStore(small).file
    with patch('cifake.data.dataset.PILLOW', '99.0'): theirs = ImageStore(small).file
    assert ours != theirs and ours == ImageStore(small).file


def test_cores_are_those_this_process_may_use():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
    if not hasattr(os, 'sched_setaffinity'): pytest.skip('needs sched_setaffinity')
    code = 'from cifake.data.dataset import available_cores; print(available_cores())'
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
    with patch('cifake.data.dataset.ProcessPoolExecutor', side_effect=AssertionError('started a process')):
        assert list(map_files(length, files, 'reading')) == [len(o) for o in files]
        assert cifake_dls(demo_cifake(n=20), bs=4).train.fake_l.num_workers == 0
    monkeypatch.undo()
    assert list(map_files(length, files, 'reading')) == [len(o) for o in files]


def test_loaders_do_not_depend_on_the_number_of_processes(tmp_path):
    "Pictures of other sizes are cut in the middle, never at random, which would differ from process to process"
    root = shutil.copytree(demo_cifake(n=20), tmp_path/'set')
    for i, file in enumerate(sorted((root/'train').rglob('*.jpg'))):
        Image.open(file).resize((48 + i % 7, 40)).save(file)

    def pixels(workers):
        loader = cifake_dls(root, bs=4, stats=None, num_workers=workers).train.new(shuffle=False, drop_last=False)
        return np.concatenate([x.cpu().numpy() for x, _ in loader])
    alone = pixels(0)
    for workers in (1, 2): assert np.array_equal(pixels(workers), alone)
