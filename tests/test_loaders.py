"Loaders: what a network sees is what the files hold, from disk and from memory alike"
import errno
import inspect
import os
import pickle
import shutil
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from fastai.vision.core import PILImage
from fastcore.docments import docments
from PIL import Image

from cifake.data import dataset
from cifake.data.core import LABELS
from cifake.data.dataset import Cifake, Split
from cifake.data.demo import demo_cifake
from cifake.data.items import Item, extra_items, training_items
from cifake.data.loaders import (
    CIFAKE_STATS,
    ImageStore,
    MemoryDL,
    PictureReader,
    cifake_block,
    cifake_dls,
    cifake_of,
    has_items,
    image_stats,
    memory_dls,
)
from cifake.data.loaders import test_dl as loader_of_test
from cifake.data.pictures import read_picture, to_square


@pytest.fixture(scope='module')
def demo(): return demo_cifake(n=200)


@pytest.fixture(scope='module')
def dls(demo): return cifake_dls(demo, bs=64, num_workers=0)


@pytest.fixture(scope='module')
def plain(demo): return cifake_dls(demo, bs=64, stats=None, num_workers=0)


@pytest.fixture(scope='module')
def held(demo): return memory_dls(demo, bs=64, stats=None)


@pytest.fixture
def small(tmp_path): return shutil.copytree(demo_cifake(n=20), tmp_path/'set')


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A home folder whose arrays this test may damage"
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path/'home'))
    return tmp_path/'home'


@pytest.fixture
def more(tmp_path):
    "Four pictures of 64x48 pixels for each label"
    for label, suffix in dict(FAKE='png', REAL='jpg').items():
        (tmp_path/'more'/label).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path/'more'/label/f'{i}.{suffix}')
    return tmp_path/'more'


def in_order(loader): return loader.new(shuffle=False, drop_last=False)


def images_of(loader): return torch.cat([o[0] for o in loader])


def said(call):
    "What warnings `call` gives, and its result"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        result = call()
    return [str(o.message) for o in caught], result


# From files

def test_a_batch_is_the_file_normalised_and_nothing_else(dls):
    first = dls.valid.items[0]
    x, y = dls.valid.one_batch()
    mean, std = (torch.tensor(o)[:, None, None] for o in CIFAKE_STATS)
    pixels = torch.tensor(np.array(Image.open(first.file))).permute(2, 0, 1)/255
    torch.testing.assert_close(x[0].cpu().as_subclass(torch.Tensor), (pixels - mean)/std, atol=1e-5, rtol=0)
    assert [o.label for o in dls.valid.items[:128]] == [dls.vocab[i] for i in y[:128]]


@pytest.mark.parametrize('kind', [Path, str, PILImage.create, lambda o: np.array(Image.open(o)),
                                  lambda o: Path(o).read_bytes(), lambda o: torch.tensor(np.array(Image.open(o)))],
                         ids=['Path', 'str', 'PILImage', 'array', 'bytes', 'tensor'])
def test_any_source_of_a_picture_gives_the_same_batch(dls, held, plain, kind):
    file = dls.valid.items[0].file
    for loaders in (dls, held):
        found = loaders.test_dl([kind(file)], num_workers=0).one_batch()[0]
        expected = loaders.test_dl([file], num_workers=0).one_batch()[0]
        assert tuple(found.shape) == (1, 3, 32, 32) and torch.equal(found, expected)
    alone = held.test_dl([kind(file)], num_workers=0)
    assert alone.rows is None
    assert torch.equal(alone.one_batch()[0], plain.test_dl([kind(file)], num_workers=0).one_batch()[0])


def test_loaders_show_no_test_images(dls):
    assert {Path(o.path).parts[0] for o in [*dls.train.items, *dls.valid.items]} == {'train'}


def test_a_batch_is_no_larger_than_a_small_set(demo, dls):
    assert dls.train.bs == 64
    assert cifake_dls(demo, bs=10**6).train.bs == len(dls.train_ds)


