"The web page: what it says of a picture, and as people use it, in Chromium, with `cifake-app` in its own process"
import csv
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from gradio_client import Client, handle_file
from PIL import Image

from cifake.data.demo import demo_cifake
from cifake.serve import app as room
from cifake.serve.app import build_app, judge_many, judge_one, launch_app, verdict_html
from cifake.serve.card import box_card
from cifake.serve.detector import Detector, load_detector
from conftest import clean_env

FILES = sorted((demo_cifake()/'test'/'FAKE').glob('*.jpg'))
QUIET = dict(prevent_thread_lock=True, quiet=True, inline=False)


@pytest.fixture(scope='module')
def robust(): return load_detector()


@pytest.fixture
def broken(tmp_path):
    "A picture that is cut short"
    (tmp_path/'broken.jpg').write_bytes(FILES[0].read_bytes()[:300])
    return tmp_path/'broken.jpg'


def said_of(p, **options):
    "What the page says of a picture with this `p_fake`"
    detector = Detector(None, box_card('robust'), **options)
    return verdict_html(dict(p_fake=p, verdict=detector.verdict(p), note='', error=''), detector)


@pytest.mark.parametrize('p, options, said', [
    (0.7314, dict(threshold=0.7357), "The probability of FAKE is 0.731, below this detector's threshold of 0.736, "
                                     'so the verdict is REAL.'),
    (0.9, dict(threshold=0.7357), "It looks generated. The probability of FAKE is 0.900, at or above this detector's "
                                  'threshold of 0.736.'),
    (0.2, dict(threshold=0.7357), "It looks like a photograph. The probability of FAKE is 0.200, below this detector's "
                                  'threshold of 0.736.'),
    (0.4, dict(threshold=0.3), "The probability of FAKE is 0.400, at or above this detector's threshold of 0.300, "
                               'so the verdict is FAKE.'),
    (0.731, dict(threshold=0.5), 'It looks generated. The probability of FAKE is 0.731.'),
    (0.1, dict(threshold=0.5), 'It looks like a photograph. The probability of FAKE is 0.100.'),
    (0.5, dict(band=(0.2, 0.9)), 'The probability of FAKE is 0.500. This detector is unsure from 0.200 to 0.900.')])
def test_the_sentence_agrees_with_the_number(p, options, said): assert f'<p>{said}</p>' in said_of(p, **options)


def test_what_comes_from_a_file_is_text_and_no_html(robust):
    row = robust.predict(FILES[0]).iloc[0]
    for page in (verdict_html(dict(row, note='<script>'), robust), verdict_html(dict(row, error='<script>'), robust)):
        assert '<script>' not in page and '&lt;script&gt;' in page


def test_limits_and_nothing_at_all_are_sentences(robust, broken, tmp_path):
    many, one = judge_many(robust, 3, tmp_path), judge_one(robust)
    assert 'Choose some' in many(None)[0] and 'at most 3' in many(['a']*4)[0] and one(None) == ('', '')
    assert 'No such file' in one('gone.jpg')[0] and one('gone.jpg')[1] == ''
    text, table, file = many([FILES[0], broken])
    assert '1 could not be read' in text and table['file'].tolist() == [FILES[0].name, 'broken.jpg']
    assert table.p_fake[1] == table['size'][1] == '' and 'damaged' in table.remark[1]
    assert Path(file).read_text().splitlines()[0] == 'file,p_fake,verdict,width,height,error,note'


def test_twins_that_a_mac_writes_are_left_out(robust, tmp_path):
    text, table, _ = judge_many(robust, 3, tmp_path)([FILES[0], tmp_path/'._a.jpg', tmp_path/'Thumbs.db'])
    assert len(table) == 1 and text.startswith('1 file(s)') and 'Left out: 2 that a system made' in text


def test_old_tables_are_removed(robust, tmp_path):
    (tmp_path/'old.csv').write_text('x')
    os.utime(tmp_path/'old.csv', (time.time() - 100,)*2)
    judge_many(robust, 3, tmp_path)([FILES[0]])
    assert [o.name.partition('-')[0] for o in tmp_path.glob('*.csv')] == ['verdicts']


