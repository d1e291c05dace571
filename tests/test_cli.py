"The console commands: help, a whole run, tables, rows for pictures, and errors in one line"
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from cifake import cli
from cifake.cli import cifake_evaluate, cifake_predict, cifake_train
from cifake.data.demo import demo_cifake
from cifake.serve.detector import save_detector
from cifake.training.train import load_run

COMMANDS = 'cifake-data', 'cifake-train', 'cifake-evaluate', 'cifake-predict', 'cifake-app'


def ran(capfd, monkeypatch, name, *options, given=None):
    "Exit status, standard output and standard error of a command, in this process"
    monkeypatch.setattr(sys, 'argv', [name, *map(str, options)])
    if given is not None: monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(given)))
    with pytest.raises(SystemExit) as ended: getattr(cli, name.replace('-', '_'))()
    said = capfd.readouterr()
    assert 'Traceback' not in said.err
    return ended.value.code or 0, said.out, said.err


@pytest.fixture
def call(capfd, monkeypatch):
    return lambda *args, **kwargs: ran(capfd, monkeypatch, *args, **kwargs)


@pytest.mark.parametrize('name', COMMANDS)
def test_every_page_of_help_has_its_parts(call, name):
    status, page, _ = call(name, '--help')
    assert status == 0
    for part in ('usage:', 'options:', 'examples:', 'exit status:'): assert part in page


def test_an_installed_command_answers():
    done = subprocess.run(['cifake-predict', '--help'], capture_output=True, text=True)
    assert done.returncode == 0 and 'usage: cifake-predict' in done.stdout


@pytest.mark.parametrize('options, status, said', [
    (['cifake-evaluate', 'nowhere'], 1, 'no folder nowhere of a run'), (['cifake-data', 'eat'], 1, 'no action'),
    (['cifake-data', 'demo', 'x'], 1, 'takes no path'), (['cifake-data', '--wrong'], 2, 'unrecognized'),
    (['cifake-data', 'find', 'nowhere'], 1, 'nowhere'),
    (['cifake-train', '--demo', '--subset', 'half'], 1, 'a share such as'),
    (['cifake-train', 'here', '--demo'], 1, 'both --demo and here'),
    (['cifake-train', '--resume', 'run', '--epochs', '3'], 1, 'leave out --epochs'),
    (['cifake-app', '--detector', 'gone'], 1, 'no detector of that name'), (['cifake-predict'], 1, 'Name a picture')])
def test_an_error_is_one_line_and_a_status(call, options, status, said):
    found, _, error = call(*options)
    assert (found, said in error) == (status, True), error


def test_a_wrong_recipe_file_is_named(tmp_path):
    wrong = tmp_path/'wrong.json'
    wrong.write_text('{"name": "wrong", "arch": "lenet", "bs": "many"}')
    with pytest.raises(ValueError, match='wrong.json: `bs` of recipe'): cifake_train(demo=True, recipe=str(wrong))
    with pytest.raises(FileNotFoundError, match='recipe file gone.json'): cifake_train(demo=True, recipe='gone.json')


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    "A folder with pictures, a larger copy, a file that is none and an odd name, and an archive beside it"
    monkeypatch.chdir(tmp_path)
    Path('mixed').mkdir()
    for i, o in enumerate(sorted((demo_cifake(n=200)/'test').rglob('*.jpg'))[::50]): shutil.copy(o, f'mixed/{i}.jpg')
    Image.open('mixed/0.jpg').resize((640, 480)).save('mixed/large.png')
    Path('mixed/text.jpg').write_text('no picture')
    shutil.copy('mixed/0.jpg', 'mixed/two\nlines, and a \x1b[31mred one.jpg')
    with ZipFile('some.zip', 'w') as file: file.write('mixed/0.jpg', 'inner/0.jpg')
    return tmp_path/'mixed'


