"A detector: rows for anything, settings, streams, tiles, files written before, and the learner it came from"
import json
import os
import pickle
import shutil
import subprocess
import sys
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from PIL import Image
from safetensors.torch import load_file, save_file

from cifake.data import loaders
from cifake.data.dataset import read_items
from cifake.data.demo import demo_cifake
from cifake.measure.evaluate import evaluate
from cifake.serve import detector as room
from cifake.serve.card import box_card, box_file, list_detectors, read_card
from cifake.serve.detector import COLUMNS, BatchDetector, load_detector, load_pretrained, save_detector
from cifake.training.train import load_run

ROOT = demo_cifake(n=200)
FILES = [str(o) for o in sorted((ROOT/'test').rglob('*.jpg'))]
ONE = Path(FILES[0])
LARGE = Image.open(ONE).resize((300, 200))


@pytest.fixture(scope='module')
def robust(): return load_detector()


@pytest.mark.parametrize('source', [
    ONE, str(ONE), ONE.read_bytes(), Image.open(ONE), np.asarray(Image.open(ONE)), pd.Series([str(ONE)]), iter([ONE]),
    np.asarray(Image.open(ONE))[None]],
    ids=['path', 'text', 'bytes', 'image', 'array', 'series', 'iterator', 'four dimensions'])
def test_one_picture_in_any_form(robust, source):
    table = robust.predict(source)
    assert tuple(table.columns) == COLUMNS and len(table) == 1
    assert abs(table.p_fake[0] - robust.p_fake([ONE])[0]) < 1e-6 and not table.error[0] and not table.note[0]


@pytest.mark.parametrize('source, said', [
    (ONE.parent, 'folder'), (b'', 'empty'), ('https://example.org/cat.jpg', 'web address'), ('no\0path', 'neither'),
    (3, 'This is int: give a path, bytes, an open file'), ('gone.jpg', 'No such file or directory')])
def test_a_picture_that_cannot_be_read_is_a_row(robust, source, said):
    table = robust.predict([source, ONE])
    assert said in table.error[0] and table.verdict[0] == '' and np.isnan(table.p_fake[0])
    assert not table.error[1] and table.verdict[1]


def test_no_pictures_are_no_rows(robust):
    assert len(robust.predict([])) == 0 and robust.p_fake([]).shape == (0,)


def test_the_note_says_what_is_unusual(robust):
    assert '300x200, its middle reduced to 32x32' in robust.predict(LARGE).note[0]
    assert 'transparent' in robust.predict(LARGE.convert('RGBA').rotate(20)).note[0]
    assert 'squeezed to 32x32' in load_detector(fit='squeeze').predict(LARGE).note[0]
    assert 'enlarged' in robust.predict(LARGE.resize((20, 20))).note[0]


def test_only_pictures_of_another_size_are_resized_or_encoded(robust):
    other = load_detector(quality=75, fit='squeeze')
    assert other.p_fake([ONE]) == robust.p_fake([ONE])
    assert other.p_fake([LARGE]) != robust.p_fake([LARGE])
    assert np.array_equal(other.pixels_of(ONE), np.asarray(Image.open(ONE)))


@pytest.mark.parametrize('options, said', [
    (dict(threshold=2), 'a probability in'), (dict(threshold=-0.1), 'a probability in'),
    (dict(band=(0.9, 0.2)), 'the lower one first'), (dict(band=(0.2,)), 'two probabilities'),
    (dict(band=(0.2, 1.2)), 'two probabilities'), (dict(filter='cubic'), 'one of nearest'), (dict(fit='none'), '`fit`'),
    (dict(quality=0), '`quality`')])
def test_a_wrong_setting_is_named(options, said):
    with pytest.raises(ValueError, match=said): load_detector(**options)


def test_a_threshold_takes_the_band_with_it(robust):
    strict = load_detector(threshold=0.9)
    assert (strict.threshold, strict.band) == (0.9, (0.9, 0.9))
    table = strict.predict(FILES)
    assert ((table.verdict == 'FAKE') == (table.p_fake >= 0.9)).all()
    banded = load_detector(band=(0.2, 0.9))
    assert [banded.verdict(o) for o in (0.1, 0.2, 0.8999, 0.9)] == ['REAL', 'unsure', 'unsure', 'FAKE']
    assert 'unsure from 0.2 to 0.9' in repr(banded) and 'unsure' not in repr(strict)


def test_p_fake_takes_pixels_files_and_items(robust):
    items = loaders.as_items(read_items(ROOT), ROOT)
    files = [o.file for o in items]
    expected = robust.predict(FILES[:9]).p_fake.to_numpy()
    pixels = np.stack([np.asarray(Image.open(o)) for o in FILES[:9]])
    for given in (FILES[:9], pixels, list(pixels), [Image.open(o) for o in FILES[:9]]):
        assert np.abs(robust.p_fake(given) - expected).max() < 1e-6
    assert np.abs(robust.p_fake(items[:9]) - robust.p_fake(files[:9])).max() < 1e-6
    with pytest.raises(ValueError, match='gone.jpg: No such file'): robust.p_fake([ONE, 'gone.jpg'])
    with pytest.raises(ValueError, match='8-bit'): robust.p_fake(pixels.astype(float))


