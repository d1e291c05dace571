"Any form of a picture gives the same picture, and what is none gets one sentence that says what is right"
import array
import base64
import io
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from fastai.vision.core import PILImage, TensorImage
from PIL import Image

from cifake.data.demo import demo_cifake
from cifake.data.given import each_of, given_as, is_one, is_url, name_of
from cifake.data.items import Item
from cifake.data.pictures import read_picture

ONE = sorted((demo_cifake()/'test'/'FAKE').glob('*.jpg'))[0]
DATA = ONE.read_bytes()
PIXELS = np.asarray(Image.open(ONE))
TEXT = base64.b64encode(DATA).decode()
FORMS = {
    'path': ONE, 'text': str(ONE), 'file address': ONE.as_uri(), 'FILE address': ONE.as_uri().replace('file', 'FILE'),
    'bytes': DATA, 'bytearray': bytearray(DATA), 'view': memoryview(DATA), 'array of bytes': array.array('B', DATA),
    'base64': TEXT, 'base64 in lines': base64.encodebytes(DATA).decode(), 'base64 in bytes': TEXT.encode(),
    'base64 for addresses': base64.urlsafe_b64encode(DATA).decode().rstrip('='),
    'data address': f'data:image/jpeg;base64,{TEXT}', 'data address in bytes': f'DATA:;BASE64,{TEXT}'.encode(),
    'PIL': Image.open(ONE), 'PILImage': PILImage.create(ONE), 'array': PIXELS,
    'columns first': np.asfortranarray(PIXELS),
    'channels first': PIXELS.transpose(2, 0, 1), '16 bits': PIXELS.astype(np.uint16)*257, 'one of four': PIXELS[None],
    'view of an array': memoryview(PIXELS.copy()), 'tensor': torch.tensor(PIXELS).permute(2, 0, 1),
    'tensor, channels last': torch.tensor(PIXELS), 'TensorImage': TensorImage(torch.tensor(PIXELS).permute(2, 0, 1)),
    'tensor of one': torch.tensor(PIXELS).permute(2, 0, 1)[None], 'scalar of pyarrow': pa.scalar(DATA),
    'buffer of pyarrow': pa.py_buffer(DATA), 'array of one text': np.array(str(ONE)),
    'array of one object': np.array([DATA], dtype=object), 'dictionary with bytes': dict(bytes=DATA, path=None),
    'dictionary with path': dict(bytes=None, path=str(ONE)), 'dictionary with base64': dict(bytes=TEXT),
    'Item': Item(ONE, ONE.name, 'FAKE', 'unknown', 'test', '')}


class Upload:
    "As FastAPI hands it over: `read` needs `await`"
    def __init__(self):
        self.file = tempfile.SpooledTemporaryFile()
        self.file.write(DATA)
        self.filename = 'mine.jpg'

    async def read(self, n=-1): return self.file.read(n)


class Answer:
    content = DATA


def opened(tmp_path, kind):
    "An open file of one kind"
    if kind == 'read before':
        file = io.BytesIO(DATA)
        file.read()
        return file
    if kind == 'pipe':
        back, front = os.pipe()
        os.write(front, DATA)
        os.close(front)
        return open(back, 'rb', buffering=0)
    if kind in ('in an archive', 'path in an archive'):
        with zipfile.ZipFile(tmp_path/'a.zip', 'w') as archive: archive.writestr('a.jpg', DATA)
        if kind == 'path in an archive': return zipfile.Path(tmp_path/'a.zip', 'a.jpg')
        return zipfile.ZipFile(tmp_path/'a.zip').open('a.jpg')
    return {'opened': lambda: open(ONE, 'rb'), 'upload': Upload, 'answer': Answer,
            'temporary': lambda: Upload().file}[kind]()


@pytest.mark.parametrize('form', FORMS)
def test_any_form_gives_the_same_picture(form):
    assert np.array_equal(np.asarray(read_picture(FORMS[form]).image), PIXELS)


@pytest.mark.parametrize('kind', ['opened', 'read before', 'pipe', 'in an archive', 'path in an archive', 'upload',
                                  'answer', 'temporary'])
def test_an_open_file_gives_the_same_picture(kind, tmp_path):
    file = opened(tmp_path, kind)
    assert np.array_equal(np.asarray(read_picture(file).image), PIXELS)
    if kind not in ('pipe', 'path in an archive', 'answer'):
        assert np.array_equal(np.asarray(read_picture(file).image), PIXELS)  # it was left open, and is read again


