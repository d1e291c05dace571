"The page of a detector, and the Hub: a server in this process stands in for it, so huggingface_hub's own code is used"
import base64
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants, errors, hf_hub_download
from safetensors.numpy import load, save_file

import cifake
from cifake.serve.card import box_card, box_file, read_card
from cifake.serve.hub import NAME, _hub_cache, _hub_errors, from_hub, model_card, push_to_hub

CARD = box_card('robust')
COMMIT = 'a'*40


class Hub(BaseHTTPRequestHandler):
    "What the Hub answers to an upload and to a download"
    protocol_version = 'HTTP/1.1'

    def answer(self, status=200, data=b'', **headers):
        self.send_response(status)
        self.send_header('Content-Length', len(data))
        for k, v in headers.items(): self.send_header(k.replace('_', '-'), v)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(data)

    def read(self): return self.rfile.read(int(self.headers['Content-Length']))

    def say(self, **values): self.answer(data=json.dumps(values).encode(), Content_Type='application/json')

    def do_PUT(self):
        self.server.parts[self.path.removeprefix('/upload/')] = self.read()
        self.answer()

    def do_POST(self):
        text = self.read()
        refuse = self.server.refuse
        if refuse: return self.answer(403, json.dumps(dict(error=refuse)).encode(), X_Error_Message=refuse)
        if self.path == '/api/repos/create': return self.create(json.loads(text))
        if self.path == '/api/validate-yaml': return self.say(errors=[], warnings=[])
        if 'preupload' in self.path: return self.modes(json.loads(text)['files'])
        if self.path.endswith('objects/batch'): return self.places(json.loads(text)['objects'])
        if '/commit/' in self.path: return self.commit(text)
        self.answer(404)

    def create(self, o):
        name = f"{o.get('organization', 'USER')}/{o['name']}"
        self.server.made.add(name)
        self.say(url=f'{self.server.address}/{name}', name=name)

    def modes(self, files):
        def mode(path): return 'lfs' if path.endswith('tensors') else 'regular'
        self.say(files=[dict(path=o['path'], uploadMode=mode(o['path']), shouldIgnore=False) for o in files])

    def places(self, objects):
        def upload(o): return dict(upload=dict(href=f"{self.server.address}/upload/{o['oid']}"))
        self.say(transfer='basic', objects=[dict(**o, actions=upload(o)) for o in objects])

    def commit(self, text):
        repo = self.path.split('/api/models/')[1].split('/commit/')[0]
        for line in map(json.loads, text.splitlines()):
            o = line['value']
            place = f"/{repo}/resolve/main/{o.get('path')}"
            if line['key'] == 'file': self.server.files[place] = base64.b64decode(o['content'])
            if line['key'] == 'lfsFile': self.server.files[place] = self.server.parts[o['oid']]
        self.say(commitUrl=f'{self.server.address}/{repo}/commit/{COMMIT}', commitOid=COMMIT, success=True)

    def do_GET(self):
        data = self.server.files.get(self.path)
        if data is not None: return self.answer(data=data, ETag='"b"', X_Repo_Commit=COMMIT)
        known = any(self.path.startswith(f'/{o}/') for o in self.server.made)
        code = 'EntryNotFound' if known else 'RepoNotFound'
        self.answer(404, X_Error_Code=code, X_Error_Message='gone', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def log_message(self, *args): pass


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_DISABLE_XET', True)  # the stand-in knows the plain protocol only
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    server.made, server.parts, server.files, server.refuse = set(), {}, {}, None
    server.address = f'http://127.0.0.1:{server.server_port}'
    server.there = dict(endpoint=server.address, token='hf_stand_in')
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def numbers(file): return load(Path(file).read_bytes())


def test_up_and_down(hub, tmp_path):
    "One file with its card inside, and the page; found in the cache the next time, without the Hub"
    assert push_to_hub('robust', 'USER/robust', **hub.there) == f'{hub.address}/USER/robust/commit/{COMMIT}'
    theirs = from_hub('USER/robust', cache_dir=tmp_path, threshold=0.9, **hub.there)
    assert (theirs.name, theirs.threshold) == ('robust', 0.9)
    file = hf_hub_download('USER/robust', NAME, cache_dir=tmp_path, local_files_only=True)
    assert read_card(file)[0] == CARD
    with box_file('robust') as boxed: ours = numbers(boxed)
    assert all(np.array_equal(v, numbers(file)[k]) for k, v in ours.items())
    page = ModelCard(hub.files['/USER/robust/resolve/main/README.md'].decode())
    assert page.text == model_card('robust', 'USER/robust').text
    assert (page.data.library_name, page.data.license) == ('cifake', 'apache-2.0')
    again = from_hub('USER/robust', cache_dir=tmp_path, local_files_only=True)
    assert again.threshold == CARD['calibration']['threshold']


def test_a_file_of_ones_own_goes_as_it_is(hub, tmp_path):
    push_to_hub('robust', 'USER/robust', **hub.there)
    file = hf_hub_download('USER/robust', NAME, cache_dir=tmp_path, **hub.there)
    push_to_hub(file, 'USER/mine', **hub.there)
    assert read_card(hf_hub_download('USER/mine', NAME, cache_dir=tmp_path, **hub.there))[0] == CARD


def test_what_is_no_detector_is_not_sent(hub, tmp_path):
    save_file(dict(a=np.zeros(3)), tmp_path/'plain.safetensors')
    for source, kind, said in ((tmp_path/'plain.safetensors', ValueError, 'no card'),
                               (cifake.__file__, ValueError, 'cannot be read as a detector'),
                               ('gone', FileNotFoundError, 'There is no file')):
        with pytest.raises(kind, match=said): push_to_hub(source, 'USER/plain', **hub.there)
    assert not hub.files and not hub.made


def test_what_the_hub_refuses_is_a_sentence(hub):
    hub.refuse = 'This token may only read'
    with pytest.raises(OSError, match='may only read'): push_to_hub('robust', 'USER/robust', **hub.there)


def test_what_is_not_there_is_a_sentence(hub, tmp_path):
    push_to_hub('robust', 'USER/robust', **hub.there)
    there = dict(cache_dir=tmp_path, **hub.there)
    other = 'other.safetensors'
    with pytest.raises(FileNotFoundError, match='There is no model'): from_hub('USER/nothing', **there)
    with pytest.raises(FileNotFoundError, match='has no such file'): from_hub('USER/robust', other, **there)
    with pytest.raises(ValueError): from_hub('no such name/a/b', **there)


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_a_sentence(tmp_path):
    "huggingface_hub tries again for some seconds"
    with pytest.raises(OSError, match='cannot be reached'):
        from_hub('USER/robust', 'other.safetensors', cache_dir=tmp_path, endpoint='http://127.0.0.1:1')


def test_every_number_on_the_page_is_one_of_the_card():
    page = model_card('robust')
    scores = CARD['scores']['test']['as it predicts']
    for text in (f"{scores['accuracy']:.2%}", f"{scores['clean']['accuracy']:.2%}", f"{scores['auc']:.4f}",
                 f"{CARD['robustness']['rows'][1]['accuracy']:.2%}", CARD['trained']['commit'], CARD['intended_use']):
        assert text in page.text, text
    assert page.data.eval_results[0].metric_value == round(scores['accuracy'], 5)
    assert 'from_hub' not in page.text and "from_hub('USER/robust')" in model_card('robust', 'USER/robust').text


BARE = {k: CARD[k] for k in ('name', 'network', 'size', 'calibration')}


def test_a_card_that_knows_little_says_so():
    text = model_card(BARE).text
    for said in ('None were stored', 'was not measured on a test', 'was not measured under'): assert said in text
    assert model_card(BARE).data.eval_results is None


def test_a_note_and_a_band_stand_on_the_page():
    scores = dict(validation={'as it predicts': dict(n=3, accuracy=1., note='This is the demo set.')})
    calibration = dict(CARD['calibration'], unsure=[0.2, 0.9])
    text = model_card(dict(BARE, scores=scores, calibration=calibration)).text
    assert 'This is the demo set.' in text and '| accuracy | 100.00% |' in text
    assert 'was not measured on a test' in text and 'and `unsure` from 0.2 to 0.9.' in text


def test_a_card_cannot_change_the_page():
    text = model_card(dict(BARE, name='{{ 7*7 }} {% if x %}\n# Evil')).text
    assert '{{ 7*7 }} {% if x %} # Evil' in text and '49' not in text.split('\n')[1]


def test_a_cache_that_cannot_be_written_is_used_for_what_it_holds(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path/'hub'))
    monkeypatch.setenv('CIFAKE_HOME', str(tmp_path/'ours'))
    assert _hub_cache('USER/robust') == tmp_path/'hub'
    monkeypatch.setattr('cifake.data.core.can_write', lambda folder: False)
    assert _hub_cache('USER/robust') == tmp_path/'ours'/'hub'
    (tmp_path/'hub'/'models--USER--robust').mkdir(parents=True)
    assert _hub_cache('USER/robust') == tmp_path/'hub'


def test_a_gated_model_says_how_to_get_it():
    answer = Mock(status_code=403, headers={}, request=Mock(url='https://hub'))
    with pytest.raises(PermissionError, match='USER/robust is gated: ask'), _hub_errors('USER/robust'):
        raise errors.GatedRepoError('Access to model USER/robust is restricted', response=answer)