def test_images_come_in_the_size_that_is_asked_for(demo, dls):
    assert tuple(cifake_dls(demo, size=48, bs=8, num_workers=0).one_batch()[0].shape) == (8, 3, 48, 48)
    assert tuple(memory_dls(demo, size=48, bs=8).one_batch()[0].shape) == (8, 3, 48, 48)
    large = PILImage.create(dls.valid.items[0].file).resize((200, 100))
    assert tuple(dls.test_dl([large], num_workers=0).one_batch()[0].shape) == (1, 3, 32, 32)


def test_one_process_reads_where_none_can_share(small, monkeypatch):
    def no_lock(self): raise FileNotFoundError(2, 'No such file or directory')
    monkeypatch.setattr('multiprocessing.context.BaseContext.Lock', no_lock)
    assert cifake_dls(small, bs=4).train.fake_l.num_workers == 0


def test_loaders_do_not_depend_on_the_number_of_processes(small):
    "Pictures of other sizes are cut in the middle, never at random, which would differ from process to process"
    for i, file in enumerate(sorted((small/'train').rglob('*.jpg'))):
        Image.open(file).resize((48 + i % 7, 40)).save(file)

    def pixels(workers): return images_of(in_order(cifake_dls(small, bs=4, stats=None, num_workers=workers).train))
    alone = pixels(0)
    for workers in (1, 2): assert torch.equal(pixels(workers), alone)


# One way to pixels