def test_rows_for_every_kind_of_source(call, mixed):
    options = 'mixed', 'some.zip', 'mixed/[01].jpg', '-', 'gone.jpg', '--format', 'csv'
    status, out, _ = call('cifake-predict', *options, given=Path('mixed/0.jpg').read_bytes())
    rows = {o['file']: o for o in csv.DictReader(io.StringIO(out))}
    inside = sorted(f'mixed/{o.name}' for o in mixed.iterdir())
    others = ['some.zip/inner/0.jpg', 'mixed/0.jpg', 'mixed/1.jpg', 'standard input', 'gone.jpg']
    assert status == 0 and [o['file'] for o in csv.DictReader(io.StringIO(out))] == [*inside, *others]
    same = {rows[o]['p_fake'][:6] for o in ('mixed/0.jpg', 'some.zip/inner/0.jpg', 'standard input')}
    assert len(same) == 1 and rows['gone.jpg']['error'] == 'No such file or directory'
    assert rows['mixed/text.jpg']['verdict'] == '' and 'no picture' in rows['mixed/text.jpg']['error']
    assert '640x480' in rows['mixed/large.png']['note']


def test_names_cannot_forge_a_line(call, mixed):
    options = 'mixed', '--files-from', '-', '--band', '0,1'
    _, out, _ = call('cifake-predict', *options, given=b'mixed/0.jpg\nmixed/1.jpg\n')
    assert '\x1b' not in out and 'two\\nlines' in out and out.count('unsure') >= 5
    assert len(out.splitlines()) == 1 + len(list(mixed.iterdir())) + 2


def test_what_is_no_picture_is_counted(call, mixed):
    for name in ('._0.jpg', 'Thumbs.db', 'drawing.svg'): (mixed/name).write_bytes(b'x')
    status, out, err = call('cifake-predict', 'mixed', '--format', 'csv')
    assert status == 0 and 'Thumbs' not in out and '._0' not in out
    assert 'left out, since they are no pictures: 1 ._*, 1 Thumbs.db, 1 .svg' in err


def test_json_has_null_where_there_is_no_number(call, mixed):
    _, out, _ = call('cifake-predict', 'mixed', '--format', 'jsonl')
    assert {o['p_fake'] for o in map(json.loads, out.splitlines()) if o['error']} == {None}


@pytest.mark.parametrize('options, said', [
    (['mixed/text.jpg'], 'nothing could be read'), (['mixed', '--format', 'xml'], 'choose `table`'),
    (['mixed', '--band', '0.2'], 'two probabilities'), (['mixed', '--band', 'a,b'], 'two numbers'),
    (['mixed', '--detector', 'mixed/0.jpg'], 'cannot be read as a detector'),
    (['mixed', '--detector', 'robustest'], 'There are: fast'), (['gone.zip'], 'nothing could be read')])
def test_what_cannot_be_judged_is_an_error(call, mixed, options, said):
    status, _, error = call('cifake-predict', *options)
    assert status == 1 and said in error


def test_a_source_that_cannot_be_opened_does_not_end_the_work(call, mixed):
    Path('bad.zip').write_bytes(b'no archive')
    _, out, _ = call('cifake-predict', 'bad.zip', 'gone.zip', 'none*.jpg', 'mixed/0.jpg', '--format', 'csv')
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [o['file'] for o in rows] == ['bad.zip', 'gone.zip', 'none*.jpg', 'mixed/0.jpg']
    assert all(o['error'] for o in rows[:3]) and rows[3]['verdict']


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems have no such names')
def test_names_that_are_not_utf_8_are_escaped_everywhere(call, mixed):
    shutil.copy('mixed/0.jpg', b'caf\xe9.jpg')
    _, table, _ = call('cifake-predict', os.fsdecode(b'caf\xe9.jpg'))
    _, rows, _ = call('cifake-predict', os.fsdecode(b'caf\xe9.jpg'), '--format', 'csv')
    _, lines, _ = call('cifake-predict', '--files-from', '-', '--format', 'jsonl', given=b'caf\xe9.jpg\r\n\r\n')
    assert r'caf\xe9.jpg' in table and r'caf\xe9.jpg' in rows
    assert json.loads(lines)['file'] == r'caf\xe9.jpg' and not json.loads(lines)['error']


def test_a_list_that_is_none_says_so(call, mixed):
    for name, said in {'mixed/0.jpg': 'no text', 'gone.txt': 'gone.txt', 'mixed': 'mixed'}.items():
        status, _, error = call('cifake-predict', '--files-from', name)
        assert status == 1 and said in error and len(error.splitlines()) <= 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='needs /dev/full')
