"The documentation site, built by tools/site.py and read in a real headless Chromium."
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from check import ROOT, contents, copy_tree


def site_tool():
    "tools/site.py as a module; its name is also that of one of Python's own"
    spec = importlib.util.spec_from_file_location('site_tool', ROOT/'tools'/'site.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The finished site of a copy of this checkout"
    if sys.version_info < (3, 11): pytest.skip('smalldocs, which builds the site, needs Python 3.11')
    folder = copy_tree(tmp_path_factory.mktemp('site')/'cifake')
    done = subprocess.run([sys.executable, 'tools/site.py'], cwd=folder, env={**os.environ, 'PYTHONPATH': str(folder)},
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout
    return folder/'_docs'


def test_it_is_built_whole(built):
    pages = {path.relative_to(built).as_posix() for path in built.rglob('*.html')}
    modules = {path.relative_to(ROOT/'cifake').with_suffix('.html') for path in ROOT.glob('cifake/**/[a-z]*.py')}
    wanted = {path.as_posix() for path in modules} - {'all.html'}
    assert wanted | {'index.html', 'results.html', 'tutorials/quickstart.html'} <= pages
    check = [Path(sys.executable).parent/'smalldocs', 'check', built.parent/'_proc']
    again = subprocess.run(check, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout


WITHOUT_PICTURE = {  # what they show is text and tables
    'core', 'numbers', 'containers', 'values', 'given', 'layout', 'folders', 'find', 'items', 'learners', 'bodies',
    'sizes', 'processes', 'layers', 'lists', 'rows', 'main'}


def test_every_page_shows_outputs_and_pictures(built):
    for page in built.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        assert 'class="cell-output' in text, page.name
        if page.stem not in WITHOUT_PICTURE: assert 'src="data:image/png' in text, page.name


def standing_alone():
    "The notebooks that open in Colab and Kaggle"
    return [path for folder in ('tutorials', 'how-to') for path in (ROOT/'nbs'/folder).glob('*.ipynb')]


def markdown_of(path):
    "The Markdown of a notebook, and of any other file its text"
    text = path.read_text(encoding='utf-8')
    if path.suffix != '.ipynb': return text
    return '\n'.join(''.join(o['source']) for o in json.loads(text)['cells'] if o['cell_type'] == 'markdown')


def test_an_address_is_set_and_taken_back(tmp_path):
    folder = copy_tree(tmp_path/'cifake')
    command = sys.executable, 'tools/address.py'
    env = {**os.environ, 'PYTHONPATH': str(folder)}
    before = contents(folder)
    subprocess.run([*command, 'some-one/detector'], cwd=folder, env=env, check=True)
    assert 'some-one.github.io/detector' in (folder/'cifake'/'data'/'demo.py').read_text(encoding='utf-8')
    readme = markdown_of(folder/'README.md')
    assert '(https://some-one.github.io/detector/training/learner.html' in readme
    assert 'https://github.com/some-one/detector/actions/workflows/test.yml/badge.svg' in readme
    for path in standing_alone():
        here = path.relative_to(ROOT).as_posix()
        text = markdown_of(folder/here)
        for host in ('colab.research.google.com/github/', 'kaggle.com/kernels/welcome?src=https://github.com/'):
            assert f'(https://{host}some-one/detector/blob/main/{here})' in text, (here, host)
        assert not re.search(r'\]\((?!https?:|#)[^)]*\.ipynb', text), f'{here}: a relative link leads nowhere in Colab'
    subprocess.run([*command, '--none'], cwd=folder, env=env, check=True)
    assert contents(folder) == before


def test_no_address_is_made_up():
    "Without an address there are no badges, and links are relative"
    placeholder = 'OWN' + 'ER'
    for path in [ROOT/'README.md', *ROOT.glob('nbs/**/*.ipynb'), *ROOT.glob('cifake/**/*.py')]:
        text = markdown_of(path)
        assert not re.search(rf'github\.(?:com/|io)?[^ ]*{placeholder}|{placeholder}\.github', text), path
    assert 'badge.svg' not in markdown_of(ROOT/'README.md')


def test_links_of_the_readme_lead_to_files():
    "From the repository; with an address, those to notebooks lead to pages of the site"
    targets = re.findall(r'\]\((?!https?:|#)([^)#]+)', markdown_of(ROOT/'README.md'))
    assert len(targets) > 20
    assert [o for o in targets if not (ROOT/o).exists()] == []


def test_stored_outputs_say_what_they_were_made_with():
    for path in standing_alone():
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        cell = next(o for o in cells if 'show_versions()' in ''.join(o['source']))
        assert ''.join(cell['outputs'][0]['text']).startswith('cifake '), path.name


def test_the_readme_keeps_what_stands_beside_a_table():
    spec = importlib.util.spec_from_file_location('readme_tool', ROOT/'tools'/'readme.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    html = '<style>b {}</style><table><tr><th>a</th></tr><tr><td>1</td></tr></table><p>This is the demo set.</p>'
    assert tool.Table(html).markdown() == '| a |\n| --- |\n| 1 |\n\nThis is the demo set.'
    assert 'This is the demo set' in (ROOT/'README.md').read_text(encoding='utf-8').split('REAL called FAKE')[-1]


def test_every_page_is_in_the_sidebar(built):
    text = (built/'index.html').read_text(encoding='utf-8')
    sidebar = text[text.index('id="quarto-sidebar"'):text.index('<main')]
    linked = set(re.findall(r'href="(?:\./)?([^"#]+\.html)"', sidebar))
    assert {page.relative_to(built).as_posix() for page in built.rglob('*.html')} <= linked


def test_every_parameter_of_a_public_function_is_explained():
    from fastcore.docments import docments

    import cifake.all
    missing = []
    for name in cifake.all.__all__:
        thing = getattr(cifake.all, name)
        if not callable(thing): continue
        if not thing.__doc__: missing.append(name)
        rows = docments(thing, full=True, returns=False, args_kwargs=True)
        missing += [f'{name}({arg})' for arg, row in rows.items() if arg != 'self' and not row['docment']]
    assert not missing


def test_the_link_check_finds_what_is_broken(tmp_path):
    (tmp_path/'sub').mkdir()
    (tmp_path/'index.html').write_text(
        '<a href="sub/page.html#here">ok</a><a href="sub/page.html#there">no</a><a href="gone.html">no</a>'
        '<img src="gone.png"><a href="https://example.org/x">not looked at</a>')
    (tmp_path/'sub'/'page.html').write_text(
        '<h2 id="here">x</h2><a href="../index.html">ok</a><a href="../../out.html">no</a>'
        '<p>[<a href="../index.html"><code>x</code></a>](../index.ipynb) <pre>[`x`](y.ipynb)</pre>')
    tool = site_tool()
    found = tool.broken_links(tmp_path)
    assert [line.split(' ')[1] for line in found] == ['sub/page.html#there', 'gone.html', 'gone.png', '../../out.html']
    assert tool.unread_links(tmp_path) == ['sub/page.html: ](../index.ipynb) is not read as a link']
    assert any('train_learner has no signature' in line for line in tool.undocumented(tmp_path))
    assert 'data/core.html: LABELS is not shown' in tool.undocumented(tmp_path)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def address(built):
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=built)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.fixture
def visit(browser, address):
    "Open a page of the site, with nothing from outside it; complaints of the page fail the test"
    contexts, complaints = [], []

    def heard(response):
        if response.status >= 400: complaints.append(response.url)

    def visit(path, **context):
        contexts.append(browser.new_context(**{'viewport': dict(width=1280, height=900), **context}))
        page = contexts[-1].new_page()
        page.route(lambda url: not url.startswith(address), lambda route: route.abort())
        page.on('pageerror', lambda error: complaints.append(str(error)))
        page.on('response', heard)
        page.goto(f'{address}/{path}')
        return page

    yield visit
    for context in contexts: context.close()
    assert [o for o in complaints if not o.endswith('favicon.ico')] == []


PICTURES = "[...document.images].filter(o => !o.src.startsWith('http')).map(o => o.complete && o.naturalWidth)"
BACKGROUND = 'getComputedStyle(document.body).backgroundColor'
PHONE = dict(viewport=dict(width=390, height=844), device_scale_factor=2, is_mobile=True, has_touch=True)


CONTRAST = """scope => {
    const rgb = text => { const c = text.match(/[\\d.]+/g).map(Number); return c.length == 3 ? [...c, 1] : c }
    const light = c => c.slice(0, 3).map(v => v/255).map(v => v <= 0.03928 ? v/12.92 : ((v+0.055)/1.055)**2.4)
    const bright = c => { const [r,g,b] = light(c); return 0.2126*r + 0.7152*g + 0.0722*b }
    const behind = o => {
        for (; o; o = o.parentElement) {
            const c = rgb(getComputedStyle(o).backgroundColor)
            if (c[3] > 0.5) return c
        }
        return [255, 255, 255]
    }
    const worst = {}
    for (const o of document.querySelectorAll(`${scope} :is(p, li, td, th, h1, h2, h3, a, code, code span, a div)`)) {
        if (!o.innerText || !o.innerText.trim()) continue
        const text = bright(rgb(getComputedStyle(o).color)), ground = bright(behind(o))
        const ratio = (Math.max(text, ground) + 0.05)/(Math.min(text, ground) + 0.05)
        const key = o.tagName.toLowerCase()
        if (!(key in worst) || ratio < worst[key][0]) worst[key] = [ratio, o.innerText.slice(0, 40)]
    }
    return worst
}"""


def assert_readable(page, scope):
    "The least contrast of each kind of text within `scope` is at least 3"
    for tag, (ratio, text) in page.evaluate(CONTRAST, scope).items():
        assert ratio >= 3, f'{tag} {text!r}: contrast {ratio:.1f}'


def test_home_page(visit, tmp_path):
    page = visit('index.html')
    page.screenshot(path=tmp_path/'home.png', full_page=True)
    text = page.inner_text('main')
    order = ['The maps below show which places count most', 'train_learner(download_cifake())', 'Where to go',
             'accuracy, half of the test', 'What it cannot do', 'pip install . && cifake-train --demo']
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert re.search(r'\d\d\.\d\d% \(\d\d\.\d\d% to \d\d\.\d\d%\) accuracy on half of the test images', text)
    pictures = page.evaluate(PICTURES)
    assert len(pictures) >= 2 and all(pictures)


def test_module_page_with_its_pictures(visit, tmp_path):
    page = visit('explain/interpret.html')
    page.screenshot(path=tmp_path/'interpret.png', full_page=True)
    pictures = page.evaluate(PICTURES)
    assert len(pictures) >= 5 and all(pictures)
    assert page.locator('h3', has_text='CifakeInterpretation.plot_top_losses').count() == 1
    sources = page.locator('a', has_text=re.compile('^source$'))
    assert sources.count() == 0, 'no repository is named, so there is no source to link to'


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_search_finds_a_function(visit, scheme, tmp_path):
    page = visit('data/dataset.html', color_scheme=scheme)
    page.keyboard.press('/')
    page.keyboard.type('train_learner')
    hit = page.locator('.smalldocs-search-results a[href$="training/train.html#train_learner"]').first
    hit.wait_for(timeout=5000)
    page.screenshot(path=tmp_path/'search.png')
    assert_readable(page, '.smalldocs-search-results')
    hit.click()
    page.wait_for_url('**/training/train.html#train_learner')
    top = "document.getElementById('train_learner').getBoundingClientRect().top"
    page.wait_for_function(f'Math.abs({top} - 100) < 100', timeout=5000)


# What ends beyond the screen and cannot be scrolled to in a box of its own; the page itself clips what is too wide
CUT_OFF = """() => [...document.querySelectorAll('main *')].filter(o => {
    const box = o.getBoundingClientRect()
    if (!box.width || box.right <= 391) return false
    for (let p = o.parentElement; p && p.tagName != 'MAIN'; p = p.parentElement) {
        const scrolls = ['auto', 'scroll'].includes(getComputedStyle(p).overflowX)
        if (scrolls && p.getBoundingClientRect().right <= 391) return false
    }
    return true
}).map(o => `${o.tagName} ${o.innerText || ''}`.slice(0, 60))"""
WIDE = '<div style="width: 700px">wide</div>'
WIDEN = f"document.querySelector('main').insertAdjacentHTML('beforeend', '{WIDE}')"


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_no_page_is_wider_than_a_phone(visit, built, scheme, tmp_path):
    for path in sorted(built.rglob('*.html')):
        page = visit(path.relative_to(built).as_posix(), color_scheme=scheme, **PHONE)
        assert page.evaluate(CUT_OFF) == [], path.name
        page.evaluate(WIDEN)
        assert page.evaluate(CUT_OFF) == ['DIV wide'], 'this check sees what is too wide'
        page.context.close()
    page = visit('index.html', color_scheme=scheme, **PHONE)
    page.screenshot(path=tmp_path/'phone.png')
    page.locator('.quarto-btn-toggle').first.click()
    page.locator('#quarto-sidebar a', has_text='Fine-tune by hand').click()
    page.wait_for_url('**/tutorials/finetune.html')


@pytest.mark.parametrize('path', ['index.html', 'training/learner.html', 'results.html', 'tutorials/interpret.html'])
def test_dark_mode_is_dark_and_readable(visit, path, tmp_path):
    page = visit(path, color_scheme='dark')
    page.wait_for_timeout(200)
    page.screenshot(path=tmp_path/'dark.png')
    red, green, blue = map(int, re.findall(r'\d+', page.evaluate(BACKGROUND))[:3])
    assert max(red, green, blue) < 80
    assert_readable(page, 'main')


def test_the_switch_between_light_and_dark_is_remembered(visit):
    page = visit('index.html', color_scheme='light')
    light = page.evaluate(BACKGROUND)
    page.locator('.quarto-color-scheme-toggle').first.click()
    page.wait_for_timeout(200)
    dark = page.evaluate(BACKGROUND)
    page.goto(page.url.replace('index', 'results'))
    assert light != dark == page.evaluate(BACKGROUND)