def test_what_the_network_sees_of_a_picture(robust):
    assert robust.pixels_of(LARGE).shape == (32, 32, 3) and robust.pixels_of(LARGE).dtype == np.uint8
    refused = {'gone.jpg': 'No such file', 'https://example.org/cat.jpg': 'web address', b'x': 'no picture'}
    for source, said in refused.items():
        with pytest.raises(ValueError, match=said): robust.pixels_of(source)


def test_a_folder_and_its_archive_give_the_same(robust, tmp_path):
    with ZipFile(tmp_path/'test.zip', 'w') as file:
        for o in FILES: file.write(o, Path(o).relative_to(ROOT))
    in_folder = robust.predict_folder(ROOT/'test', progress=True)
    in_archive = robust.predict_folder(tmp_path/'test.zip')
    assert np.abs(in_folder.p_fake - in_archive.p_fake).max() < 1e-4
    assert in_folder.file.tolist() == FILES and in_archive.file[0].startswith(f'{tmp_path}/test.zip/test/')
    assert len(robust.predict_folder(ROOT/'test', recursive=False)) == 0
    with pytest.raises(FileNotFoundError, match='neither a folder nor'): robust.predict_folder(tmp_path/'gone')


def test_a_broken_file_does_not_end_a_folder(robust, tmp_path):
    shutil.copy(ONE, tmp_path/'fine.jpg')
    (tmp_path/'broken.jpg').write_bytes(ONE.read_bytes()[:300])
    (tmp_path/'loop.jpg').symlink_to(tmp_path/'loop.jpg')
    errors = robust.predict_folder(tmp_path).assign(file=lambda o: o.file.map(os.path.basename)).set_index('file').error
    assert [k for k, v in errors.items() if v] == ['broken.jpg', 'loop.jpg'] and 'damaged' in errors['broken.jpg']


def test_a_mistake_in_the_code_is_no_row(robust, monkeypatch):
    def mistaken(*args): raise TypeError('a mistake')
    monkeypatch.setattr(room, 'to_square', mistaken)
    with pytest.raises(TypeError, match='a mistake'): robust.predict(ONE)


def test_a_stream_is_read_only_as_far_as_needed(robust):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield 'the same', ONE

    rows = [row for batch in islice(robust.stream(endless(), bs=16, workers=2), 4) for row in batch]
    assert len(rows) == 64 and 64 <= len(asked) <= 64 + 3*16
    with pytest.raises(ValueError, match='`bs` is 0'): next(robust.stream([], bs=0))


def test_threads_of_others_keep_their_cores(robust):
    before, counted = torch.get_num_threads(), []
    assert len(robust.predict([ONE]*200)) == 200
    thread = Thread(target=lambda: counted.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *counted] == [before]*2


def test_tiles_are_judged_like_pictures(robust):
    nine = [np.asarray(Image.open(o)) for o in FILES[:9]]
    mosaic = np.concatenate([np.concatenate(nine[i:i+3], 1) for i in (0, 3, 6)])
    assert np.abs(robust.tile_map(mosaic).flatten() - robust.p_fake(nine)).max() < 1e-6


def test_a_large_picture_is_sampled(robust):
    wide = np.random.default_rng(0).integers(0, 255, (100, 1000, 3), dtype=np.uint8)
    assert robust.tile_map(wide).shape == (3, 31) and robust.tile_map(wide, tile=50).shape == (2, 20)
    assert robust.tile_map(wide, most=10).size <= 10
    with pytest.raises(ValueError, match='less than a tile'): robust.tile_map(wide[:20])
    with pytest.raises(ValueError, match='from 1 on'): robust.tile_map(wide, tile=0)


def test_a_path_comes_before_a_name(robust, tmp_path, monkeypatch):
    with box_file('fast') as file: state = load_file(file)
    save_file(state, tmp_path/'robust', metadata=dict(card=json.dumps(box_card('fast'))))
    monkeypatch.chdir(tmp_path)
    assert load_detector('robust').name == 'fast' and load_detector().name == 'fast'
    with pytest.raises(FileNotFoundError, match='There are: fast, robust'): load_detector('robustest')


@pytest.mark.parametrize('name', list_detectors())
def test_files_of_version_1_are_read_as_before(name):
    "Written before calibration had a bias: none is added, and the band is that of `unsure`"
    own = box_card(name)['calibration']
    calibration = load_detector(name).calibration
    if 'bias' not in own: assert calibration.bias == 0
    assert (calibration.temperature, calibration.threshold) == (own['temperature'], own['threshold'])
    assert list(calibration.band) == own['unsure']


@pytest.fixture(scope='module')
def saved(trained, tmp_path_factory):
    "A learner, and its file"
    learn = load_run(trained)
    return learn, save_detector(learn, tmp_path_factory.mktemp('saved')/'mine')


