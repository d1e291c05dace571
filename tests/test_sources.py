"Folders, archives and web addresses: odd names, damage, bombs, and servers that misbehave"
import os
import shutil
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from cifake.data.demo import demo_cifake
from cifake.serve import sources
from cifake.serve.sources import expand, fetch, load_source, pictures_in

ONE = sorted((demo_cifake()/'test'/'FAKE').glob('*.jpg'))[0]
ODD_NAMES = ['a "quoted", name.jpg', "it's.jpg", 'two\nlines.jpg', 'Ünïcödé 写真.JPG', 'b.jpeg']


def names(pairs): return [os.path.basename(name) for name, _ in pairs]


@pytest.fixture
def odd(tmp_path):
    "A folder with odd names, links in a loop, a link to its parent, and what is no picture"
    folder = tmp_path/'odd'
    (folder/'inner').mkdir(parents=True)
    for name in [*ODD_NAMES, 'inner/c.jpg']: shutil.copy(ONE, folder/name)
    (folder/'notes.txt').write_text('no picture')
    (folder/'loop.jpg').symlink_to(folder/'loop.jpg')
    (folder/'inner'/'up').symlink_to(folder)
    (folder/'folder.jpg').mkdir()
    return folder


def test_a_folder_gives_its_pictures_in_order_then_those_of_its_folders():
    root = demo_cifake()/'test'
    assert [o for _, o in pictures_in(root)] == [str(o) for o in sorted(root.rglob('*.jpg'))]
    assert not list(pictures_in(root, recursive=False))


def test_odd_names_are_found_once_and_links_to_folders_are_not_followed(odd):
    found = names(pictures_in(odd))
    assert sorted(found) == sorted([*ODD_NAMES, 'loop.jpg', 'c.jpg']) and found[-1] == 'c.jpg'


def test_a_folder_that_cannot_be_listed_is_a_source_with_its_error(odd, monkeypatch):
    def refuse(path): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(os, 'scandir', refuse)
    ((name, error),) = pictures_in(odd)
    assert name == str(odd) and isinstance(error, PermissionError)


def test_a_path_without_a_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='neither a folder nor'): pictures_in(tmp_path/'gone')


@pytest.fixture
def archive(tmp_path):
    "An archive with a name that climbs out of its folder, a bomb, a picture and a folder"
    with zipfile.ZipFile(tmp_path/'odd.zip', 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('../../climbs.jpg', ONE.read_bytes())
        file.writestr('bomb.png', bytes(50_000_000))
        file.writestr('fine.jpg', ONE.read_bytes())
        file.writestr('inner/', '')
        file.writestr('notes.txt', 'no picture')
    return tmp_path/'odd.zip'


def test_an_archive_is_read_in_memory(archive):
    before = sorted(archive.parent.parent.rglob('*'))
    found = {os.path.basename(name): member for name, member in pictures_in(archive)}
    assert set(found) == {'climbs.jpg', 'bomb.png', 'fine.jpg'}
    assert load_source(found['climbs.jpg']) == load_source(found['fine.jpg']) == ONE.read_bytes()
    with pytest.raises(ValueError, match='zip bomb'): load_source(found['bomb.png'])
    assert sorted(archive.parent.parent.rglob('*')) == before


def test_a_member_that_is_too_large_or_encrypted_is_refused(archive, monkeypatch):
    member = next(o for name, o in pictures_in(archive) if name.endswith('fine.jpg'))
    monkeypatch.setattr(sources, 'MAX_BYTES', 100)
    with pytest.raises(ValueError, match='at most'): member.read()
    member.info.flag_bits |= 1
    with pytest.raises(ValueError, match='encrypted'): member.read()


def test_damage_in_an_archive_is_that_of_few_members(tmp_path):
    with zipfile.ZipFile(tmp_path/'hurt.zip', 'w') as file:
        for o in sorted((demo_cifake()/'test').rglob('*.jpg'))[:20]: file.write(o, o.name)
    data = bytearray((tmp_path/'hurt.zip').read_bytes())
    data[2000:2100] = bytes(100)
    (tmp_path/'hurt.zip').write_bytes(data)
    errors = []
    for _, member in pictures_in(tmp_path/'hurt.zip'):
        try: member.read()
        except ValueError as e: errors.append(str(e))
    assert 1 <= len(errors) <= 2 and all('damaged in its archive' in o for o in errors)


@pytest.mark.parametrize('data', [b'', b'PK', ONE.read_bytes()], ids=['empty', 'two bytes', 'a picture'])
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path/'none.zip').write_bytes(data)
    with pytest.raises(ValueError, match='is not a zip archive'): list(pictures_in(tmp_path/'none.zip'))


