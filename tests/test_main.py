"One command: subcommands, what a machine has, and colour"
import json
import sys

import pytest

from cifake import cli, main
from cifake.main import COMMANDS, FACTS, machine_facts, processor_name
from cifake.serve.rows import row_printer


def called(capsys, monkeypatch, *arguments):
    "Exit status, standard output and standard error of `cifake` with these arguments"
    monkeypatch.setattr(sys, 'argv', ['cifake', *arguments])
    status = 0
    try: main.cifake()
    except SystemExit as e: status = e.code or 0
    return status, *capsys.readouterr()


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-h']])
def test_help_names_every_command(capsys, monkeypatch, arguments):
    status, out, _ = called(capsys, monkeypatch, *arguments)
    assert status == 0 and all(f'\n  {name} ' in out for name in COMMANDS)


@pytest.mark.parametrize('name', COMMANDS)
def test_a_subcommand_has_help_under_its_name(capsys, monkeypatch, name):
    status, out, _ = called(capsys, monkeypatch, name, '--help')
    assert status == 0 and out.startswith(f'usage: cifake {name} ') and f'cifake-{name}' not in out


def test_another_name_is_refused(capsys, monkeypatch):
    status, out, err = called(capsys, monkeypatch, 'trian')
    assert (status, out) == (2, '') and err.count('\n') == 1
    assert "no command 'trian'" in err and 'train' in err


def test_errors_carry_the_name_that_was_called(capsys, monkeypatch):
    status, _, err = called(capsys, monkeypatch, 'predict')
    assert (status, err) == (1, 'cifake predict: Name a picture, a folder or an archive.\n')


def test_demo_trains_on_the_demo_set(capsys, monkeypatch):
    given = []
    monkeypatch.setattr(cli, 'cifake_train', lambda **options: given.append(options))
    assert called(capsys, monkeypatch, 'demo', '--out', 'here')[0] == 0
    assert given == [dict(demo=True, out='here')]


def test_every_fact_is_told_here():
    facts = machine_facts()
    assert facts.keys() == FACTS.keys() and not [v for v in facts.values() if 'Error' in v]
    assert facts['precision'] in ('float32', 'bfloat16', 'float16')


def test_a_fact_that_fails_is_told_as_an_error(monkeypatch):
    def broken(): raise RuntimeError('no such\nlibrary')
    monkeypatch.setitem(FACTS, 'memory', broken)
    facts = machine_facts()
    assert facts['memory'] == 'RuntimeError: no such library' and facts['cores']


def test_doctor_is_short_and_one_object_of_json(capsys, monkeypatch):
    status, text, _ = called(capsys, monkeypatch, 'doctor')
    assert status == 0 and len(text.splitlines()) == len(FACTS) <= 20
    status, text, _ = called(capsys, monkeypatch, 'doctor', '--json')
    assert status == 0 and json.loads(text).keys() == FACTS.keys()


def test_settings_name_what_was_set(monkeypatch):
    monkeypatch.setenv('CIFAKE_PRECISION', 'float32')
    facts = machine_facts()
    assert 'CIFAKE_PRECISION=float32' in facts['settings'] and facts['precision'] == 'float32'


@pytest.mark.skipif(sys.platform != 'linux', reason='/proc is a thing of Linux')
def test_the_processor_has_a_name(): assert processor_name()


ROW = dict(file='cat.jpg', verdict='FAKE', p_fake=0.9, error='', note='')


@pytest.mark.parametrize('terminal, forbidden, coloured', [
    (True, '', True), (True, '1', False), (False, '', False)])
def test_verdicts_have_a_colour_on_a_terminal_alone(capsys, monkeypatch, terminal, forbidden, coloured):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: terminal, raising=False)
    monkeypatch.setenv('NO_COLOR', forbidden)
    show = row_printer('table')
    show(ROW)
    out = capsys.readouterr().out
    assert ('\x1b[31mFAKE    \x1b[0m0.9000' in out) == coloured and out.endswith('cat.jpg\n')
