"Lists of names, as other programs and other systems write them"
import io
import os

import pytest

from cifake.serve.lists import names_in

LINES = 'one.jpg', 'größe.jpg', 'two words.jpg'


def read(data): return list(names_in(io.BytesIO(data)))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for o in LINES: (tmp_path/o).touch()


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'cp1252'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_every_encoding_and_end_of_line(encoding, end): assert read(end.join(LINES).encode(encoding)) == [*LINES]


def test_a_list_may_be_empty_or_end_without_a_line():
    assert (read(b''), read(b'\n\r\n  \n'), read(b'a')) == ([], [], ['a'])


def test_spaces_and_quotes_go_unless_they_belong_to_the_name():
    assert read(b'  one.jpg \t\n"two words.jpg"\n\'gone.jpg\'\n"') == ['one.jpg', 'two words.jpg', 'gone.jpg', '"']
    open('"odd" ', 'w').close()
    assert read(b'"odd" \n') == ['"odd" ']


def test_remarks_are_left_out_unless_they_name_a_file():
    open('# 1.jpg', 'w').close()
    assert read(b'# all of them\n# 1.jpg\n#2.jpg') == ['# 1.jpg', '#2.jpg']


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no such names')
def test_a_name_of_any_bytes_is_that_of_the_file():
    open(b'caf\xe9.jpg', 'w').close()
    assert [os.fsencode(o) for o in read(b'caf\xe9.jpg\ngone\xff.jpg')] == [b'caf\xe9.jpg', b'gone\xff.jpg']


def test_lines_are_read_one_by_one():
    asked = []

    class Endless(io.RawIOBase):
        def readable(self): return True

        def readinto(self, place):
            asked.append(len(place))
            place[:8] = b'one.jpg\n'
            return 8
    found = names_in(Endless())
    assert next(found) == 'one.jpg' and len(asked) < 4


@pytest.mark.parametrize('data', [b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR', b'\xff\xd8\xff\xe0\0\x10JFIF', b'a.jpg\0b.jpg\0'])
def test_what_is_no_text_is_refused(data):
    with pytest.raises(ValueError, match='one name a line'): read(data)
