"Pictures: every kind that people have is read to 8-bit RGB, and everything else is refused in a sentence"
import io
import os
from configparser import ConfigParser
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image, ImageFile, JpegImagePlugin

from check import ROOT
from cifake.data.demo import demo_cifake
from cifake.data.pictures import (
    _LEAST_PILLOW,
    _decoders,
    as_jpeg,
    check_way,
    how_read,
    inspect_picture,
    read_picture,
    to_square,
)
from cifake.data.values import Values, _strip_in_rgb

KINDS = [('L', 'JPEG'), ('CMYK', 'JPEG'), ('RGB', 'WEBP'), ('RGBA', 'WEBP'), ('P', 'GIF'), ('P', 'PNG'), ('1', 'PNG'),
         ('LA', 'PNG'), ('I;16', 'PNG'), ('I;16', 'TIFF'), ('I;16B', 'TIFF'), ('RGB', 'BMP'), ('RGB', 'AVIF')]


def encoded(image, kind, **kwargs):
    with io.BytesIO() as file:
        image.save(file, kind, **kwargs)
        return file.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def pixels(source, side=32): return np.asarray(read_picture(source, side).image)


@pytest.fixture(scope='module')
def window():
    "A picture of 600x400 pixels whose corners are transparent"
    y, x = np.mgrid[:400, :600]
    image = Image.fromarray(np.stack([x*0.4, y*0.6, (x + y)/4], -1).astype(np.uint8))
    image.putalpha(Image.fromarray((255*(np.hypot(y - 200, x - 300) < 190)).astype(np.uint8)))
    return image


@pytest.fixture(scope='module')
def scan():
    "16-bit grey values that grow from left to right"
    return Image.fromarray(np.broadcast_to(np.linspace(0, 65000, 600).astype(np.uint16), (400, 600)).copy())


@pytest.mark.parametrize('size', [(1, 1), (1, 3000), (700, 2)], ids=str)
@pytest.mark.parametrize('mode, kind', KINDS)
def test_every_kind_comes_out_in_rgb(mode, kind, size):
    colour = {'color': 40_000} if mode.startswith('I') else {}
    picture = read_picture(encoded(Image.new(mode, size, **colour), kind))
    assert (picture.image.mode, picture.width, picture.height, picture.format) == ('RGB', *size, kind)
    assert to_square(picture.image).size == (32, 32)


def test_a_file_of_the_size_keeps_its_pixels():
    file = next((demo_cifake(n=20)/'test'/'FAKE').glob('*.jpg'))
    assert np.array_equal(pixels(file), np.asarray(Image.open(file).convert('RGB')))
    assert np.array_equal(np.asarray(to_square(read_picture(file).image)), pixels(file))


def test_a_picture_on_its_side_is_turned():
    picture = read_picture(encoded(Image.new('RGB', (6000, 4000)), 'JPEG', exif=exif(6)))
    assert (picture.width, picture.height) == (4000, 6000)
    assert picture.image.width < picture.image.height


@pytest.mark.parametrize('kind', ['JPEG', 'TIFF', 'PNG', 'WEBP'])
@pytest.mark.parametrize('orientation, size', [(1, (1001, 1000)), (6, (1000, 1001)), (3, (1001, 1000))])
def test_nearly_square_pictures_exchange_their_sides_when_turned(kind, orientation, size):
    picture = read_picture(encoded(Image.new('RGB', (1001, 1000)), kind, exif=exif(orientation)))
    assert (picture.width, picture.height) == size


def test_broken_exif_data_do_no_harm(window):
    assert read_picture(encoded(window.convert('RGB'), 'JPEG', exif=b'Exif\0\0broken')).image.size == (600, 400)


def test_16_bits_keep_their_order(scan):
    grey = pixels(encoded(scan, 'PNG'))[0, :, 0]
    assert (np.diff(grey.astype(int)) >= 0).all() and grey[-1] > 220


def test_16_bits_without_a_value_above_255_are_refused():
    "They are black, or 8-bit values in 16 bits, and nothing says which"
    values = np.arange(256, dtype=np.uint16)[None]
    for source in (encoded(Image.fromarray(values), 'PNG'), values, Image.fromarray(values)):
        with pytest.raises(ValueError, match='no value above 255'): read_picture(source)


