"Sets of people's own: labels of other names, sources, any size, and nothing said that is CIFAKE's alone"
import pickle

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cifake.cli import cifake_data, cifake_evaluate
from cifake.data.dataset import Cifake, Split, check_cifake, read_items, split_items
from cifake.data.find import find_cifake
from cifake.data.items import training_items
from cifake.data.loaders import cifake_dls, cifake_of
from cifake.measure.evaluate import evaluate
from cifake.measure.report import Report
from cifake.measure.robustness import cross_dataset_table, robustness_table
from cifake.serve.card import detector_card
from cifake.serve.hub import model_card
from cifake.training.compare import leaderboard
from cifake.training.objects import object_dls
from cifake.training.train import load_run, resume_run, train_learner

LABELS = 'ai', 'human'


def lay_out(root, size=48, **folders):
    "Pictures of noise in each folder, as many as it says; the names are numbers, as a script gives them"
    rng = np.random.default_rng(0)
    for folder, n in folders.items():
        (root/folder.replace('__', '/')).mkdir(parents=True)
        for i in range(n):
            image = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
            image.save(root/folder.replace('__', '/')/f'{i:04}.png')
    return root


@pytest.fixture
def own(tmp_path):
    folders = dict(train__ai__sd=6, train__ai__gan=4, train__human=12, test__ai__sd=3, test__human=3)
    return lay_out(tmp_path/'own', **folders)


def even(items): return [int(str(o)[-5]) % 2 for o in items]


def test_labels_and_sources_come_from_the_names_of_folders(own):
    items = read_items(own, LABELS)
    assert items.groupby(['split', 'label', 'source']).size().to_dict() == {
        ('train', 'FAKE', 'gan'): 4, ('train', 'FAKE', 'sd'): 6, ('train', 'REAL', ''): 12,
        ('test', 'FAKE', 'sd'): 3, ('test', 'REAL', ''): 3}
    assert set(items.object_class) == {'unknown'}
    assert {o.source for o in training_items(own, Split(labels=LABELS))} == {'sd', 'gan', ''}


def test_nothing_of_cifake_is_said_of_another_set(own):
    counts = check_cifake(own, LABELS)
    assert not {'official', 'wrong_size'} & set(counts)
    assert counts.sizes.tolist() == ['48x48']*4
    assert counts.note.tolist() == ['']*4


def test_a_value_knows_its_labels_wherever_it_goes(own):
    data = Cifake(own, list(LABELS))
    assert Cifake(data) is data and Cifake(data, LABELS) is data
    assert pickle.loads(pickle.dumps(data)).labels == LABELS
    dls = cifake_dls(own, labels=LABELS, bs=4, num_workers=0)
    assert cifake_of(dls).labels == LABELS
    assert cifake_of(dls, own).labels == LABELS
    assert evaluate(even, data, resamples=0).n == evaluate(even, own, resamples=0, labels=LABELS).n == 6


def test_another_set_may_have_the_usual_names(own, tmp_path):
    dls = cifake_dls(own, labels=LABELS, bs=4, num_workers=0)
    usual = lay_out(tmp_path/'usual', train__FAKE=2, train__REAL=2)
    assert cifake_of(dls, usual).labels == ('FAKE', 'REAL')


def test_a_set_of_other_names_says_how_to_name_them(own):
    with pytest.raises(ValueError, match=r"`labels=\('ai', 'human'\)` or the other way round"): find_cifake(own)


def test_a_set_without_train_and_test_is_for_training(tmp_path):
    root = lay_out(tmp_path/'flat', FAKE__sd=3, REAL=3)
    items = read_items(root)
    assert (set(items.split), items.path[0], items.source[0]) == ({'train'}, 'FAKE/sd/0000.png', 'sd')
    with pytest.raises(ValueError, match="nothing to test on.*split='valid'"): evaluate(even, root)


def test_a_part_of_a_set_is_no_set(own):
    with pytest.raises(ValueError, match='name the folder that holds `train/` and `test/`'): Cifake(own/'test', LABELS)


@pytest.mark.parametrize('name', ['valid', 'val', 'Validation'])
def test_a_set_may_bring_its_validation_part(tmp_path, name):
    root = lay_out(tmp_path/'own', train__FAKE=3, train__REAL=3, **{f'{name}__FAKE': 2, f'{name}__REAL': 1})
    parts = pd.Series([o.split for o in training_items(root)]).value_counts()
    assert parts.to_dict() == {'train': 6, 'valid': 3}
    assert check_cifake(root).files['valid'].tolist() == [2, 1]


@pytest.mark.parametrize('seed', range(10))
def test_a_rare_label_stands_on_both_sides(tmp_path, seed):
    items = read_items(lay_out(tmp_path/'own', train__FAKE=2, train__REAL=40))
    for share in (0.02, 0.1, 0.9):
        parts = split_items(items, share, seed)
        assert set(parts.split[parts.label == 'FAKE']) == {'train', 'valid'}


def test_one_label_alone_is_refused_by_the_name_of_its_folder(tmp_path):
    root = lay_out(tmp_path/'own', train__ai=3, train__human=0)
    with pytest.raises(ValueError, match='no readable image.* of REAL to train on, in human/'):
        cifake_dls(root, labels=LABELS)


