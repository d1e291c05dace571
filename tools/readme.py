"""Write README.md, and its pictures, from nbs/index.ipynb, and the badges of notebooks; `--check` only compares.

What the site hides is left out here too. Code becomes a fence, and after it come its stored outputs: pictures as
files, tables as Markdown, text as a fence. The badges and every address come from `pyproject.toml`:

- links to notebooks, `[networks](models/networks.ipynb)`, become links to pages of the site;
- other relative links count from `nbs/` in the notebook, and from the top of the repository in the README;
- a comment that opens with the word readme, as in `<!-- readme See {repo} or {docs}. -->`, is shown in the README only.

In any other notebook, a cell that opens with `<!-- badges -->` is given the links that open it in Colab and Kaggle,
where links between notebooks lead nowhere: those of such a notebook are written as addresses of the site.
"""
import json
import posixpath
import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from base64 import b64decode
from difflib import unified_diff
from html import escape
from html.parser import HTMLParser
from pathlib import Path

from nbdev.config import get_config, nbpath2html
from nbdev.doclinks import nbglob
from nbdev.process import NBProcessor

ROOT = Path(__file__).resolve().parent.parent
BADGES = '''[![Tests]({repo}/actions/workflows/test.yml/badge.svg)]({repo}/actions/workflows/test.yml)
[![Documentation]({repo}/actions/workflows/docs.yml/badge.svg)]({docs})'''
OPENERS = '''<!-- badges -->
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{place})
[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/{place})'''
SITE = re.compile(r'^https://[\w.-]+\.github\.io/cifake/')
README_ONLY = re.compile(r'<!--\s*readme\b\s*(.*?)\s*-->', re.DOTALL)
LINK = re.compile(r'(\]\()([^)\s#]+)(#[^)\s]*)?(\))')
CODE = re.compile(r'(^```.*?^```|`[^`\n]+`)', re.DOTALL | re.MULTILINE)


class Table(HTMLParser):
    "The rows of the first table of a piece of HTML, as lists of texts, and what is written outside of it"
    def __init__(self, html):
        super().__init__()
        self.rows, self.cell, self.done, self.inside, self.outside = [], None, False, [], ''
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag in ('style', 'table', 'script'): self.inside.append(tag)
        if self.done: return
        if tag == 'tr': self.rows.append([])
        if tag in ('td', 'th'): self.cell = []

    def handle_endtag(self, tag):
        if tag == 'table': self.done = True
        if self.inside and tag == self.inside[-1]: self.inside.pop()
        if tag in ('td', 'th') and self.cell is not None:
            text = ' '.join(''.join(self.cell).split())
            self.rows[-1].append(escape(text, quote=False).replace('|', r'\|'))
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None: self.cell.append(data)
        elif not self.inside: self.outside += data

    def markdown(self):
        "The table as GitHub reads it; '' if there is none"
        if not self.rows: return ''
        head, *body = self.rows
        table = '\n'.join('| ' + ' | '.join(row) + ' |' for row in [head, ['---'] * len(head), *body])
        return '\n\n'.join(filter(None, [table, ' '.join(self.outside.split())]))


def fence(text, lang=''): return f'```{lang}\n{text.rstrip()}\n```'


def relink(target, docs):
    "Where a relative link of the notebook leads in the README"
    if re.match(r'[a-z]+:|/', target): return target
    if target.endswith('.ipynb'): return f'{docs}/{nbpath2html(target)}'
    return posixpath.normpath(f'nbs/{target}')


def with_links(text, link):
    "`text` with `link(match)` in place of each link outside of code"
    return ''.join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(CODE.split(text)))


def markdown(text, config):
    "The Markdown of a cell, with its links and placeholders settled"
    docs = config.doc_url.rstrip('/')
    text = README_ONLY.sub(lambda m: m[1].replace('{repo}', config.git_url).replace('{docs}', docs), text)
    return with_links(text, lambda m: f'{m[1]}{relink(m[2], docs)}{m[3] or ""}{m[4]}')


def output(out, pictures, alt=''):
    "An output of a cell as Markdown; a picture, described by `alt`, is added to `pictures`"
    if out.output_type == 'stream': return fence(out.text, 'text') if out.name == 'stdout' else ''
    data = out.get('data', {})
    if 'image/png' in data:
        path = f'nbs/images/index_{len(pictures) + 1}.png'
        pictures[path] = b64decode(data['image/png'])
        return f'![{alt}]({path})'
    if 'text/markdown' in data: return data['text/markdown'].strip()
    table = Table(data.get('text/html', '')).markdown()
    return table or (fence(data['text/plain'], 'text') if 'text/plain' in data else '')