@pytest.mark.parametrize('output, status, said', [
    ('>&-', 0, ''), ('2>&-', 0, ''), ('<&-', 0, ''), ('> /dev/full', 1, 'No space left'), ('| head -c 0', 0, '')])
def test_output_that_goes_nowhere(mixed, output, status, said):
    command = ['bash', '-o', 'pipefail', '-c', f'cifake-data find {demo_cifake(n=200)} {output}']
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count('\n')) == (status, bool(said)) and said in done.stderr, done.stderr


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'cp1252'])
def test_any_name_can_be_shown_in_any_encoding(mixed, monkeypatch, encoding):
    shutil.copy('mixed/0.jpg', 'größe 図.jpg')
    out = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(out, encoding))
    monkeypatch.setattr(sys, 'argv', ['cifake-predict', 'größe 図.jpg'])
    with pytest.raises(SystemExit): cifake_predict()
    assert rb'\u56f3.jpg' in out.getvalue()


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_quietly(mixed):
    command = 'yes mixed/0.jpg | head -3000 | cifake-predict --files-from - --format csv | head -2'
    assert subprocess.run(command, shell=True, capture_output=True, text=True).stderr == ''


def test_from_python_a_command_is_a_function(mixed, capfd):
    assert cifake_predict('mixed/0.jpg', format='csv') == 0 and capfd.readouterr().out.count('mixed/0.jpg') == 1


@pytest.fixture
def run(tmp_path, monkeypatch):
    "The folder of a short run, trained by the command"
    monkeypatch.chdir(tmp_path)
    data = demo_cifake(n=200)
    cifake_train(str(data), recipe='lenet', epochs=2, out='runs/first')
    return Path('runs/first')


@pytest.mark.slow
def test_a_run_is_trained_measured_and_saved(run, capfd):
    assert {'recipe.json', 'history.csv', 'weights.safetensors', 'report.json', 'history.png', 'confusion_matrix.png',
            'top_losses.png'} <= {o.name for o in run.iterdir()}
    capfd.readouterr()
    cifake_evaluate(str(run), save=str(run/'test.json'), html=str(run/'test.html'))
    out = capfd.readouterr().out
    assert 'accuracy' in out and 'airplane' in out and json.loads((run/'test.json').read_text())['split'] == 'test'
    assert (run/'test.html').read_text().count('<img') == 2
    save_detector(load_run(run), 'mine')
    one = sorted((demo_cifake(n=200)/'test').rglob('*.jpg'))[0]
    assert cifake_predict(str(one), detector='mine.safetensors') == 0 and str(one) in capfd.readouterr().out


@pytest.mark.slow
def test_further_tables_are_printed_and_kept(run, capfd):
    test = demo_cifake(n=200)/'test'
    shutil.copytree(test/'FAKE', 'others/one/FAKE')
    shutil.copytree(test, 'others/two')
    tables = dict(corruptions=True, sources='others', against='fast')
    cifake_evaluate(str(run), path=str(test.parent), save='all.json', html='all.html', **tables)
    out = capfd.readouterr().out
    page = Path('all.html').read_text()
    for part in ('McNemar, first against fast', 'only_first_right', 'blur by Pillow', 'best_recall_real', 'on_the_way',
                 'equal_errors_at'):
        assert part in out and part in page, part
    assert {o.name for o in Path().glob('all.*')} == {
        'all.json', 'all.html', 'all.against.csv', 'all.corruptions.csv', 'all.sources.csv'}
    assert 'two' in Path('all.sources.csv').read_text().splitlines()[0]


@pytest.mark.slow
def test_a_single_folder_from_elsewhere(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    test = demo_cifake(n=200)/'test'
    shutil.copytree(test, 'two')
    cifake_evaluate('fast', path=str(test.parent), sources='two')
    assert 'pictures from elsewhere' in capfd.readouterr().out
    os.mkdir('empty')
    with pytest.raises(ValueError, match='holds neither pictures'):
        cifake_evaluate('fast', path=str(test.parent), sources='empty')


@pytest.mark.slow
def test_a_whole_run_from_the_shell_says_no_warning(tmp_path):
    command = ['cifake-train', str(demo_cifake(n=200)), '--recipe', 'lenet', '--epochs', '1', '--out', 'run']
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and 'Warning' not in done.stderr, done.stderr
