"The demo set: the same every time, complete, as flawed as CIFAKE, and no easier than it should be"
import shutil
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cifake.data import demo
from cifake.data.core import OBJECTS
from cifake.data.dataset import Cifake, read_items
from cifake.data.demo import demo_cifake


@pytest.fixture(scope='module')
def data(): return Cifake(demo_cifake())


def test_it_has_the_flaws_of_cifake_and_no_others(data):
    seen = data.check()
    assert seen.files.tolist() == [2000, 2000, 500, 500]
    assert seen.in_other_split.tolist() == [3, 0, 3, 0]
    assert seen[['unreadable', 'wrong_size', 'repeated', 'in_other_label']].to_numpy().sum() == 0
    in_train = data.items.digest[data.items.split == 'train']
    assert sorted(data.test.object_class[data.test.digest.isin(in_train)]) == ['bird', 'dog', 'frog']
    assert data.is_demo


def test_the_size_of_a_file_says_little_about_its_label(data):
    items = data.items.query('split == "train"')
    sizes = pd.DataFrame({label: [(data.root/o).stat().st_size for o in items.path[items.label == label]]
                          for label in ('FAKE', 'REAL')})
    rank = pd.concat([sizes.FAKE, sizes.REAL]).rank().to_numpy()
    auc = (rank[:2000].sum() - 2000*2001/2)/2000**2
    assert abs(auc - 0.5) < 0.15


def test_every_file_is_a_jpeg_of_quality_75_as_those_of_cifake(data, tmp_path):
    Image.new('RGB', (32, 32)).save(tmp_path/'a.jpg', quality=75)
    reference = Image.open(tmp_path/'a.jpg').quantization
    assert all(Image.open(data.root/o).quantization == reference for o in data.items.path[::40])


def test_the_same_seed_draws_the_same_files_and_another_seed_others(tmp_path):
    sets = [demo_cifake(tmp_path/name, n=20, seed=seed) for name, seed in (('one', 42), ('two', 42), ('other', 1))]
    one, two, other = (read_items(o).digest.tolist() for o in sets)
    assert one == two and not set(one) & set(other)


def test_a_set_that_is_there_is_not_drawn_again(tmp_path):
    file = demo_cifake(tmp_path/'one', n=20)/'train/REAL/0000.jpg'
    before = file.stat().st_mtime_ns
    demo_cifake(tmp_path/'one', n=20)
    assert file.stat().st_mtime_ns == before


def test_blocks_never_overlap_and_lie_in_their_photograph():
    every = [o for number in range(10) for part in demo._blocks_of(number) for o in part]
    assert len(every) == len(set(every)) == 120
    photos = demo._photographs()
    for name, left, top in every:
        assert left + demo._BLOCK <= photos[name].width and top + demo._BLOCK <= photos[name].height


@pytest.mark.parametrize('seed', range(20))
def test_crops_stay_inside_of_their_block(seed):
    x, y, side, _ = demo._crop_boxes(np.random.default_rng(seed), 50).T
    assert (x >= 0).all() and (y >= 0).all()
    assert (x + side <= demo._BLOCK).all() and (y + side <= demo._BLOCK).all()


@pytest.mark.parametrize('wrong', [dict(seed=-1), dict(n=100.0), dict(n=5), dict(n=True)], ids=str)
def test_what_cannot_be_drawn_is_refused_by_its_name(wrong):
    with pytest.raises(ValueError, match=f'`{next(iter(wrong))}` is'): demo_cifake(**wrong)


def test_half_a_set_is_not_taken_for_a_whole_one(tmp_path):
    (demo_cifake(tmp_path/'one', n=20)/'train/REAL/0000.jpg').unlink()
    with pytest.raises(ValueError, match='holds no whole demo set'): demo_cifake(tmp_path/'one', n=20)


def test_another_process_may_draw_the_same_set(tmp_path):
    alone = demo._draw_set

    def draw_beside_another(work, *kind):
        alone(work, *kind)
        shutil.copytree(work, tmp_path/'both')
    with patch.object(demo, '_draw_set', draw_beside_another):
        assert demo_cifake(tmp_path/'both', n=20) == tmp_path/'both'
    assert demo._is_whole(tmp_path/'both', 20, 42, False)


def test_the_second_form_has_three_generators_and_two_cameras(tmp_path):
    items = read_items(demo_cifake(tmp_path/'set', n=20, sources=True))
    counts = items[items.split == 'train'].groupby(['label', 'source']).size()
    assert counts.groupby('label').agg(['size', 'sum']).to_numpy().tolist() == [[3, 20], [2, 20]]
    assert set(items.object_class) == set(OBJECTS) and (items.group != '').all()
    plain = read_items(demo_cifake(n=20))
    shared = items.source.isin(['texture', 'neutral camera'])
    assert set(items.digest[shared]) <= set(plain.digest)  # the others are changed
    assert not set(items.digest[~shared]) & set(plain.digest)
    assert len(set(items.digest)) == len(set(plain.digest))  # the flaw is there too


def test_a_set_of_one_form_is_not_taken_for_the_other(tmp_path):
    folder = demo_cifake(tmp_path/'set', n=20, sources=True)
    assert demo_cifake(folder, n=20, sources=True) == folder
    with pytest.raises(ValueError, match='n=20, seed=42 and sources=False'): demo_cifake(folder, n=20)
    assert demo_cifake(n=20) != demo_cifake(n=20, sources=True)