def code(cell, pictures):
    "A cell of code as pieces of Markdown: its source, then its outputs"
    flags, source = cell.directives_, cell.source.strip()
    parts = []
    if source and flags.get('echo') != 'false': parts.append(fence(source, 'python'))
    if flags.get('output') != 'false':
        alt = flags.get('fig-alt', '')
        parts += [output(out, pictures, alt) for out in cell.outputs]
    return parts


def render(config):
    "The files made from `index.ipynb`: their bytes, by path"
    parts, pictures = [], {}
    for cell in NBProcessor(config.nbs_path/config.readme_nb).nb.cells:
        flags = cell.directives_
        if 'hide' in flags or flags.get('include') == 'false' or cell.cell_type == 'raw': continue
        if cell.cell_type == 'markdown': parts.append(markdown(cell.source.strip(), config))
        else: parts += code(cell, pictures)
    text = '\n\n'.join(part for part in parts if part) + '\n'
    title, rest = text.split('\n', 1)
    text = f'{title}\n\n{BADGES.format(repo=config.git_url, docs=config.doc_url.rstrip("/"))}\n{rest}'
    return {'README.md': text.encode(), **pictures}


def absolute(text, folder, docs):
    "The Markdown of a notebook in `folder` of `nbs/`, its links to pages written as addresses below `docs`"
    def link(m):
        target = m[2]
        if re.fullmatch(r'(?!/|[a-z]+:).*\.ipynb', target):
            notebook = posixpath.normpath(posixpath.join(folder, target))
            target = f'{docs}/{nbpath2html(notebook)}'
        return f'{m[1]}{SITE.sub(docs + "/", target)}{m[3] or ""}{m[4]}'
    return with_links(text, link)


def badges(config):
    "The notebooks with a cell for badges, with those that point to the repository: their bytes, by path"
    want = {}
    address = config.git_url.removeprefix('https://github.com/').rstrip('/')
    docs = config.doc_url.rstrip('/')
    for file in sorted(nbglob(config.nbs_path, as_path=True)):
        nb = json.loads(file.read_text(encoding='utf-8'))
        path = file.relative_to(ROOT).as_posix()
        folder = posixpath.dirname(path.removeprefix('nbs/'))
        texts = [''.join(cell['source']) for cell in nb['cells']]
        if not any(text.startswith('<!-- badges -->') for text in texts): continue
        for cell, text in zip(nb['cells'], texts, strict=True):
            if text.startswith('<!-- badges -->'): new = OPENERS.format(place=f'{address}/blob/{config.branch}/{path}')
            elif cell['cell_type'] == 'markdown': new = absolute(text, folder, docs)
            else: continue
            cell['source'] = new.splitlines(keepends=True)
        want[path] = (json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + '\n').encode()
    return want


def main():
    p = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    p.add_argument('--check', action='store_true', help='write nothing; fail if a file differs')
    args = p.parse_args()
    config = get_config(ROOT)
    want = {**render(config), **badges(config)}
    have = {path: (ROOT/path).read_bytes() for path in want if (ROOT/path).exists()}
    stale = [f for f in (ROOT/'nbs'/'images').glob('index_*.png') if f.relative_to(ROOT).as_posix() not in want]
    differ = [path for path in want if want[path] != have.get(path)] + [f.relative_to(ROOT).as_posix() for f in stale]
    if args.check and differ:
        print(f"{', '.join(differ)}: not what nbs/index.ipynb and pyproject.toml give; run `python tools/readme.py`.")
        old, new = (files.get('README.md', b'').decode().splitlines() for files in (have, want))
        print('\n'.join(list(unified_diff(old, new, 'README.md', 'nbs/index.ipynb', lineterm=''))[:40]))
        sys.exit(1)
    if args.check: return
    for f in stale: f.unlink()
    for path in differ:
        if path not in want: continue
        (ROOT/path).parent.mkdir(exist_ok=True)
        (ROOT/path).write_bytes(want[path])
    print('\n'.join(differ) or 'README.md is up to date.')


if __name__ == '__main__': main()