@pytest.mark.parametrize('as_path', [str, Path])
def test_the_home_folder_is_understood(as_path, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('USERPROFILE', str(tmp_path))
    (tmp_path/'é 1.jpg').write_bytes(DATA)
    assert np.array_equal(np.asarray(read_picture(as_path('~/é 1.jpg')).image), PIXELS)
    assert np.array_equal(np.asarray(read_picture((tmp_path/'é 1.jpg').as_uri()).image), PIXELS)


@pytest.mark.parametrize('name', ['data:1,2.jpg', 'file:a.jpg', '~a.jpg', '{a}.jpg', 'two\nlines.jpg'])
@pytest.mark.skipif(os.name == 'nt', reason='names that Windows does not allow')
def test_a_file_that_is_there_comes_first(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(DATA)
    assert given_as(name) == name and name_of(name) == name


def closed_file():
    file = io.BytesIO(DATA)
    file.close()
    return file


def closed_image():
    image = Image.open(ONE)
    image.close()
    return image


async def later(): return DATA


class Later:
    def read(self, n): return later()


WRONG = {
    'None': (None, 'NoneType'), 'NaN': (float('nan'), 'float'), 'number of NumPy': (np.float64(0.5), 'float'),
    'class': (int, 'This is type'), 'generator': ((o for o in 'a'), 'This is generator'),
    'list': ([DATA], 'This is list'),
    'floats': (PIXELS/255, 'which of them is white'), 'integers': (PIXELS.astype(int), 'numpy.uint8'),
    'float tensor': (torch.zeros(3, 9, 9), 'torch.uint8'), 'bfloat16': (torch.zeros(3, 9, 9).bfloat16(), 'torch.uint8'),
    'tensor without values': (torch.zeros(3, 9, 9, dtype=torch.uint8, device='meta'), 'cannot be read'),
    'seven channels': (np.zeros((5, 5, 7), np.uint8), 'shape'), 'a row': (np.zeros(5, np.uint8), 'shape'),
    'several': (np.zeros((2, 5, 5, 3), np.uint8), 'several pictures'), 'texts': (np.array(['a', 'b']), 'holds <U1'),
    'empty': (b'', 'is empty'), 'empty text': ('', 'text is empty'), 'null': ('a\0b', 'neither the path'),
    'lines': ('not\na path', 'neither the path'), 'page': ('<html>', 'neither the path'),
    'JSON': ('{"a": 1}', 'neither'),
    'text of bytes': (str(DATA[:50]), 'neither the path'), 'base64 of nothing': ('abcd'*99, 'neither the path'),
    'damaged base64': (TEXT[:301] + '!', 'base64 is damaged'), 'no data': ('data:image/png', 'has no data'),
    'bad data': ('data:image/png;base64,@@@@', 'base64 is damaged'), 'web': ('HTTPS://x.org/ü y.jpg', 'web address'),
    'web in a Path': (Path('https://x.org/a.jpg'), 'give it as text'), 'bucket': ('s3://b/k.jpg', 'kind `s3:`'),
    'another machine': ('file://other/a.jpg', 'machine other'),
    'table': (pd.DataFrame({'a': [1]}), 'one of its columns'),
    'table of pyarrow': (pa.table({'a': [1]}), 'one of its columns'), 'dictionary': ({'a': 1}, 'without `bytes`'),
    'file of text': (io.StringIO('a'), 'mode `rb`'), 'closed file': (closed_file(), 'closed file'),
    'closed image': (closed_image(), 'PIL image cannot be read'), 'read later': (Later(), 'await'),
    'folder': (ONE.parent, 'is a folder'), 'empty file': (io.BytesIO(), 'is empty')}


@pytest.mark.parametrize('form', WRONG)
def test_what_is_no_picture_gets_one_sentence(form):
    source, said = WRONG[form]
    with pytest.raises(ValueError, match=said) as caught: read_picture(source)
    assert '\n' not in str(caught.value) and 'No such file' not in str(caught.value)


def test_a_file_open_as_text_is_named_as_such(tmp_path):
    with open(ONE, encoding='utf-8') as file, pytest.raises(ValueError, match='mode `rb`'): read_picture(file)


def test_bytes_are_never_a_path(tmp_path):
    "They may come from anybody, who would read files of this machine"
    for text in (str(ONE), ONE.as_uri(), f'data:,{ONE}'):
        with pytest.raises(ValueError, match='no picture of a known format'): read_picture(text.encode())
        with pytest.raises(ValueError): read_picture(dict(bytes=text))


SEVERAL = {'series': pd.Series([str(ONE)]*2), 'set': {str(ONE), DATA}, 'tuple': (ONE, DATA),
           'iterator': iter([ONE, DATA]),
           'arrays': np.stack([PIXELS]*2), 'tensors': torch.tensor(np.stack([PIXELS]*2)).permute(0, 3, 1, 2),
           'objects': np.array([DATA, str(ONE)], dtype=object), 'texts': np.array([str(ONE)]*2),
           'column of pyarrow': pa.chunked_array([[DATA, DATA]]), 'dictionary': {'a': ONE, 'b': DATA}}


@pytest.mark.parametrize('form', SEVERAL)
def test_several_pictures_are_told_from_one(form):
    found = list(each_of(SEVERAL[form]))
    assert len(found) == 2 and all(np.array_equal(np.asarray(read_picture(o).image), PIXELS) for _, o in found)


@pytest.mark.parametrize('form', FORMS)
def test_one_picture_is_one(form):
    ((name, found),) = each_of(FORMS[form])
    if form not in ('array of one object', 'one of four', 'tensor of one'):
        assert is_one(FORMS[form]) and found is FORMS[form]
    is_path = form in ('path', 'text', 'Item', 'dictionary with path') or 'file address' in form.lower()
    assert (name == 'picture 0') != is_path


def test_names_are_those_of_paths_files_and_keys():
    several = [ONE, DATA, TEXT, open(ONE, 'rb'), Upload(), dict(path='a.jpg', bytes=DATA)]
    assert [name for name, _ in each_of(several)] == [str(ONE), 'picture 1', 'picture 2', str(ONE), 'mine.jpg', 'a.jpg']
    assert [name for name, _ in each_of({'mine': DATA})] == ['mine']


def test_web_addresses_are_known_by_their_beginning():
    assert is_url(' HTTPS://é.org/a b.jpg') and not is_url('http.jpg') and not is_url(Path('http://a'))