class Site(BaseHTTPRequestHandler):
    "A picture, a missing page, an answer that is cut short, one that never ends, slow ones, and redirects"
    protocol_version = 'HTTP/1.0'

    def do_GET(self):
        self.server.asked.append(self.headers)
        page = self.path.strip('/')
        if page in ('around', 'away', 'endless-redirect'): return self.redirect(page)
        self.send_response(404 if page == 'gone' else 200)
        if page == 'short': self.send_header('Content-Length', '9999')
        self.end_headers()
        self.body(page)

    def redirect(self, page):
        self.send_response(302)
        self.send_header('Location', {'around': '/around', 'away': 'file:///etc/hostname'}.get(page, '/fine.jpg'))
        self.end_headers()
        if page == 'endless-redirect': self.body('endless')

    def body(self, page):
        parts = iter([ONE.read_bytes()])
        if page == 'endless': parts = iter(lambda: bytes(100_000), None)
        if page == 'drops': parts = iter(lambda: b'a', None)
        with suppress(OSError):
            for o in parts:
                if page in ('slow', 'drops'): time.sleep(0.05 if page == 'drops' else 0.4)
                self.wfile.write(o)

    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def site():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Site)
    server.asked = []
    Thread(target=server.serve_forever, daemon=True).start()
    server.address = f'http://127.0.0.1:{server.server_port}'
    yield server
    server.shutdown()
    server.server_close()


def test_a_picture_at_an_address(site):
    assert fetch(f'{site.address}/fine.jpg') == fetch(f'{site.address}/endless-redirect') == ONE.read_bytes()


@pytest.mark.parametrize('page, said', [
    ('gone', '404'), ('short', 'cannot be fetched'), ('endless', 'more than 1 MB'), ('around', 'TooManyRedirects'),
    ('away', 'InvalidSchema')])
def test_an_answer_that_is_no_picture_is_one_sentence(site, monkeypatch, page, said):
    monkeypatch.setattr(sources, 'MAX_BYTES', 1_000_000)
    with pytest.raises(ValueError, match=said): fetch(f'{site.address}/{page}')


@pytest.mark.parametrize('address', ['http://127.0.0.1:1/none', 'http://in valid/', 'http://[broken/', 'https://'])
def test_an_address_that_cannot_be_reached_is_one_sentence(address):
    with pytest.raises(ValueError, match='This address cannot be'): fetch(address)


@pytest.mark.parametrize('page', ['slow', 'drops'])
def test_a_download_ends_after_its_time(site, page):
    start = time.monotonic()
    with pytest.raises(ValueError, match='longer than 0.2'): fetch(f'{site.address}/{page}', seconds=0.2)
    assert time.monotonic() - start < 5


def test_no_password_is_sent_and_nothing_is_compressed(site, monkeypatch, tmp_path):
    (tmp_path/'.netrc').write_text('machine 127.0.0.1 login somebody password secret\n')
    (tmp_path/'.netrc').chmod(0o600)
    monkeypatch.setenv('NETRC', str(tmp_path/'.netrc'))
    fetch(f'{site.address}/fine.jpg')
    assert site.asked[-1]['Authorization'] is None and site.asked[-1]['Accept-Encoding'] == 'identity'


def test_an_address_is_fetched_only_where_it_is_allowed(site):
    with pytest.raises(ValueError, match='web address'): load_source(f'{site.address}/fine.jpg')
    assert load_source(f'{site.address}/fine.jpg', urls=True) == ONE.read_bytes()


def test_an_error_is_raised_when_its_turn_comes():
    with pytest.raises(KeyError): load_source(KeyError('x'))


def test_a_name_on_a_command_line(odd, archive):
    assert names(expand(str(odd/'*.jpeg'))) == ['b.jpeg'] and names(expand(str(odd/'b.jpeg'))) == ['b.jpeg']
    assert len(list(expand(str(odd)))) == len(ODD_NAMES) + 2
    assert len(list(expand(str(odd), False))) == len(ODD_NAMES) + 1
    assert names(expand(str(archive))) == ['climbs.jpg', 'bomb.png', 'fine.jpg']
    for missing in ('gone.zip', 'none*.jpg'):
        ((name, error),) = expand(missing)
        assert name == missing and isinstance(error, FileNotFoundError)
    assert list(expand('https://example.org/*.zip')) == [('https://example.org/*.zip',)*2]
