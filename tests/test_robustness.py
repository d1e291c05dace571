"Corruptions, how accuracy falls under them, and pictures from other sources"
from copy import deepcopy
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.vision.core import TensorImage
from PIL import Image
from scipy.special import logit

from cifake.data.dataset import Cifake
from cifake.data.demo import demo_cifake
from cifake.data.find import download_pictures
from cifake.data.items import as_items
from cifake.data.loaders import ImageStore, memory_dls
from cifake.measure.calibration import Calibration
from cifake.measure.evaluate import as_predictor, evaluate
from cifake.measure.learners import Calibrated
from cifake.measure.robustness import (
    CORRUPTIONS,
    _row,
    corrupt,
    cross_dataset_table,
    plot_robustness,
    read_pictures,
    robustness_table,
    to_size,
)
from cifake.models.networks import LeNet

SHARES = 'accuracy', 'recall', 'recall_real'
LEVELS = [(name, level) for name, kind in CORRUPTIONS.items() for level in kind.levels]


def parity(arrays): return [float(o.sum() % 2) for o in arrays]


@pytest.fixture(scope='module')
def data(): return Cifake(demo_cifake(n=200))


@pytest.fixture(scope='module')
def pictures(data): return ImageStore(data).images.permute(0, 3, 1, 2)


@pytest.fixture(scope='module')
def learn(data):
    "A learner whose predictions spread without training, and whose threshold is not 0.5"
    torch.manual_seed(0)
    model = LeNet()
    with torch.no_grad(): [o for o in model.modules() if isinstance(o, torch.nn.Linear)][-1].weight.mul_(10)
    learn = Learner(memory_dls(data, bs=64), model, CrossEntropyLossFlat())
    middle = float(np.median(as_predictor(learn).p_fake(learn.dls.valid.items)))
    learn.add_cb(Calibrated(Calibration(threshold=round(middle, 3))))
    return learn


@pytest.fixture(scope='module')
def table(learn): return robustness_table(learn, names=['JPEG', 'blur', 'noise'])


@pytest.fixture(scope='module')
def clean(learn): return evaluate(learn)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def draw(folder, label, files, side=32, suffix='.jpg'):
    (folder/label).mkdir(parents=True)
    for i, o in enumerate(files): Image.open(o).resize((side, side)).save(folder/label/f'{i}{suffix}')


@pytest.fixture(scope='module')
def files(data): return {o: sorted((data.root/'test'/o).glob('*.jpg')) for o in ('FAKE', 'REAL')}


@pytest.fixture(scope='module')
def sources(tmp_path_factory, files):
    root = tmp_path_factory.mktemp('sources')
    draw(root/'larger', 'AiArtData', files['FAKE'], 100, '.png')
    draw(root/'larger', 'RealArt', files['REAL'], 100, '.png')
    draw(root/'fake alone', 'FAKE', files['FAKE'])
    draw(root/'larger alone', 'FAKE', files['FAKE'], 100)
    (root/'larger'/'RealArt'/'broken.png').write_text('no picture')
    return root


# corruptions

@pytest.mark.parametrize('name, level', LEVELS)
def test_a_corruption_changes_each_picture_by_itself(name, level, pictures):
    few = pictures[:20]
    out = corrupt(few, name, level, 1)
    assert (out.dtype, out.shape) == (torch.uint8, few.shape)
    assert torch.equal(out, corrupt(few, name, level, 1)) and not torch.equal(out, few)
    assert torch.equal(out[:3], corrupt(few[:3], name, level, 1))  # whatever comes after them


@pytest.mark.parametrize('name, level', [('noise', 0), ('resize', 1), ('brightness', 1)])
def test_the_level_of_no_change_changes_nothing(name, level, pictures):
    assert torch.equal(corrupt(pictures[:20], name, level), pictures[:20])


def test_noise_follows_its_seed_and_has_its_deviation(pictures):
    assert not torch.equal(corrupt(pictures[:20], 'noise', 0.1, 1), corrupt(pictures[:20], 'noise', 0.1, 2))
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    assert abs(corrupt(grey, 'noise', 0.1).float().std().item()/255 - 0.1) < 0.002


@pytest.mark.parametrize('name', ['blur', 'blur by Pillow', 'resize', 'crop', 'JPEG', 'contrast'])
def test_grey_stays_grey(name):
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    assert (corrupt(grey, name, CORRUPTIONS[name].levels[0]).float() - 128).abs().max() <= 2


def test_blur_is_a_gaussian():
    x = np.arange(-8, 9)
    kernel = np.exp(-x**2/(2*0.9**2))
    line = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    line[..., 16] = 255
    found = corrupt(line, 'blur', 0.9)[0, 0, 16, 8:25].numpy()
    assert np.abs(found - 255*kernel/kernel.sum()).max() <= 1