@pytest.mark.parametrize('image', [
    Image.new('F', (9, 9), 0.5), Image.fromarray(np.full((9, 9), 70_000, np.int32)),
    Image.fromarray(np.full((9, 9), -1, np.int32))], ids=['float', 'over 16 bits', 'negative'])
def test_values_of_unknown_range_are_refused_alike(image, tmp_path):
    file = tmp_path/'a.tif'
    image.save(file)
    for source in (file, image, file.read_bytes()):
        with pytest.raises(ValueError, match='which of them is white is unknown'): read_picture(source)
    assert 'which of them is white is unknown' in inspect_picture(file)[-1]


def test_transparent_entries_of_a_palette_become_white():
    image = Image.new('P', (40, 40))
    image.putpalette([255, 0, 0]*256)
    assert pixels(encoded(image, 'PNG', transparency=0))[0, 0].tolist() == [255]*3


def test_of_an_animation_the_first_picture_is_read():
    frames = [Image.new('RGB', (32, 32), o) for o in ('red', 'blue')]
    picture = read_picture(encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:]))
    assert picture.image.getpixel((0, 0)) == (255, 0, 0)
    assert picture.notes == ('the first picture of an animation',)


def test_the_picture_of_the_caller_is_not_changed(window):
    before = np.asarray(window).copy()
    assert read_picture(window).notes == ('transparent parts laid on white',)
    assert read_picture(np.asarray(window)).notes == ('transparent parts laid on white',)
    assert np.array_equal(np.asarray(window), before)


def test_without_a_side_nothing_is_reduced():
    image = Image.new('RGB', (900, 700))
    assert read_picture(image, 32).image.size == (450, 350)
    assert read_picture(image, None).image.size == (900, 700)
    assert read_picture(encoded(image, 'JPEG'), None).image.size == (900, 700)
    assert read_picture(encoded(Image.new('L', (3000, 20)), 'JPEG'), None).image.size == (3000, 20)


def test_strips_give_what_the_whole_picture_would(window, scan):
    large = window.convert('RGB').resize((3000, 2000)).convert('LA')
    for made, kwargs in ((scan, {}), (window, {}), (window.convert('P'), dict(transparency=3)), (large, {})):
        data = encoded(made, 'PNG', **kwargs)
        whole, _ = _strip_in_rgb(Image.open(io.BytesIO(data)), 1, Values())
        assert np.array_equal(pixels(data, 10**4), np.asarray(whole))
        reduced = read_picture(data, 20).image.resize(whole.size)
        assert np.abs(np.asarray(reduced).astype(int) - np.asarray(whole)).mean() < 12


def test_formats_that_start_programs_or_follow_paths_are_no_pictures(tmp_path):
    file = tmp_path/'drawing.jpg'
    file.write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n')
    with pytest.raises(ValueError, match='no picture'): read_picture(file)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path/'empty.jpg').touch()
    with pytest.raises(ValueError, match='is empty'): read_picture(str(tmp_path/'empty.jpg'))


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs named pipes')
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path/'pipe.jpg')
    with pytest.raises(ValueError, match='no file'): read_picture(tmp_path/'pipe.jpg')


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError): read_picture(tmp_path/'gone.jpg')


def test_a_hole_in_the_data_is_seen():
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    data = bytearray(encoded(Image.fromarray(noise), 'PNG'))
    data[200:260] = bytes(60)
    with pytest.raises(ValueError, match='damaged or cut short'): read_picture(bytes(data))


@pytest.mark.parametrize('wrong', [
    np.zeros((0, 3, 3), np.uint8), np.zeros((2, 3, 32, 32), np.uint8), np.zeros(5, np.uint8), 7, None],
    ids=['no rows', 'several', 'a row', 'a number', 'None'])
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(ValueError): read_picture(wrong)


@pytest.mark.parametrize('way', [dict(size=0), dict(fit='bend'), dict(quality=0), dict(quality=75.5)], ids=str)
def test_a_way_that_does_not_exist_is_refused_by_its_name(way):
    with pytest.raises(ValueError, match=next(iter(way))): check_way(**way)


def test_a_picture_that_is_an_archive_and_a_page_too_is_read_as_the_picture(window):
    data = encoded(window.convert('RGB'), 'JPEG') + b'PK\x05\x06' + bytes(18) + b'<script>alert(1)</script>'
    assert read_picture(data).image.size == (600, 400)
    with pytest.raises(ValueError, match='no picture'): read_picture(data[200:])