@pytest.mark.parametrize('known', [True, False])
def test_the_page_tells_what_the_detector_is_for(robust, known):
    card = {k: v for k, v in robust.card.items() if known or k != 'intended_use'}
    page = build_app(Detector(None, card))
    head = str(page.get_config_file()['components'][0]['props']['value'])
    page.close(verbose=False)
    assert ('Stable Diffusion' in head) == known and ('Pictures like those of its training data' in head) != known


def test_programs_get_what_people_see(robust, broken):
    app = launch_app(robust, **QUIET)
    assert (app.share, app.server_name, app.max_file_size) == (False, '127.0.0.1', 50*1024**2)
    assert app.analytics_enabled is False
    page = Client(app.local_url, verbose=False)
    verdict, closer = page.predict(handle_file(FILES[0]), api_name='/judge')
    assert verdict == verdict_html(robust.predict(FILES[0]).iloc[0], robust) and 'data:image/png' in closer
    text, table, _ = page.predict([handle_file(o) for o in (FILES[0], broken)], api_name='/judge_many')
    app.close(verbose=False)
    assert text.startswith('2 file(s): ') and table['headers'] == ['file', 'verdict', 'p_fake', 'size', 'remark']
    assert [o[0] for o in table['data']] == [FILES[0].name, 'broken.jpg']
    assert 'damaged' in table['data'][1][4] and table['data'][1][1] == ''


@pytest.mark.slow
def test_uploads_go_when_their_time_is_over_and_with_the_page(robust, tmp_path, monkeypatch):
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path))
    folders, temporary = [], tempfile.TemporaryDirectory

    def noted(**kwargs):
        folders.append(temporary(**kwargs))
        return folders[-1]

    monkeypatch.setattr(room.tempfile, 'TemporaryDirectory', noted)
    mine = FILES[3]  # no example, which stays

    def uploads(): return [o for o in tmp_path.rglob('*') if o.is_file() and o.read_bytes() == mine.read_bytes()]

    app = launch_app(robust, keep=1, **QUIET)
    page = Client(app.local_url, verbose=False)
    page.predict(handle_file(mine), api_name='/judge')
    page.predict([handle_file(FILES[0])], api_name='/judge_many')
    folder = Path(folders[0].name)
    assert uploads() and len(list(folder.glob('*.csv'))) == 1
    deadline = time.time() + 20
    while uploads() and time.time() < deadline: time.sleep(0.2)
    assert not uploads()
    app.close(verbose=False)
    assert not folder.exists()


def test_a_page_starts_past_a_proxy_that_is_down(robust, monkeypatch):
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.setenv(name, 'http://127.0.0.1:9' if 'http' in name.lower() else 'socks5://127.0.0.1:9')
    monkeypatch.setenv('NO_PROXY', 'example.org')
    app = launch_app(robust, **QUIET)
    app.close(verbose=False)
    assert os.environ['NO_PROXY'] == 'example.org' and 'no_proxy' not in os.environ


@pytest.mark.parametrize('given, hosts, seen', [
    (None, 'localhost', 'localhost'), ('a.org', 'localhost', 'a.org,localhost'), ('a.org', '*', '*'), ('*', 'b', '*')])
def test_hosts_that_need_no_proxy_are_added_for_a_while(monkeypatch, given, hosts, seen):
    for name in ('no_proxy', 'NO_PROXY'): monkeypatch.delenv(name, raising=False)
    if given: monkeypatch.setenv('NO_PROXY', given)
    with room._past_proxies(hosts): assert os.environ['no_proxy'] == os.environ['NO_PROXY'] == seen
    assert os.environ.get('NO_PROXY') == given and 'no_proxy' not in os.environ


def test_uploads_have_a_place_where_gradios_belongs_to_another_user(monkeypatch, tmp_path):
    (tmp_path/'gradio').write_text('')
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path/'gradio'))
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path/'ours'))
    room._gradio()
    assert os.environ['GRADIO_TEMP_DIR'] == str(tmp_path/'ours'/'gradio')