def test_pillow_blurs_more_at_first_and_less_later(pictures):
    def change(name, level):
        some = pictures[:200]
        return (corrupt(some, name, level).float() - some).square().mean().sqrt().item()
    assert change('blur by Pillow', 0.3) > 8*change('blur', 0.3)
    assert change('blur by Pillow', 0.6) < change('blur', 0.6)


@pytest.mark.parametrize('name, level, match', [
    ('fog', 1, 'no corruption'), ('JPEG', 200, 'choose one in'), ('JPEG', 40.9, 'whole number')])
def test_unknown_names_and_levels_are_refused(name, level, match, pictures):
    with pytest.raises(ValueError, match=match): corrupt(pictures[:2], name, level)


def test_pictures_have_8_bits(pictures):
    with pytest.raises(ValueError, match='8-bit'): corrupt(pictures[:2].float(), 'JPEG', 50)


# the table

def test_the_first_row_is_that_of_evaluate(table, clean):
    assert table.corruption[0] == 'none'
    assert len(table) == 1 + sum(len(CORRUPTIONS[o].levels) for o in ('JPEG', 'blur', 'noise'))
    for name in (*SHARES, 'auc'): assert table[name][0] == pytest.approx(getattr(clean, name), abs=1e-9)
    for name in SHARES:
        assert (table[f'{name}_low'][0], table[f'{name}_high'][0]) == pytest.approx(clean.intervals[name], abs=1e-9)


def test_all_corruptions_are_in_the_table_by_default(data):
    found = robustness_table(parity, demo_cifake(n=40))
    assert len(found) == 1 + len(LEVELS)
    assert list(found.corruption.unique()) == ['none', *CORRUPTIONS]


def test_values_lie_in_their_intervals_and_under_the_best(table):
    assert (table.best_accuracy >= table.accuracy).all()
    for name in SHARES:
        assert (table[f'{name}_low'] <= table[name] + 1e-9).all()
        assert (table[name] <= table[f'{name}_high'] + 1e-9).all()
    mean = (table.best_recall + table.best_recall_real)/2  # the labels are equally many
    assert table.best_accuracy.to_numpy() == pytest.approx(mean.to_numpy(), abs=1e-9)


def test_a_row_is_that_of_files_that_were_rewritten(table, learn, data):
    items = as_items(data.test, data.root)
    images = [torch.from_numpy(np.array(Image.open(o.file))).permute(2, 0, 1)[None] for o in items]
    blurred = torch.cat([corrupt(o, 'blur', 0.9) for o in images])
    p = as_predictor(learn).p_fake(blurred.permute(0, 2, 3, 1).contiguous().numpy())
    fake = np.array([o.label == 'FAKE' for o in items])
    row = table.query('corruption == "blur" and level == 0.9').iloc[0]
    right = (p >= learn.calibrated.calibration.threshold) == fake
    assert row.accuracy == pytest.approx(right.mean(), abs=1e-9)


def test_a_learner_of_another_size_resizes_arrays_as_its_loaders_do(data, pictures):
    larger = Learner(memory_dls(data, size=48, bs=64), LeNet(), CrossEntropyLossFlat())
    arrays = pictures[:12].permute(0, 2, 3, 1).numpy()
    expected = larger.get_preds(dl=larger.dls.test_dl(list(arrays)))[0][:, 0].numpy()
    np.testing.assert_allclose(as_predictor(larger).p_fake(arrays), expected, rtol=0, atol=1e-6)


def test_functions_are_measured_too(data):
    one = robustness_table(parity, data, names='JPEG')
    assert len(one) == 6
    two = robustness_table(lambda arrays: [[p, 1 - p] for p in parity(arrays)], data, names='JPEG')
    assert two.accuracy.tolist() == one.accuracy.tolist()


def test_validation_is_measured_too(learn):
    found = robustness_table(learn, split='valid', names=['crop'])
    assert found.images[0] == len(learn.dls.valid.items)


@pytest.mark.parametrize('kwargs, match', [
    (dict(names=['fog']), 'no corruption'), (dict(split='train'), '`split` is'),
    (dict(threshold=50), '`threshold` is')])
def test_arguments_are_checked(kwargs, match, learn):
    with pytest.raises(ValueError, match=match): robustness_table(learn, **kwargs)


def test_a_function_has_no_validation_part():
    with pytest.raises(ValueError, match='needs a fastai'): robustness_table(parity, split='valid')


