"""Write README.md, build the documentation site into `_docs/` without Quarto, and look for anything broken in it.

0. `tools/readme.py` writes the README and the badges;
1. nbdev refreshes its index and `nbs/nbdev.yml`, and writes its processed notebooks to `_proc/`;
2. what smalldocs does not know is settled there: each page takes the name of its `output-file`, links to the
   documentation's address become relative, and keys that only Quarto reads go; where `pyproject.toml` names no
   repository, links to sources go too;
3. smalldocs renders `_proc/` to `_docs/`, from the same `_quarto.yml`, and lists what it could not read;
4. every link, anchor and picture of the finished pages is followed, and every public name is looked up.

Exits with 1, and a line for each thing found, if anything is broken. `--serve` then shows the site on this machine.
"""
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('PYTHONWARNINGS', 'ignore')  # of the packages that the pages import

import ast
import json
import posixpath
import re
import shutil
import subprocess
import sys
import sysconfig
import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

ROOT = Path(__file__).resolve().parent.parent
STAGE, SITE = ROOT/'_proc', ROOT/'_docs'
LINK = re.compile(r'(\]\(|\bhref=["\']|\bsrc=["\'])([^)\s"\']+)')
SOURCE = re.compile(r'\[source\]\(/blob/[^)]*\)\{[^}]*\}\n*')
CODE = re.compile(r'(^```.*?^```|`[^`\n]+`)', re.DOTALL | re.MULTILINE)


def process():
    "Let nbdev write its processed notebooks to `_proc/`"
    import nbdev.doclinks
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    warnings.simplefilter('ignore')
    refresh_quarto_yml()
    nbdev.doclinks._build_modidx()
    shutil.rmtree(STAGE, ignore_errors=True)
    proc_nbs(n_workers=0, force=True)


def front_matter(nb):
    "The raw cell that nbdev puts first, and what it says; (None, {}) if there is none"
    cell = nb['cells'][0] if nb['cells'] else {}
    found = re.fullmatch(r'\s*---\n(.*?)\n---\s*', ''.join(cell.get('source', '')), re.DOTALL)
    return (cell, yaml.safe_load(found[1]) or {}) if found and cell['cell_type'] == 'raw' else (None, {})


def texts(cell):
    "The pieces of Markdown and HTML in `cell`: who holds each, and under which key"
    if cell['cell_type'] == 'markdown': yield cell, 'source'
    for out in cell.get('outputs', []):
        for mime in ('text/markdown', 'text/html'):
            if mime in out.get('data', {}): yield out['data'], mime


def relink(target, folder, names, address):
    "Where `target`, a link on a page in `folder`, leads once pages have their new `names`"
    if target == address or target.startswith((address + '/', f'{address or "/"}#')):
        target = target[len(address):].lstrip('/') or 'index.html'
        return posixpath.relpath(target, folder or '.')
    path, mark, anchor = target.partition('#')
    page = posixpath.normpath(posixpath.join(folder, path))
    return posixpath.relpath(names[page], folder or '.') + mark + anchor if page in names else target


def name_pages(pages):
    "The new name of each of `pages`, from the `output-file` in its front matter, which is taken out of it"
    names = {}
    for path, nb in pages.items():
        cell, front = front_matter(nb)
        stem = Path(front.pop('output-file', path)).stem
        names[path] = posixpath.join(posixpath.dirname(path), f'{stem}.ipynb').removeprefix('/')
        if cell: cell['source'] = f'---\n{yaml.safe_dump(front, allow_unicode=True)}---\n'
    if len(set(names.values())) < len(names):
        sys.exit(f'Two notebooks claim one page: {", ".join(sorted(names.values()))}')
    return names


def relink_page(nb, folder, names, address):
    "Let the links of `nb`, a page in `folder`, lead to pages under their new `names`; without address none to sources"
    def link(m): return m[1] + relink(m[2], folder, names, address)
    for cell in nb['cells']:
        for holder, key in texts(cell):
            text = ''.join(holder[key])
            parts = CODE.split(text if address else SOURCE.sub('', text))
            holder[key] = ''.join(part if i % 2 else LINK.sub(link, part) for i, part in enumerate(parts))


def settle(address):
    "Make `_proc/` a project that smalldocs reads"
    files = sorted(STAGE.rglob('*.ipynb'))
    pages = {file.relative_to(STAGE).as_posix(): json.loads(file.read_text(encoding='utf-8')) for file in files}
    names = name_pages(pages)
    for path in pages: (STAGE/path).unlink()
    for path, nb in pages.items():
        relink_page(nb, posixpath.dirname(path), names, address)
        (STAGE/names[path]).write_text(json.dumps(nb, ensure_ascii=False), encoding='utf-8')
    config = yaml.safe_load((STAGE/'_quarto.yml').read_text(encoding='utf-8'))
    config['format'] = {'html': {k: v for k, v in config['format']['html'].items() if k != 'keep-md'}}
    if not address: config['website'].pop('repo-actions', None)
    config['website']['sidebar']['contents'] = renamed(config['website']['sidebar']['contents'], names)
    (STAGE/'_quarto.yml').write_text(yaml.safe_dump(config, sort_keys=False), encoding='utf-8')
    more = yaml.safe_load((STAGE/'nbdev.yml').read_text(encoding='utf-8'))
    more.pop('format-links', None)
    if not address: more['website'] = {k: v for k, v in more['website'].items() if k not in ('site-url', 'repo-url')}
    (STAGE/'nbdev.yml').write_text(yaml.safe_dump(more, sort_keys=False), encoding='utf-8')
    return names


