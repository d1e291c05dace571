"""Write README.md, and its pictures, from nbs/index.ipynb, and the badges of notebooks; `--check` only compares.

What the site hides is left out here too. Code becomes a fence, and after it come its stored outputs: pictures as
files, tables as Markdown, text as a fence.

- relative links count from `nbs/` in the notebook, and from the top of the repository in the README;
- a comment that opens with the word readme, as in `<!-- readme See [this](LICENSE). -->`, is shown in the README only.

Where `pyproject.toml` has the address of a repository (`tools/address.py` sets it), more is written: badges in the
README, links of the README to notebooks as addresses of the site, and in each notebook with a cell that opens with
`<!-- badges -->` the links that open it in Colab and Kaggle. Links between notebooks lead nowhere there, so those of
such a notebook are written as addresses of the site too. Without an address all of these are relative links.
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
MARK = '<!-- badges -->'
OPENERS = '''
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{place})
[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/{place})'''
SITE = re.compile(r'https://[\w-]+\.github\.io/[\w.-]+/([\w/-]+)\.html')
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
    if docs and target.endswith('.ipynb'): return f'{docs}/{nbpath2html(target)}'
    return posixpath.normpath(f'nbs/{target}')


def with_links(text, link):
    "`text` with `link(match)` in place of each link outside of code"
    return ''.join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(CODE.split(text)))


def relinked(text, docs):
    "Markdown of the notebook with the links of the README"
    return with_links(text, lambda m: f'{m[1]}{relink(m[2], docs)}{m[3] or ""}{m[4]}')


def markdown(text, docs):
    "The Markdown of a cell as the README shows it"
    return relinked(README_ONLY.sub(r'\1', text), docs)


def output(out, pictures, docs, alt=''):
    "An output of a cell as Markdown; a picture, described by `alt`, is added to `pictures`"
    if out.output_type == 'stream': return fence(out.text, 'text') if out.name == 'stdout' else ''
    data = out.get('data', {})
    if 'image/png' in data:
        path = f'nbs/images/index_{len(pictures) + 1}.png'
        pictures[path] = b64decode(data['image/png'])
        return f'![{alt}]({path})'
    if 'text/markdown' in data: return relinked(data['text/markdown'].strip(), docs)
    table = Table(data.get('text/html', '')).markdown()
    return table or (fence(data['text/plain'], 'text') if 'text/plain' in data else '')


def code(cell, pictures, docs):
    "A cell of code as pieces of Markdown: its source, then its outputs"
    flags, source = cell.directives_, cell.source.strip()
    parts = []
    if source and flags.get('echo') != 'false': parts.append(fence(source, 'python'))
    if flags.get('output') != 'false':
        alt = flags.get('fig-alt', '')
        parts += [output(out, pictures, docs, alt) for out in cell.outputs]
    return parts


def render(config):
    "The files made from `index.ipynb`: their bytes, by path"
    parts, pictures, docs = [], {}, config.doc_url.rstrip('/')
    for cell in NBProcessor(config.nbs_path/config.readme_nb).nb.cells:
        flags = cell.directives_
        if 'hide' in flags or flags.get('include') == 'false' or cell.cell_type == 'raw': continue
        if cell.cell_type == 'markdown': parts.append(markdown(cell.source.strip(), docs))
        else: parts += code(cell, pictures, docs)
    text = '\n\n'.join(part for part in parts if part) + '\n'
    title, rest = text.split('\n', 1)
    badges = BADGES.format(repo=config.git_url, docs=docs) if config.git_url else ''
    text = f'{title}\n\n{badges}\n{rest}' if badges else f'{title}\n{rest}'
    return {'README.md': text.encode(), **pictures}


def linked(text, folder, docs):
    "The Markdown of a notebook in `folder` of `nbs/`: its links to pages as addresses below `docs`, or else relative"
    def link(m):
        target = m[2]
        page = SITE.fullmatch(target)
        if page and (ROOT/f'nbs/{page[1]}.ipynb').exists(): target = posixpath.relpath(f'{page[1]}.ipynb', folder)
        if docs and re.fullmatch(r'(?!/|[a-z]+:).*\.ipynb', target):
            notebook = posixpath.normpath(posixpath.join(folder, target))
            target = f'{docs}/{nbpath2html(notebook)}'
        return f'{m[1]}{target}{m[3] or ""}{m[4]}'
    return with_links(text, link)


def badges(config):
    "The notebooks with a cell for badges, with those of the repository if it is known: their bytes, by path"
    want = {}
    address = config.git_url.removeprefix('https://github.com/').rstrip('/')
    docs = config.doc_url.rstrip('/')
    for file in sorted(nbglob(config.nbs_path, as_path=True)):
        nb = json.loads(file.read_text(encoding='utf-8'))
        path = file.relative_to(ROOT).as_posix()
        folder = posixpath.dirname(path.removeprefix('nbs/'))
        texts = [''.join(cell['source']) for cell in nb['cells']]
        if not any(text.startswith(MARK) for text in texts): continue
        place = f'{address}/blob/{config.branch}/{path}'
        for cell, text in zip(nb['cells'], texts, strict=True):
            if text.startswith(MARK): new = MARK + (OPENERS.format(place=place) if address else '')
            elif cell['cell_type'] == 'markdown': new = linked(text, folder, docs)
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
