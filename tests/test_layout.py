"What folders and tables of a set say: names of labels, and columns beside the pictures"
import pandas as pd
import pytest

from cifake.data.layout import label_names, label_of, read_column


def test_folders_of_other_names_stand_for_the_two_labels():
    assert label_names(['ai', 'human']) == ('ai', 'human')
    assert [label_of(o, ('ai', 'human')) for o in ('AI', 'human', 'FAKE')] == ['FAKE', 'REAL', None]
    assert [label_of(o) for o in ('FAKE', 'Real', 'ai')] == ['FAKE', 'REAL', None]


@pytest.mark.parametrize('labels, words', [
    ('ai', 'names of two folders'), (('ai',), 'names of two folders'), (('ai', 'AI'), 'names of two folders'),
    (('ai', ''), 'names of two folders'), (('a/i', 'human'), 'names of two folders'),
    ({'ai': 0, 'human': 1}, 'names of two folders'), (('real', 'fake'), r"give \('fake', 'real'\)"),
    (('photo', 'FAKE'), 'generated pictures come first')])
def test_names_that_cannot_be_two_labels(labels, words):
    with pytest.raises(ValueError, match=words): label_names(labels)


def table(root, **columns): pd.DataFrame(columns).to_csv(root/'sources.csv', index=False, encoding='utf-8-sig')


def test_a_table_may_come_from_windows(tmp_path):
    table(tmp_path, file=['train\\FAKE\\a.png', './train/REAL/b c.png'], source=[' DALL-E 3 ', 'Kamera für Ünì'])
    found = read_column(tmp_path, 'sources.csv', 'source', ['train/FAKE/a.png', 'train/REAL/b c.png'])
    assert found == {'train/FAKE/a.png': 'DALL-E 3', 'train/REAL/b c.png': 'Kamera für Ünì'}


def test_files_that_are_missing_are_counted_and_the_others_kept(tmp_path):
    table(tmp_path, path=['a.png', 'gone.png', 'away.png'], source=['x', 'y', 'z'])
    with pytest.warns(UserWarning, match=r'names 2 file\(s\) .* the first is gone.png'):
        assert read_column(tmp_path, 'sources.csv', 'source', ['a.png'])['a.png'] == 'x'


def test_one_file_of_two_sources_is_refused_and_one_named_twice_is_not(tmp_path):
    table(tmp_path, path=['a.png', 'a.png'], source=['x', 'x'])
    assert read_column(tmp_path, 'sources.csv', 'source', ['a.png']) == {'a.png': 'x'}
    table(tmp_path, path=['a.png', 'a.png'], source=['x', 'y'])
    with pytest.raises(ValueError, match='a.png twice, with another `source`'):
        read_column(tmp_path, 'sources.csv', 'source', ['a.png'])


@pytest.mark.parametrize('data, words', [(b'path,set\na,b\n', 'needs the columns `path` and `source`'),
                                         (b'', 'cannot be read as a table'),
                                         ('path;source'.encode('utf-16'), 'cannot be read as a table')])
def test_a_table_of_another_kind(tmp_path, data, words):
    (tmp_path/'sources.csv').write_bytes(data)
    with pytest.raises(ValueError, match=words): read_column(tmp_path, 'sources.csv', 'source', [])


def test_without_a_table_nothing_is_said(tmp_path):
    assert read_column(tmp_path, 'sources.csv', 'source', ['a.png']) == {}
