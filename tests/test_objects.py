"Objects: loaders of one source, shares, and scores that agree with a count by hand"
import math
import re

import numpy as np
import pytest
import torch
from fastai.torch_core import set_seed
from PIL import Image

from cifake.data.core import LABELS, OBJECTS
from cifake.data.demo import demo_cifake
from cifake.data.loaders import CIFAKE_STATS
from cifake.training.learner import blank_dls, cifake_learner, recipe_learner
from cifake.training.objects import object_dls, train_objects, transfer_table
from cifake.training.recipes import get_recipe


def sources(part): return {o.path.split('/')[1] for o in part.items}


@pytest.fixture(scope='module')
def exact(tmp_path_factory):
    "LeNet, trained on FAKE in float32"
    return train_objects(demo_cifake(n=400), 'lenet', 'FAKE', epochs=2, precision='float32', verbose=False,
                         out=tmp_path_factory.mktemp('objects')/'exact')


def test_loaders_of_one_source_know_the_objects_of_its_images():
    dls = object_dls(demo_cifake(n=400), 'FAKE', bs=10)
    assert list(dls.vocab) == OBJECTS and sources(dls.train) == sources(dls.valid) == {'FAKE'}
    batch = dls.valid.one_batch()[1]
    assert [OBJECTS[i] for i in batch] == [o.object_class for o in dls.valid.items[:20]]


def test_training_and_validation_may_come_from_different_sources():
    dls = object_dls(demo_cifake(n=1000), real=0.1, valid_source='REAL')
    counts = {label: sum(o.path.split('/')[1] == label for o in dls.train.items) for label in LABELS}
    assert abs(counts['REAL'] - 0.1*counts['FAKE']) <= 10 and sources(dls.valid) == {'REAL'}


def test_a_smaller_share_is_part_of_a_larger_one():
    some, more = ({o.path for o in object_dls(demo_cifake(n=400), 'REAL', real=r).train.items} for r in (0.1, 0.5))
    assert some < more


@pytest.mark.parametrize('wrong, words', [
    (dict(source='fake'), '`source` is'), (dict(real=2.), '`real` is'), (dict(valid_source='x'), '`valid_source`'),
    (dict(source='REAL', real=0.), 'no training image')])
def test_wrong_sources_and_shares_are_named(wrong, words):
    with pytest.raises(ValueError, match=words): object_dls(demo_cifake(n=60), **wrong)


def test_a_finished_run_holds_history_recipe_and_weights(exact):
    names = ['history.csv', 'recipe.json', 'weights.safetensors']
    assert sorted(o.name for o in exact.run_folder.iterdir()) == names


def by_hand(learn, source):
    "Images, accuracy, the same without leaks, and F1 of each object, from the files and a forward pass alone"
    root = demo_cifake(n=400)
    known = {o.read_bytes() for o in (root/'train').glob('*/*.jpg')}
    files = sorted((root/'test'/source).glob('*.jpg'))
    pixels = torch.tensor(np.stack([np.asarray(Image.open(o).convert('RGB')) for o in files])).permute(0, 3, 1, 2)/255
    mean, deviation = (torch.tensor(o)[:, None, None] for o in CIFAKE_STATS)
    with torch.no_grad(): found = learn.model.cpu().eval()((pixels - mean)/deviation).argmax(1).tolist()
    truth = [int((re.search(r'\((\d+)\)', o.name) or [0, 1])[1]) - 1 for o in files]  # by the number in the name
    right = [a == b for a, b in zip(truth, found, strict=True)]
    fresh = [r for r, o in zip(right, files, strict=True) if o.read_bytes() not in known]

    def f1(k):
        hits = sum(a == b == k for a, b in zip(truth, found, strict=True))
        return 2*hits/max(1, truth.count(k) + found.count(k))

    return len(files) - len(fresh), [len(files), np.mean(right), np.mean(fresh), *map(f1, range(10))]


def test_scores_agree_with_a_count_by_hand(exact):
    both = transfer_table({'exact': exact}, demo_cifake(n=400))
    leaks = {source: by_hand(exact, source) for source in LABELS}
    assert leaks['FAKE'][0] > 0
    for source, (_, expected) in leaks.items():
        row = both.loc[('exact', source), ['images', 'accuracy', 'without_leaks', *OBJECTS]].astype(float)
        np.testing.assert_allclose(row, expected, atol=1e-9)
    np.testing.assert_allclose(both.macro, both[OBJECTS].mean(axis=1), atol=1e-9)


def test_rows_are_named_by_network_and_sources(exact):
    table = transfer_table({('lenet', 'FAKE'): exact}, demo_cifake(n=400))
    assert table.index.tolist() == [('lenet', 'FAKE', tested) for tested in LABELS]
    assert table.index.names == ['network', 'trained on', 'tested on']


def test_scores_on_validation_are_those_of_the_learner(exact):
    table = transfer_table({'a': exact}, demo_cifake(n=400), 'valid')
    with exact.no_bar(): accuracy = exact.validate()[1]
    assert abs(accuracy - table.loc[('a', 'FAKE')].accuracy) < 1e-6


def test_what_cannot_be_tested_is_refused(exact):
    with pytest.raises(ValueError, match='`split` is'): transfer_table({'a': exact}, split='train')
    with pytest.raises(ValueError, match='no learners'): transfer_table({})
    with pytest.raises(ValueError, match='not the ten objects'):
        transfer_table({'detector': cifake_learner(blank_dls(32), 'lenet')}, demo_cifake(n=60))


@pytest.mark.slow
def test_steps_stand_in_for_epochs(tmp_path):
    short = train_objects(demo_cifake(n=400), 'quick', 'both', real=0.1, steps=30, out=tmp_path/'short',
                          valid_source='REAL', verbose=False)
    assert len(short.history.rows) == math.ceil(30/len(short.dls.train))


def test_a_frozen_body_keeps_its_weights(tmp_path):
    frozen = get_recipe('vgg16-frozen', arch='test_resnet', epochs=1, min_steps=1, size=32)
    data = demo_cifake(n=60)
    source = cifake_learner(blank_dls(32), 'test_resnet', head='own').model
    torch.save(source.state_dict(), tmp_path/'body.pth')
    learn = train_objects(data, frozen, 'REAL', weights_path=tmp_path/'body.pth', out=tmp_path/'run', verbose=False)
    set_seed(42)
    begun = recipe_learner(object_dls(data, 'REAL', stats=None), frozen, 42, pretrained=True,
                           weights_path=tmp_path/'body.pth').model
    trained = {k for k, o in learn.model.named_parameters() if o.requires_grad}
    changed = {k for k, v in learn.model.state_dict().items() if not torch.equal(v.cpu(), begun.state_dict()[k].cpu())}
    statistics = {k for k in changed if 'running_' in k or 'num_batches' in k}
    assert {k for k in changed - statistics} <= trained and any(k.startswith('1.') for k in changed)
