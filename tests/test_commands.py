"Every command of ours that a page shows is one that the command line understands"
import json
import re
import shlex
import sys

import pytest

import cifake.cli as cli
from check import ROOT
from cifake.main import COMMANDS

COMMAND = re.compile(r'\b(cifake[- ](?:data|train|evaluate|predict|app|demo|doctor))\b(.*)')
BLOCK = re.compile(r'^```(?:bash|sh)\n(.*?)^```', re.DOTALL | re.MULTILINE)


def prose(notebook):
    "The Markdown of a notebook"
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    return '\n'.join(''.join(o['source']) for o in cells if o['cell_type'] == 'markdown')


def shown():
    "Page and command for each line of a fenced block, in the notebooks and in the top-level pages"
    pages = {path: prose(path) for path in (ROOT/'nbs').rglob('*.ipynb')}
    pages |= {path: path.read_text(encoding='utf-8') for path in ROOT.glob('*.md')}
    for path, text in pages.items():
        for block in BLOCK.findall(text):
            for line in block.splitlines():
                if found := COMMAND.search(line): yield path.name, found[1], re.split(r' (?:&&|>|\|) ', found[2])[0]


def understood(monkeypatch, name, options):
    "The values of `options`; `SystemExit` where the parser of the command `name` refuses them"
    monkeypatch.setattr(cli, '_run', lambda func, parser, arguments, keeps: parser.parse_args(arguments) and 0)
    monkeypatch.setattr(sys, 'argv', [name, *shlex.split(re.sub(r'\$\(.*\)', 'VALUE', options), comments=True)])
    with pytest.raises(SystemExit) as ended: COMMANDS[re.split('[- ]', name)[1]]()
    return ended.value.code


def test_pages_show_commands_that_exist(monkeypatch):
    lines = list(shown())
    assert {'README.md', 'reproduce-a-paper.ipynb', 'several-processes.ipynb'} <= {page for page, *_ in lines}
    refused = [line for line in lines if understood(monkeypatch, *line[1:])]
    assert not refused, refused


def test_a_misspelt_option_is_found(monkeypatch):
    assert understood(monkeypatch, 'cifake-train', '--weights_path file') == 2