def odd_pictures():
    "Name of a file, image and arguments of `save` for kinds that people have beside 8-bit RGB"
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    clear = colours.copy()
    clear.putalpha(Image.fromarray(rng.integers(0, 256, (40, 56), dtype=np.uint8)))
    deep = Image.fromarray(rng.integers(0, 65536, (40, 56)).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {'deep.png': (deep, {}), 'clear.png': (clear, {}), 'palette.gif': (colours.quantize(16), {}),
            'palette.png': (colours.quantize(16), dict(transparency=3)), 'print.jpg': (colours.convert('CMYK'), {}),
            'turned.jpg': (colours, dict(exif=turned)), 'grey.png': (colours.convert('L'), {}),
            'large.jpg': (colours.resize((900, 700)), {}), 'same.png': (clear.resize((32, 32)), {})}


@pytest.mark.parametrize('name', odd_pictures())
def test_a_picture_gives_the_same_pixels_in_loaders_and_detector(small, home, name):
    image, kwargs = odd_pictures()[name]
    image.save(small/'train'/'REAL'/name, **kwargs)
    detector = np.asarray(to_square(read_picture(small/'train'/'REAL'/name, 32).image, 32))
    valid = {o.digest for o in training_items(small) if o.split == 'valid'}
    from_files = cifake_dls(small, stats=None, num_workers=0, valid=valid)
    from_memory = memory_dls(small, 32, stats=None, valid=valid)
    for loaders in (from_files, from_memory):
        position = [o.file.name for o in loaders.train.items].index(name)
        batch = images_of(in_order(loaders.train))[position]
        assert np.array_equal((batch.cpu()*255).round().byte().permute(1, 2, 0).numpy(), detector)


def test_values_of_unknown_range_are_left_out_of_training_as_the_detector_refuses_them(small):
    Image.new('F', (32, 32), 0.5).save(small/'train'/'REAL'/'float.tif')
    messages, items = said(lambda: training_items(small))
    assert 'float.tif: This picture has floating-point or 32-bit values' in messages[0]
    assert 'float.tif' not in {o.file.name for o in items}
    with pytest.raises(ValueError, match='floating-point or 32-bit'):
        PictureReader(32)(small/'train'/'REAL'/'float.tif')


def test_without_a_size_images_stay_as_they_are(small):
    Image.new('RGB', (900, 700)).save(small/'large.png')
    assert PictureReader()(small/'large.png').size == (900, 700)


# Split

def test_a_subset_is_stratified_and_leaves_validation_whole(demo, dls):
    small = cifake_dls(demo, subset=20)
    assert len(small.train_ds) == 20
    assert len(cifake_dls(demo, subset=0.5).train_ds) == round(len(dls.train_ds)/2)
    assert sum(o.label == 'FAKE' for o in small.train.items) == 10
    assert [o.path for o in small.valid.items] == [o.path for o in dls.valid.items]
    assert [o.path for o in cifake_dls(demo, subset=20).train.items] == [o.path for o in small.train.items]


@pytest.mark.parametrize('wrong', [0, 10**7, 1.5, -0.2])
def test_a_subset_that_is_none_is_refused(demo, wrong):
    with pytest.raises(ValueError, match='`subset` is'): cifake_dls(demo, subset=wrong)


def test_a_share_outside_of_its_range_is_refused(demo):
    with pytest.raises(ValueError, match='between 0 and 1'): cifake_dls(demo, valid_pct=1.0)


def test_validation_images_of_an_earlier_run_are_taken(demo, dls):
    digests = {o.digest for o in dls.train.items[::20]}
    again = memory_dls(demo, valid=iter(digests))
    assert {o.digest for o in again.valid.items} == digests


@pytest.mark.parametrize('make', [cifake_block, cifake_dls, memory_dls])
def test_loaders_show_the_fields_of_a_split(make):
    found, texts = inspect.signature(make).parameters, docments(make)
    assert {o: found[o].default for o in vars(Split())} == vars(Split())
    assert {o: texts[o] for o in vars(Split())} == {o: docments(Split)[o] for o in vars(Split())}


def test_a_copy_with_one_label_is_refused(small):
    shutil.rmtree(small/'train'/'REAL')
    with pytest.raises(ValueError, match='both parts need images'): cifake_dls(small)
    (small/'train'/'REAL').mkdir()
    with pytest.raises(ValueError, match='both parts need images'): cifake_dls(small)


def test_a_damaged_file_is_left_out_and_named(small):
    (small/'train'/'REAL'/'0000.jpg').write_bytes(b'cut short')
    messages, loaders = said(lambda: cifake_dls(small, num_workers=0))
    assert messages[0].startswith('1 unreadable image(s) left out; the first is train/REAL/0000.jpg: This is no')
    assert len(loaders.train_ds) + len(loaders.valid_ds) == 39


# One dataset, read once

def test_training_and_test_read_the_disk_once(small):
    data = Cifake(small)
    with patch.object(dataset, '_all_items', wraps=dataset._all_items) as read:
        loaders = memory_dls(data, seed=1)
        loader_of_test(loaders)
        loader_of_test(loaders, data)
        read.assert_called_once()
    assert loaders.cifake is data and cifake_of(loaders) is data and cifake_of(loaders, small) is not data


def test_a_path_is_read_once_too(small):
    with patch.object(dataset, '_all_items', wraps=dataset._all_items) as read:
        loader_of_test(cifake_dls(small))
        read.assert_called_once()


def test_other_loaders_are_told_from_ours(dls):
    assert has_items(dls)
    assert not has_items(dls.new_empty())


def test_there_is_nothing_to_test_on_without_a_test(small):
    shutil.rmtree(small/'test')
    with pytest.raises(ValueError, match='nothing to test on'): loader_of_test(cifake_dls(small))


# From memory

def test_images_in_memory_are_those_in_files(plain, held):
    for a, b in zip(plain.valid, held.valid, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
        assert (type(b[0]), type(b[1])) == (type(a[0]), type(a[1]))
    assert [o.path for o in plain.train.items] == [o.path for o in held.train.items]
    assert torch.equal(images_of(in_order(plain.train)), images_of(in_order(held.train)))
    for (a, _), (b, _) in zip(loader_of_test(plain), loader_of_test(held), strict=True): assert torch.equal(a, b)


def test_images_in_memory_are_resized_as_those_in_files(demo):
    plain = cifake_dls(demo, size=48, stats=None, num_workers=0)
    held = memory_dls(demo, size=48, stats=None)
    for (a, _), (b, _) in zip(plain.valid, held.valid, strict=True): assert torch.equal(a, b)


def test_every_method_of_a_loader_works_in_memory(held):
    every = in_order(held.train)
    assert sum(len(o[0]) for o in every) == len(held.train_ds)
    first, second = (torch.cat([o[1] for o in held.train]) for _ in range(2))
    assert not torch.equal(first, second)  # another order in each epoch
    assert loader_of_test(held).rows is not None
    assert len(loader_of_test(held).one_batch()) == 2
    assert len(held.test_dl(loader_of_test(held).items).one_batch()) == 1


def test_loaders_travel_without_their_images(held):
    assert len(pickle.dumps(held.new_empty())) < 1e5 and len(pickle.dumps(held)) < 2e6


def test_statistics_are_exact(held):
    pixels = images_of(in_order(held.train)).double().as_subclass(torch.Tensor)
    exact = torch.stack([pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0)])
    found = torch.tensor(image_stats(held.train.store.images, held.train.rows))
    torch.testing.assert_close(found.double(), exact.cpu(), atol=1e-6, rtol=0)
    every = held.train.store.images
    assert image_stats(every) == image_stats(every, torch.arange(len(every)))


def test_an_array_that_was_cut_short_is_decoded_again(small, home):
    before = memory_dls(small).valid.one_batch()[0]
    file = ImageStore(small).file
    whole = file.read_bytes()
    file.unlink()  # the loaders above have it mapped, and keep what they have
    file.write_bytes(whole[:100_000])
    assert torch.equal(memory_dls(small).valid.one_batch()[0], before) and file.read_bytes() == whole


def test_a_full_disk_leaves_nothing_behind(small, home):
    def full(*args): raise OSError(errno.ENOSPC, 'No space left on device')
    with patch('os.fsync', full), pytest.raises(OSError, match='make room, or set CIFAKE_HOME'): memory_dls(small)
    assert not list((home/'images').iterdir())


def test_arrays_that_nobody_asks_for_are_removed_after_a_month(small, home):
    kept = ImageStore(small).file
    Image.new('RGB', (32, 32), 'blue').save(small/'train'/'REAL'/'0001.jpg')
    gone = ImageStore(small).file
    Image.new('RGB', (32, 32), 'red').save(small/'train'/'REAL'/'0001.jpg')
    for file in (kept, gone): os.utime(file, (0, 0))
    new = ImageStore(small).file
    assert len({kept, gone, new}) == 3  # other content, another file
    assert new.exists() and not gone.exists() and not kept.exists()


def test_an_array_that_is_asked_for_stays(small, home):
    kept = ImageStore(small).file
    os.utime(kept, (0, 0))
    ImageStore(small)
    Image.new('RGB', (32, 32), 'red').save(small/'train'/'REAL'/'0001.jpg')
    assert ImageStore(small).file.exists() and kept.exists()


def test_images_of_several_sizes_are_counted_and_refused(small):
    Image.new('RGB', (31, 32)).save(small/'test'/'REAL'/'0000.jpg')
    with pytest.raises(ValueError, match='1 of .* images are not 32x32 pixels; the first is test/REAL/0000.jpg, 31x32'):
        memory_dls(small)


def test_decoded_pixels_belong_to_the_pillow_that_decoded_them(small):
    ours = ImageStore(small).file
    with patch('cifake.data.pictures.PILLOW', '99.0'): theirs = ImageStore(small).file
    assert ours != theirs and ours == ImageStore(small).file


def test_a_file_that_changed_or_vanished_after_it_was_listed_is_left_out(small, home):
    data = Cifake(small)
    gone, other, *_ = [data.root/o for o in data.items.path[data.items.split == 'train']]
    gone.unlink()
    shutil.copy(data.root/data.items.path.iloc[-1], other)
    messages, dls = said(lambda: memory_dls(data, bs=4))
    assert '2 image(s) were changed or removed' in ' '.join(messages)
    assert {gone, other}.isdisjoint(o.file for o in [*dls.train.items, *dls.valid.items])
    assert len(images_of(in_order(dls.train))) == len(dls.train.items)
    messages, _ = said(lambda: memory_dls(Cifake(small), bs=4))
    assert 'changed or removed' not in ' '.join(messages)  # what is listed anew is whole


def test_a_loader_without_a_store_reads_files(held):
    loader = held.valid.new(store=None)
    assert isinstance(loader, MemoryDL) and loader.rows is None
    assert torch.equal(images_of(loader), images_of(held.valid))


# Pictures from elsewhere

def test_extra_pictures_are_trained_on_and_nothing_else(demo, held, more):
    shutil.copy(held.valid.items[0].file, more/'FAKE')
    wider = memory_dls(demo, bs=64, stats=None, extra=more)
    assert len(wider.train_ds) == len(held.train_ds) + 8
    assert [o.digest for o in wider.valid.items] == [o.digest for o in held.valid.items]
    added = [o for o in wider.train.items if o.object_class == 'unknown']
    assert (len(added), {o.split for o in added}, sum(o.label == 'FAKE' for o in added)) == (8, {'train'}, 4)
    assert len(wider.train.store.images) == len(held.train.store.images) + 8


def test_extra_pictures_are_the_same_from_files_and_from_memory(demo, more):
    by_file = cifake_dls(demo, bs=64, stats=None, extra=[more], num_workers=0)
    from_memory = memory_dls(demo, bs=64, stats=None, extra=more)
    (a, x), (b, y) = ([torch.cat(o) for o in zip(*in_order(dl.train), strict=True)] for dl in (by_file, from_memory))
    assert torch.equal(x, y) and torch.equal(a, b)
    added = [o for o in from_memory.train.items if o.object_class == 'unknown']
    assert torch.equal(b[-8:], by_file.test_dl(added, num_workers=0).one_batch()[0])  # as for predictions


def test_extra_files_that_cannot_be_read_are_counted(demo, more):
    (more/'REAL'/'broken.jpg').write_text('no picture')
    messages, items = said(lambda: extra_items([more]))
    assert len(items) == 8 and '1 of 9 extra file(s) left out' in messages[0] and 'broken.jpg' in messages[0]
    with pytest.raises(ValueError, match='has no pictures'): memory_dls(demo, extra=more.parent)


def test_an_item_is_what_the_loader_was_made_of(dls):
    first = dls.train.items[0]
    assert isinstance(first, Item) and first.label in LABELS and first.file.exists()
    assert len(dls.train.new().one_batch()[0]) == 64
    loader = dls.train.new()
    list(loader)
    assert sorted(loader.taken) == list(range(len(dls.train_ds)))


@pytest.mark.parametrize('workers', [0, 2])
def test_a_training_goes_on_without_a_file_that_is_gone(tmp_path, workers):
    dls = cifake_dls(shutil.copytree(demo_cifake(n=60), tmp_path/'set'), bs=8, num_workers=workers)
    Path(dls.train.items[0].file).unlink()
    dls.train.drop_last = False
    assert sum(len(y) for _, y in dls.train) == len(dls.train.items) - 1


def test_a_measurement_does_not_go_on_without_a_file(tmp_path):
    dls = cifake_dls(shutil.copytree(demo_cifake(n=60), tmp_path/'set'), bs=8, num_workers=0)
    Path(dls.valid.items[0].file).unlink()
    with pytest.raises(FileNotFoundError): list(dls.valid)