def test_a_network_of_the_box_has_no_validation_part():
    from cifake.serve.detector import load_pretrained
    with pytest.raises(ValueError, match='no validation part'): robustness_table(load_pretrained(), split='valid')


@pytest.mark.parametrize('wrong', [np.nan, 3.])
def test_what_is_no_probability_is_refused(wrong, data):
    with pytest.raises(ValueError, match=r'has to lie in \[0, 1\]'):
        robustness_table(lambda arrays: [wrong]*len(arrays), data)


def test_one_label_has_no_area_and_no_best_threshold():
    row = _row(np.ones(40, bool), np.linspace(0, 1, 40), 0.5)
    assert row['recall'] == 0.5
    assert np.isnan([row['recall_real'], row['auc'], row['best_accuracy']]).all()


@pytest.mark.slow
def test_a_trained_network_falls_under_blur(trained, data):
    from cifake.training.train import load_run
    found = robustness_table(load_run(trained), data, names='blur')
    assert found.accuracy.iloc[-1] < found.accuracy[0] - 0.1


def test_a_prediction_depends_on_its_picture_alone(pictures):
    from cifake.serve.detector import load_pretrained
    learn = load_pretrained(precision='float32')
    box = as_predictor(learn)
    small = pictures[::20][:12].permute(0, 2, 3, 1).contiguous()
    def logits(images): return logit(box.p_fake(images.numpy()).clip(1e-9, 1 - 1e-9))
    together = logits(small)
    by_itself = np.concatenate([logits(small[i:i+1]) for i in range(12)])
    with_others = logits(torch.cat([255 - small, small.flip(0)]))[12:][::-1]
    assert np.ptp(together) > 1
    assert abs(by_itself - together).max() < 1e-3 and abs(with_others - together).max() < 1e-3
    leaking = deepcopy(learn.model).train()  # the control: statistics of the batch, as in training
    def first(images):
        x = learn.dls.valid.after_batch((TensorImage(images.permute(0, 3, 1, 2)),))[0]
        with torch.no_grad(): return leaking(x)[0]
    assert (first(small) - first(torch.cat([small[:1], 255 - small[1:]]))).abs().max() > 1e-2


# pictures

def test_a_line_for_each_detector_starts_at_clean(table, data):
    parities = robustness_table(parity, data, names='JPEG')
    some = table[table.corruption.isin(['none', 'JPEG'])]
    axs = plot_robustness(dict(a=some, b=parities), 'recall')
    assert [o.get_ydata()[0] for o in axs.flat[0].lines] == [table.recall[0], parities.recall[0]]
    assert list(axs.flat[0].lines[0].get_ydata()[1:]) == table[table.corruption == 'JPEG'].recall.tolist()


# other sources

def test_sources_are_measured_like_the_test(learn, data, sources, clean):
    found = cross_dataset_table(learn, {
        'test': data.root/'test', 'larger': sources/'larger', 'alone': sources/'fake alone'})
    assert found.recall['test'] == pytest.approx(clean.recall, abs=1e-9)
    assert found.auc['test'] == pytest.approx(clean.auc, abs=1e-9)
    assert (found.auc_low <= found.auc)['test'] and (found.auc <= found.auc_high)['test']
    assert found.unreadable.tolist() == [0, 1, 0]
    assert found.fake_resized.tolist() == [0, 1, 0]
    assert found.real['alone'] == 0
    assert np.isnan(found.recall_real['alone']) and np.isnan(found.auc['alone'])
    assert [bool(o) for o in found.note] == [False]*3
    assert found.on_the_way.tolist() == ['32 px, bicubic, crop']*3


def test_fake_alone_is_measured_beside_real_of_another_folder(learn, data, sources, clean):
    found = cross_dataset_table(learn, {'alone': sources/'fake alone'}, real=data.root/'test')
    assert found.real['alone'] == len(list((data.root/'test'/'REAL').iterdir()))
    assert found.recall_real['alone'] == pytest.approx(clean.recall_real, abs=1e-9)


def test_uneven_resizing_is_noted(learn, data, sources):
    found = cross_dataset_table(learn, {'a': sources/'larger alone'}, real=data.root/'test')
    assert 'share of resized pictures differs' in found.note['a']


def test_a_detector_gets_pictures_of_its_size(sources):
    seen = []
    class Wide:
        calibration = Calibration()
        size = 48
        def p_fake(self, items):
            seen.extend(o.shape for o in items)
            return np.full(len(items), 0.5)
    found = cross_dataset_table(Wide(), {'a': sources/'larger'})
    assert set(seen) == {(48, 48, 3)} and found.on_the_way['a'].startswith('48 px')