def test_examples_need_no_home(monkeypatch, tmp_path):
    (tmp_path/'full').write_text('')
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path/'full'))
    assert len(room._examples(tmp_path)) == 4
    monkeypatch.setattr(room, 'demo_cifake', Mock(side_effect=OSError(28, 'No space left on device')))
    assert room._examples(tmp_path) == []


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(room, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'cifake\[app\]'): build_app()


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    "Address of the page, and the folder where gradio keeps uploads; once told to end, the page leaves nothing there"
    folder = tmp_path_factory.mktemp('uploads')
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        port = found.getsockname()[1]
    command = Path(sys.executable).with_name('cifake-app')
    env = clean_env(GRADIO_TEMP_DIR=str(folder), TMPDIR=str(folder))
    process = subprocess.Popen([command, '--port', str(port)], env=env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        for line in process.stdout:
            if f'http://127.0.0.1:{port}' in line: break
        else: pytest.fail('cifake-app ended before it listened.')
        yield f'http://127.0.0.1:{port}', folder
        uploaded = {o.name for o in folder.rglob('*') if o.is_file()}
        assert {FILES[1].name, 'broken.jpg'} <= uploaded  # while it runs
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, 130)
        left = {o.name for o in folder.rglob('*') if o.is_file() and 'demo' not in str(o.relative_to(folder))}
        assert not left & {FILES[1].name, 'broken.jpg', 'text.jpg', 'large.jpg', 'larger.png', 'notes.txt'}, left
        assert not any('verdicts' in o for o in left), left
    finally: process.kill()


@pytest.fixture
def visit(browser, served):
    "Open the page; it asks nobody but its own server, and its scripts raise nothing"
    contexts, complaints = [], []

    def heard(request):
        if not request.url.startswith((served[0], 'data:', 'blob:')): complaints.append(request.url)

    def visit(**context):
        contexts.append(browser.new_context(**{'viewport': dict(width=1200, height=900), **context}))
        page = contexts[-1].new_page()
        page.on('request', heard)
        page.on('pageerror', lambda o: complaints.append(str(o)))
        page.goto(served[0])
        page.wait_for_selector('#picture')
        return page

    yield visit
    for context in contexts: context.close()
    assert not complaints


def judged(page, path, wait='#verdict h3'):
    "What the page says of the picture at `path`"
    page.set_input_files('#picture input[type=file]', str(path))
    page.wait_for_selector(wait, timeout=30_000)
    return page.inner_text('#verdict')


def test_a_good_picture(visit):
    page = visit()
    said = judged(page, FILES[1], '#closer img')
    assert said.split()[0] in ('FAKE', 'REAL') and 'probability of FAKE is 0.' in said
    assert 'Unlike its training images' not in said
    page.wait_for_timeout(500)
    widths = page.evaluate("[...document.querySelectorAll('#closer img')].map(o => o.naturalWidth)")
    assert len(widths) == 5 and min(widths) > 200
    assert all(page.evaluate("[...document.querySelectorAll('#closer img')].map(o => o.alt)"))
    kept = os.environ.get('CIFAKE_SCREENSHOTS')
    if kept is not None: page.screenshot(path=Path(kept)/'app.png', full_page=True)


def test_pictures_that_are_none(visit, tmp_path):
    (tmp_path/'broken.jpg').write_bytes(FILES[0].read_bytes()[:300])
    (tmp_path/'text.jpg').write_text('This is no picture.')
    for name, part in (('broken.jpg', 'damaged'), ('text.jpg', 'no picture of a known format')):
        said = judged(page := visit(), tmp_path/name)
        assert 'No verdict' in said and part in said
        assert not page.query_selector('#closer img')


def test_forty_megapixels(visit, tmp_path):
    Image.linear_gradient('L').resize((8000, 5000)).convert('RGB').save(tmp_path/'large.jpg')
    assert 'Unlike its training images: 8000x5000' in judged(visit(), tmp_path/'large.jpg')
    Image.new('L', (30_000, 3000)).save(tmp_path/'larger.png')
    assert 'million that are read at most' in judged(visit(), tmp_path/'larger.png')