def test_a_table_of_sources_wins_over_folders(own):
    paths = read_items(own, LABELS).path
    chosen = paths[paths.str.contains('train/human')]
    sources = ['camera/A', *['camera B']*len(chosen)]
    pd.DataFrame(dict(path=[*chosen, 'train/human/gone.png'], source=sources)).to_csv(own/'sources.csv', index=False)
    with pytest.warns(UserWarning, match='gone.png'): items = read_items(own, LABELS)
    assert items[items.path.isin(chosen)].source.value_counts().to_dict() == {'camera B': 11, 'camera/A': 1}
    assert set(items.source[items.path.str.contains('/ai/')]) == {'sd', 'gan'}


def test_a_report_counts_each_source_under_its_label(tmp_path):
    root = lay_out(tmp_path/'own', test__FAKE__faces=3, test__FAKE__gan=30, test__REAL__faces=5, train__FAKE=1)
    report = evaluate(even, root, resamples=0)
    rows = report.by_source()
    assert rows.note.to_dict() == {('FAKE', 'faces'): 'fewer than 30 images', ('FAKE', 'gan'): '',
                                   ('REAL', 'faces'): 'fewer than 30 images'}
    assert sum(o['right'] for o in report.sources) == report.tp + report.tn
    assert Report.from_json(report.to_json()).by_source().equals(rows)
    with pytest.raises(ValueError, match='objects of these images are not known'): report.by_object()
    assert list(report.group_tables()) == ['Right verdicts by label and source']


def test_a_source_has_the_area_under_the_curve_against_the_other_label(tmp_path):
    root = lay_out(tmp_path/'own', test__FAKE__easy=2, test__FAKE__hard=2, test__REAL=2, train__FAKE=1)
    def seen(items): return [0.9 if 'easy' in str(o) else 0.1 if 'hard' in str(o) else 0.5 for o in items]
    report = evaluate(seen, root, resamples=0)
    assert {o['source']: o['auc'] for o in report.sources} == {'easy': 1, 'hard': 0, '': 0.5}


def test_without_sources_there_is_nothing_to_group_by(tmp_path):
    root = lay_out(tmp_path/'own', test__FAKE=2, test__REAL=2, train__FAKE=1)
    report = evaluate(even, root, resamples=0)
    with pytest.raises(ValueError, match='sources of these images are not known'): report.by_source()
    with pytest.raises(ValueError, match='sources of these images are not known'):
        robustness_table(lambda images: [0.5]*len(images), root, names='JPEG', by='source')


def test_corruptions_by_source(own):
    table = robustness_table(lambda images: [0.9]*len(images), Cifake(own, LABELS), names='JPEG', by='source')
    clean = table[table.corruption == 'none'].set_index(['label', 'source'])
    assert clean.images.to_dict() == {('', ''): 6, ('FAKE', 'sd'): 3}
    assert clean.accuracy.to_dict() == {('', ''): 0.5, ('FAKE', 'sd'): 1}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A learner of a set with labels of its own, in the folder of a comparison"
    base = tmp_path_factory.mktemp('run')
    folders = dict(train__ai__sd=12, train__human__cam=12, test__ai__sd=3, test__human__cam=3)
    root = lay_out(base/'own set', **folders)
    options = dict(epochs=1, out=base/'runs/one', num_workers=0, verbose=False, precision='float32')
    return train_learner(root, 'lenet', labels=LABELS, **options)


def test_a_run_keeps_the_names_of_its_labels(run):
    root = run.dls.path
    for learn in (run, load_run(run.run_folder), resume_run(run.run_folder), load_run(run.run_folder, root)):
        assert evaluate(learn, resamples=0).n == 6
    blank = load_run(run.run_folder, data=False)
    assert evaluate(blank, root, resamples=0).n == 6
    assert leaderboard(run.run_folder.parent, 'test').images.tolist() == [6]
    cross = cross_dataset_table(run, {'itself': root/'test'}, labels=LABELS)
    assert cross.fake.tolist() == cross.real.tolist() == [3]


def test_a_detector_says_of_which_set_it_is_and_nothing_of_cifake(run):
    card = detector_card(run)
    about = dict(name='own set', labels=list(LABELS), demo=False, objects=False, sources=['cam', 'sd'])
    assert card['dataset'] == about
    page = str(model_card(card))
    facts = '- Set: own set', 'ai (FAKE) and human (REAL)', '- Sources in the set: cam, sd', 'stratified by label,'
    for words in facts: assert words in page
    assert 'CIFAKE' not in page and 'object' not in page


def test_the_objects_of_such_a_set_are_not_known(run):
    with pytest.raises(ValueError, match='objects of these images are not known'): object_dls(run.dls.cifake)


def test_commands_speak_of_a_set_as_it_is(run, capsys):
    cifake_data('check', str(run.dls.path), labels='ai,human')
    checked = capsys.readouterr().out
    assert '48x48' in checked and 'cam' in checked and 'official' not in checked
    cifake_evaluate(str(run.run_folder))
    shown = capsys.readouterr().out
    assert 'Right verdicts by label and source' in shown and 'object' not in shown