def renamed(entry, names):
    "The sidebar's `entry`, a name, list or section, with the pages' new names"
    if isinstance(entry, str): return names.get(entry, entry)
    if isinstance(entry, list): return [renamed(o, names) for o in entry]
    return {key: renamed(value, names) if key in ('contents', 'href') else value for key, value in entry.items()}


def render():
    "Render and check by smalldocs; the lines of what it complains of"
    def tool(*args):
        command = Path(sysconfig.get_path('scripts'))/'smalldocs'
        return subprocess.run([command, *args], capture_output=True, text=True)

    checked, done = tool('check', STAGE), tool('render', '--quiet', STAGE)
    if done.returncode: sys.exit(f'smalldocs could not render the site:\n{done.stdout}{done.stderr}')
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(STAGE/'_docs', SITE)
    lines = checked.stdout.splitlines()
    if checked.returncode and not lines:
        lines = [f'smalldocs check ended with {checked.returncode}: {checked.stderr.strip()}']
    return lines


class Links(HTMLParser):
    "The ids of a page, and everything it refers to"
    def __init__(self, text):
        super().__init__()
        self.ids, self.targets = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.update(attrs[key] for key in ('id', 'name') if attrs.get(key))
        self.targets += [attrs[key] for key in ('href', 'src') if attrs.get(key)]


def broken_links(site=SITE):
    "A line for each link, anchor or picture of `site` that leads nowhere in it"
    files = sorted(site.rglob('*.html'))
    pages = {file.relative_to(site).as_posix(): Links(file.read_text(encoding='utf-8')) for file in files}
    found = []
    for path, page in pages.items():
        for target in dict.fromkeys(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc: continue
            to = path
            if parts.path: to = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(parts.path)))
            if (site/to).is_dir(): to = posixpath.normpath(f'{to}/index.html')
            if to.startswith('..') or not (site/to).exists(): found.append(f'{path}: {target} leads nowhere')
            elif parts.fragment and to in pages and unquote(parts.fragment) not in pages[to].ids | {''}:
                found.append(f'{path}: {target} names a place that {to} does not have')
    return found


def unread_links(site=SITE):
    "A line for each link of a page that was not read as one, such as a link around a name that has its own"
    found = []
    for file in sorted(site.rglob('*.html')):
        text = re.sub(r'<(pre|script)\b.*?</\1>', '', file.read_text(encoding='utf-8'), flags=re.DOTALL)
        for target in re.findall(r'\]\(([^)\s<]*\.ipynb[^)\s<]*)\)', plain(text)):
            found.append(f'{file.relative_to(site).as_posix()}: ]({target}) is not read as a link')
    return found


def public_names():
    "The public names and the page of each, read from the imports of `cifake/all.py`"
    tree = ast.parse((ROOT/'cifake'/'all.py').read_text(encoding='utf-8'))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {name.name: node.module.split('.', 1)[1] for node in imports for name in node.names}


CLASSES = {'MLP'}  # named in capitals and yet no constants


def plain(html): return re.sub(r'<[^>]+>', '', html)


def undocumented(site=SITE):
    "A line for each public name that its module's page does not show: a constant's value, or a signature"
    found = []
    for name, module in public_names().items():
        address = f'{module.replace(".", "/")}.html'
        page = site/address
        text = page.read_text(encoding='utf-8') if page.exists() else ''
        if name.isupper() and name not in CLASSES:
            shown = re.search(rf'^{name} = ', plain(text), re.MULTILINE)
            if not shown: found.append(f'{address}: {name} is not shown')
        else:
            section = re.search(rf'<h3[^>]*id="{name}".*?(?=<h[23]\b|</main>)', text, re.IGNORECASE | re.DOTALL)
            if not section or f'def {name}(' not in plain(section[0]):
                found.append(f'{address}: {name} has no signature under a heading of its own')
    return found


def serve(port, site=SITE):
    "Show `site` on this machine until interrupted"
    with ThreadingHTTPServer(('127.0.0.1', port), partial(SimpleHTTPRequestHandler, directory=site)) as server:
        print(f'http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)', flush=True)
        try: server.serve_forever()
        except KeyboardInterrupt: pass


def main():
    p = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    p.add_argument('--serve', action='store_true', help='show the site on this machine afterwards')
    p.add_argument('--port', type=int, default=8000, help='of --serve (default: 8000)')
    args = p.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    from nbdev.config import get_config
    subprocess.run([sys.executable, 'tools/readme.py'], check=True)
    process()
    names = settle(get_config(ROOT).doc_url.rstrip('/'))
    problems = [*render(), *broken_links(), *unread_links(), *undocumented()]
    print('\n'.join([*problems, f'{len(names)} pages in {SITE.relative_to(ROOT)}/, {len(problems)} thing(s) broken']))
    if args.serve: serve(args.port)
    sys.exit(bool(problems))


if __name__ == '__main__': main()