def test_the_second_set_of_kaggle_is_understood(learn, files, tmp_path):
    for label, kind in (('AiArtData', 'FAKE'), ('RealArt', 'REAL')):
        draw(tmp_path/label, label, files[kind][:40], 60)
    with patch('kagglehub.dataset_download', return_value=str(tmp_path)):
        art = cross_dataset_table(learn, {'art': download_pictures()})
    assert (art.fake['art'], art.real['art'], art.fake_resized['art']) == (40, 40, 1.)


def test_a_picture_comes_at_the_size_by_the_filter(files):
    array, kind, resized = to_size(files['FAKE'][0], 16, 'box')
    expected = Image.open(files['FAKE'][0]).resize((16, 16), Image.Resampling.BOX)
    assert (kind, resized, array.tolist()) == ('JPEG', True, np.asarray(expected).tolist())


def test_a_picture_is_cropped_or_squeezed(tmp_path):
    wide = Image.new('RGB', (64, 32), 'red')
    wide.paste('blue', (0, 0, 16, 32))
    wide.save(tmp_path/'wide.png')
    blue = [(to_size(tmp_path/'wide.png', fit=o)[0][..., 2] > 128).mean() for o in ('crop', 'squeeze')]
    assert blue[0] < 0.1 < blue[1]
    for name in ('filter', 'fit'):
        with pytest.raises(ValueError, match=f'`{name}` is'): to_size(tmp_path/'wide.png', **{name: 'best'})


def test_quality_encodes_again(files):
    assert not np.array_equal(to_size(files['REAL'][0], quality=20)[0], to_size(files['REAL'][0])[0])


def test_labels_in_different_formats_are_refused_unless_encoded_again(learn, files, tmp_path):
    draw(tmp_path, 'FAKE', files['FAKE'][:5], suffix='.png')
    draw(tmp_path, 'REAL', files['REAL'][:5])
    with pytest.raises(ValueError, match='the format alone may tell the labels apart'):
        cross_dataset_table(learn, {'formats': tmp_path})
    found = cross_dataset_table(learn, {'formats': tmp_path}, quality=75)
    assert found.fake['formats'] == 5
    assert found.on_the_way['formats'] == '32 px, bicubic, crop, JPEG 75'


def test_one_picture_of_the_other_format_does_not_make_labels_alike(learn, files, tmp_path):
    draw(tmp_path, 'FAKE', files['FAKE'][:20], suffix='.png')
    draw(tmp_path, 'REAL', files['REAL'][:20])
    Image.open(files['FAKE'][30]).save(tmp_path/'FAKE'/'a.jpg')
    Image.open(files['REAL'][30]).save(tmp_path/'REAL'/'a.png')
    with pytest.raises(ValueError, match='95% PNG'): cross_dataset_table(learn, {'mixed': tmp_path})


@pytest.mark.parametrize('kwargs, match', [
    (dict(threshold=2), '`threshold` is'), (dict(quality=0), '`quality` is'), (dict(quality=101), '`quality` is'),
    (dict(quality=75.5), '`quality` is')])
def test_arguments_of_sources_are_checked(kwargs, match, learn, sources):
    with pytest.raises(ValueError, match=match): cross_dataset_table(learn, {'a': sources/'larger'}, **kwargs)


def test_a_damaged_picture_is_counted(learn, sources, files, tmp_path):
    draw(tmp_path, 'FAKE', files['FAKE'][:3])
    draw(tmp_path, 'REAL', files['REAL'][:3])
    damaged = bytearray((sources/'larger'/'AiArtData'/'0.png').read_bytes())
    damaged[200:260] = bytes(60)
    (tmp_path/'FAKE'/'damaged.png').write_bytes(damaged)
    assert cross_dataset_table(learn, {'a': tmp_path}).unreadable['a'] == 1


def test_folders_without_pictures_are_refused(learn, tmp_path):
    (tmp_path/'empty'/'FAKE').mkdir(parents=True)
    with pytest.raises(ValueError, match='has no pictures'): cross_dataset_table(learn, {'a': tmp_path/'empty'})
    with pytest.raises(FileNotFoundError, match='does not exist'): cross_dataset_table(learn, {'a': tmp_path/'gone'})
    (tmp_path/'text'/'FAKE').mkdir(parents=True)
    (tmp_path/'text'/'FAKE'/'a.png').write_text('no picture')
    with pytest.raises(ValueError, match='None of the 1 files'): read_pictures(tmp_path/'text')


def test_pictures_come_with_their_table(sources):
    table, images = read_pictures(sources/'larger', size=16)
    assert isinstance(table, pd.DataFrame) and images.shape[1:] == (16, 16, 3)
    assert len(images) == (table.error == '').sum() == len(table) - 1