def test_a_file_that_is_too_large(visit, tmp_path):
    (tmp_path/'huge.jpg').write_bytes(FILES[0].read_bytes() + bytes(51*1024**2))
    page = visit()
    page.set_input_files('#picture input[type=file]', str(tmp_path/'huge.jpg'))
    page.get_by_text('exceed the maximum').first.wait_for(timeout=20_000)


def test_a_text_file(visit, tmp_path):
    "The field for pictures refuses it by its kind; in a batch it is a row"
    (tmp_path/'notes.txt').write_text('This is no picture.')
    page = visit()
    page.set_input_files('#picture input[type=file]', str(tmp_path/'notes.txt'))
    page.wait_for_timeout(1500)
    assert 'FAKE' not in page.inner_text('#verdict')
    page.get_by_role('tab', name='Many').click()
    page.set_input_files('#files input[type=file]', [str(tmp_path/'notes.txt'), str(FILES[0])])
    page.wait_for_selector('#files >> text=notes')
    page.get_by_role('button', name='Judge').click()
    page.wait_for_selector('#said >> text=2 file(s)', timeout=20_000)
    assert '1 could not be read' in page.inner_text('#said')


def test_ten_at_once_and_their_csv(visit, tmp_path):
    page = visit()
    page.get_by_role('tab', name='Many').click()
    page.set_input_files('#files input[type=file]', [str(o) for o in FILES[:10]])
    page.wait_for_selector(f'#files >> text={FILES[9].stem[:4]}')
    page.wait_for_timeout(500)
    page.get_by_role('button', name='Judge').click()
    page.wait_for_selector('#said >> text=10 file(s)', timeout=20_000)
    with page.expect_download() as download: page.locator('#csv').click()
    download.value.save_as(tmp_path/'verdicts.csv')
    rows = list(csv.DictReader(open(tmp_path/'verdicts.csv', newline='', encoding='utf-8')))
    assert [o['file'] for o in rows] == [o.name for o in FILES[:10]]
    assert all(o['verdict'] in ('FAKE', 'REAL') for o in rows)


def test_paste(visit):
    page = visit(permissions=['clipboard-read', 'clipboard-write'])
    page.evaluate("""async () => {
        const canvas = new OffscreenCanvas(64, 64), draw = canvas.getContext('2d');
        draw.fillStyle = 'teal'; draw.fillRect(8, 8, 40, 40);
        await navigator.clipboard.write([new ClipboardItem({'image/png': canvas.convertToBlob()})]);
    }""")
    page.locator('#picture').get_by_role('button', name='clipboard').click()
    page.wait_for_selector('#verdict h3', timeout=20_000)
    assert 'Unlike its training images: 64x64' in page.inner_text('#verdict')


def test_by_keyboard(visit):
    "An example, another tab and its button, with Tab, arrows and Enter alone"
    page = visit()

    def reach(selector, most=40):
        for _ in range(most):
            page.keyboard.press('Tab')
            if page.evaluate(f"document.activeElement.matches('{selector}')"): return
        pytest.fail(f'{selector} cannot be reached with the Tab key')

    reach('#examples button')
    page.keyboard.press('Enter')
    page.wait_for_selector('#verdict h3', timeout=20_000)
    assert page.inner_text('#verdict').split()[0] in ('FAKE', 'REAL')
    page.reload()
    page.wait_for_selector('#picture')
    reach('[role=tab]')
    while page.evaluate("document.activeElement.innerText") != 'Many': page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    reach('#judge')
    page.keyboard.press('Enter')
    page.wait_for_selector('#said >> text=Choose some pictures first', timeout=20_000)


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_on_a_phone(visit, scheme):
    page = visit(viewport=dict(width=375, height=800), color_scheme=scheme)
    judged(page, FILES[1], '#closer img')
    for tab in ('Many', 'About', 'One picture'):
        page.get_by_role('tab', name=tab).click()
        page.wait_for_timeout(300)
        assert page.evaluate('document.documentElement.scrollWidth') <= 375, tab