def test_a_saved_learner_gives_the_same_verdicts(saved):
    learn, file = saved
    mine = load_detector(file)
    items = loaders.test_dl(learn.dls).items
    table = mine.predict([o.file for o in items])
    with learn.no_bar(): expected = learn.get_preds(dl=loaders.test_dl(learn.dls))[0][:, 0].double().numpy()
    assert np.abs(table.p_fake - expected).max() < 1e-5
    own = learn.calibrated.calibration
    assert mine.threshold == own.threshold and set(table.verdict) == {'FAKE', 'REAL'}
    assert ((table.verdict == 'FAKE') == (table.p_fake >= own.threshold)).all()
    assert evaluate(mine, demo_cifake()).accuracy == evaluate(learn).accuracy
    assert (table.width == 32).all() and (table.error == '').all() and (table.note == '').all()


def test_a_saved_card_tells_of_training_and_validation(saved):
    learn, file = saved
    card, _ = read_card(file)
    assert card['name'] == 'quick' and card['recipe']['name'] == 'quick' and card['seed'] == 42
    scores = card['scores']['validation']['as it predicts']
    assert scores['accuracy'] == learn.report.accuracy and 'predictions' not in scores
    assert not [o for o in file.parent.iterdir() if o != file]


def test_what_cannot_be_saved_is_named(saved, tmp_path):
    learn, _ = saved
    with pytest.raises(ValueError, match='another suffix'): save_detector(learn, tmp_path/'mine.pkl')
    plain = Learner(learn.dls, learn.model, loss_func=learn.loss_func)
    with pytest.raises(ValueError, match='not made by `cifake_learner`'): save_detector(plain, tmp_path/'plain')


def test_batches_of_a_pipeline(robust):
    judge = BatchDetector()
    contents = [Path(o).read_bytes() for o in FILES]
    expected = robust.predict(FILES)
    rows = judge(dict(path=FILES, bytes=contents))
    assert np.abs(rows.p_fake - expected.p_fake).max() < 1e-5
    columns = ['file', 'verdict', 'width', 'note']
    assert rows[columns].equals(expected[columns])
    images = judge(dict(image=np.stack([np.asarray(Image.open(o)) for o in FILES])))
    assert np.abs(images.p_fake - expected.p_fake).max() < 1e-5
    assert len(judge(dict(bytes=[]))) == 0 and BatchDetector('fast', threshold=0.25).detector.threshold == 0.25
    with pytest.raises(ValueError, match='but url'): judge(dict(url=['a']))


def test_a_batch_of_arrays_of_many_sizes():
    mixed = np.empty(3, object)
    mixed[:] = [np.zeros(o, np.uint8) for o in ((32, 32, 3), (50, 70, 3), (40, 40))]
    rows = BatchDetector()(dict(image=mixed))
    assert rows.file.tolist() == ['picture 0', 'picture 1', 'picture 2']
    assert rows.width.tolist() == [32, 70, 40] and rows.error.tolist() == ['']*3


def imported(code, *names):
    "Which of the modules `names` a program imports"
    code = f'import sys; {code}; print([o for o in {names!r} if o in sys.modules])'
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def test_neither_torch_nor_fastai_is_imported_until_a_network_is_needed():
    code = 'import cifake.cli, cifake.serve.detector, cifake.serve.card, cifake.serve.sources, cifake.serve.onnx'
    assert imported(code, 'torch', 'fastai', 'pandas', 'matplotlib', 'requests') == '[]'


def test_a_verdict_needs_neither_fastai_nor_timm_nor_pandas():
    code = ('import numpy as np; from cifake.serve.detector import load_detector; '
            'next(load_detector().stream([("one", np.zeros((32, 32, 3), np.uint8))]))')
    assert imported(code, 'fastai', 'timm', 'torchvision', 'pandas', 'matplotlib') == '[]'


@pytest.mark.parametrize('name', list_detectors())
def test_a_detector_as_a_learner(name):
    learn = load_pretrained(name, precision='float32')
    assert learn.card == box_card(name) and learn.dls.path is None
    detector = load_detector(name)
    with learn.no_bar(): p = learn.get_preds(dl=learn.dls.test_dl(FILES[:20]))[0][:, 0].numpy()
    assert np.abs(p - detector.p_fake(FILES[:20])).max() < 1e-5
    assert learn.calibrated.calibration.threshold == detector.threshold


def test_a_worker_gets_it_as_a_pickle(robust):
    copy = pickle.loads(pickle.dumps(robust))
    assert copy.predict(FILES[:5]).equals(robust.predict(FILES[:5]))


@pytest.mark.slow
def test_a_process_of_its_own_gets_it_too(robust):
    with get_context('spawn').Pool(1) as pool: found = pool.apply(robust.predict, [FILES[:5]])
    assert np.allclose(found.p_fake, robust.predict(FILES[:5]).p_fake, atol=1e-5)