def test_as_jpeg_is_what_a_file_of_that_quality_holds(window):
    image = window.convert('RGB')
    file = Image.open(io.BytesIO(encoded(image, 'JPEG', quality=40)))
    assert np.array_equal(np.asarray(as_jpeg(image, 40)), np.asarray(file))


def test_a_file_that_cannot_be_read_has_no_digest(tmp_path):
    digest, width, height, error = inspect_picture(tmp_path/'gone.jpg')
    assert (digest, width, height) == ('', 0, 0) and 'cannot be read: No such file' in error


def test_how_files_are_read_names_what_it_depends_on(monkeypatch):
    before = how_read()
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    assert how_read() != before
    monkeypatch.setattr('cifake.data.pictures.PILLOW', '99.0')
    assert 'Pillow 99.0' in how_read()


def test_an_old_pillow_is_named_and_nothing_is_called_damaged(monkeypatch):
    monkeypatch.setattr('cifake.data.pictures.PILLOW', '9.5.0')
    with pytest.raises(ValueError, match=r'Pillow 9\.5\.0 is older than'): read_picture(np.zeros((9, 9), np.uint8))


def test_the_least_pillow_is_that_of_the_requirements():
    settings = ConfigParser(interpolation=None)
    settings.read(ROOT/'settings.ini', encoding='utf-8')
    assert f'pillow>={_LEAST_PILLOW}' in settings['DEFAULT']['requirements'].split()


@pytest.mark.parametrize('change', [
    ('cifake.data.pictures.MAX_BYTES', 9), ('cifake.data.pictures.MAX_PIXELS', {}), ('PIL.Image.MAX_IMAGE_PIXELS', 9),
    ('cifake.data.pictures.can_read', lambda kind: kind == 'JPEG'), ('PIL.features.version', lambda name: 'another')])
def test_how_files_are_read_follows_limits_decoders_and_extras(change, monkeypatch):
    _decoders.cache_clear()
    before = how_read()
    _decoders.cache_clear()
    monkeypatch.setattr(*change)
    assert how_read() != before
    _decoders.cache_clear()


def test_want_of_memory_is_no_verdict_about_a_file(tmp_path):
    file = tmp_path/'a.png'
    file.write_bytes(encoded(Image.new('L', (9, 9)), 'PNG'))
    with patch('cifake.data.pictures._prepared', side_effect=MemoryError):
        assert inspect_picture(file) == ('', 0, 0, 'This file cannot be read: This picture does not fit into memory.')
    assert inspect_picture(file)[1:] == (9, 9, '')


@pytest.mark.parametrize('head, said', [
    (b'<!DOCTYPE html>', 'a web page'), (b'%PDF-1.7', 'a PDF document'), (b'PK\3\4', 'a zip archive'),
    (b'\0\0\0\x18ftypisom\0\0\0\0isomiso2', 'a film'), (b'version https://git-lfs.github.com/spec/v1', 'Git LFS'),
    (b'\0\0\0\x0cjP  \r\n', 'JPEG 2000'), (b'\0\5\x16\7\0', 'macOS'), (b'{"a": 1}', 'JSON')])
def test_what_is_another_kind_of_file_is_named(head, said):
    with pytest.raises(ValueError, match='no picture of a known format') as caught: read_picture(head + bytes(99))
    assert said in str(caught.value)


@pytest.mark.parametrize('kind, head, said', [
    ('HEIF', b'\0\0\0\x1cftypheic\0\0\0\0mif1heic', r'cifake\[heic\]'),
    ('AVIF', b'\0\0\0\x1cftypavif', 'Pillow cannot read')])
def test_a_format_without_its_reader_says_what_to_install(kind, head, said, monkeypatch):
    monkeypatch.setattr('cifake.data.containers.can_read', lambda o: o != kind)
    with pytest.raises(ValueError, match=said): read_picture(head + bytes(99))


def test_a_file_that_is_cut_while_it_is_read_is_one_sentence(tmp_path):
    file = tmp_path/'a.jpg'
    file.write_bytes(encoded(Image.effect_noise((300, 300), 90), 'JPEG'))
    real = JpegImagePlugin.JpegImageFile

    def cut(*args, **kwargs):
        os.truncate(file, 900)
        return real(*args, **kwargs)
    with patch('cifake.data.pictures.JpegImagePlugin.JpegImageFile', cut), pytest.raises(ValueError, match='cut short'):
        read_picture(file)
