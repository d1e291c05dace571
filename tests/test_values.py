"One file, one picture: each kind of file gives the same pixels everywhere, or is refused everywhere in one sentence"
import io
import shutil
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cifake.data.containers import can_read
from cifake.data.dataset import read_items
from cifake.data.demo import demo_cifake
from cifake.data.items import training_items
from cifake.data.loaders import cifake_dls, memory_dls
from cifake.data.pictures import inspect_picture, read_picture, to_square
from cifake.data.values import TOO_DARK, UNKNOWN_WHITE
from cifake.explain.layers import image_batches
from cifake.explain.spectrum import as_picture
from cifake.measure.evaluate import LearnerPredictor
from cifake.measure.robustness import to_size
from cifake.serve.detector import load_detector, load_pretrained
from cifake.serve.sources import expand

pytestmark = pytest.mark.filterwarnings('ignore')


def encoded(image, kind, **kwargs):
    with io.BytesIO() as file:
        image.copy().save(file, kind, **kwargs)  # of one that no other encoder has left its settings in
        return file.getvalue()


def tiff(values, photometric, endian='<', number=1, extra=()):
    "An uncompressed TIFF of any layout, of which Pillow writes few; `number` is 1 for unsigned, 2 signed, 3 floats"
    height, width, *rest = values.shape
    n = rest[0] if rest else 1
    data = values.astype(values.dtype.newbyteorder(endian)).tobytes()
    bits = values.dtype.itemsize*8
    tags = {256: [width], 257: [height], 258: [bits]*n, 259: [1], 262: [photometric], 273: [0], 277: [n], 278: [height],
            279: [len(data)], 339: [number]*n}
    if extra: tags[338] = extra
    start = 8 + 2 + 12*len(tags) + 4
    entries, more = {}, b''
    for tag, content in sorted(tags.items()):
        packed = struct.pack(f'{endian}{len(content)}I', *content)
        if len(content) > 1: packed, more = struct.pack(f'{endian}I', start + len(more)), more + packed
        entries[tag] = struct.pack(f'{endian}HHI', tag, 4, len(content)), packed
    entries[273] = entries[273][0], struct.pack(f'{endian}I', start + len(more))
    head = b'II*\0' if endian == '<' else b'MM\0*'
    head += struct.pack(f'{endian}IH', 8, len(tags)) + b''.join(a + b for a, b in entries.values()) + bytes(4)
    return head + more + data


def png(depth, colours, rows, clear=b''):
    "A PNG of any depth; Pillow writes few"
    def chunk(name, content):
        return struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
    height = len(rows)
    width = len(rows[0])*8//(depth*{0: 1, 2: 3, 4: 2, 6: 4}[colours])
    data = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, depth, colours, 0, 0, 0))
    if clear: data += chunk(b'tRNS', clear)
    return data + chunk(b'IDAT', zlib.compress(b''.join(b'\0' + o for o in rows))) + chunk(b'IEND', b'')


def rows_of(values): return [o.astype('>u2').tobytes() for o in values]


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


GREY = np.linspace(0, 65535, 40*56).reshape(40, 56).astype(np.uint16)
DEEP = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], -1)
BYTES = (DEEP >> 8).astype(np.uint8)
RGB = Image.fromarray(BYTES)
RGBA = Image.fromarray(np.dstack([BYTES, BYTES[..., 1]]))
LONG = 'node, '*400_000


def with_text(**kwargs):
    info = PngImagePlugin.PngInfo()
    for name, compressed in kwargs.items(): info.add_itxt(name, LONG, zip=compressed)
    return dict(pnginfo=info)


def many_texts():
    info = PngImagePlugin.PngInfo()
    for i in range(30): info.add_text(f'part {i}', LONG)
    return dict(pnginfo=info)


@cache
def kinds():
    "Content of a file for each kind, by its name"
    grey_bytes, palette = Image.fromarray(BYTES[..., 0]), RGB.quantize(16)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    made = {
        'grey.jpg': encoded(grey_bytes, 'JPEG'), 'cmyk.jpg': encoded(RGB.convert('CMYK'), 'JPEG'),
        'ycck.jpg': encoded(RGB.convert('CMYK'), 'JPEG').replace(b'Adobe\0d\0\0\0\0\0', b'Adobe\0d\0\0\0\0\2'),
        'large.jpg': encoded(noise.resize((900, 700)), 'JPEG'),
        'profile.jpg': encoded(RGB, 'JPEG', icc_profile=bytes(200_000)),
        'comment.jpg': encoded(RGB, 'JPEG', comment=b'a'*60_000),
        'two.jpg': encoded(RGB, 'MPO', save_all=True, append_images=[noise.copy()]),
        'grey16.png': png(16, 0, rows_of(GREY)), 'dark16.png': png(16, 0, rows_of(GREY//200)),
        'rgb16.png': png(16, 2, rows_of(DEEP)), 'rgba16.png': png(16, 6, rows_of(np.dstack([DEEP, GREY]))),
        'la16.png': png(16, 4, rows_of(np.dstack([GREY, GREY[::-1]]))),
        'clear16.png': png(16, 0, rows_of(GREY//8000*8000), struct.pack('>H', 40_000)),
        'clear-rgb16.png': png(16, 2, rows_of(DEEP*0 + 40_000), struct.pack('>3H', *[40_000]*3)),
        'two-bits.png': png(2, 0, [bytes([0b00011011]*10)]*40, struct.pack('>H', 2)),
        'rgba.png': encoded(RGBA, 'PNG'), 'la.png': encoded(RGBA.convert('LA'), 'PNG'),
        'palette.png': encoded(palette, 'PNG'), 'clear.png': encoded(palette, 'PNG', transparency=3),
        'half-clear.png': encoded(palette, 'PNG', transparency=bytes(range(0, 160, 10))),
        'bit.png': encoded(RGB.convert('1'), 'PNG'), 'profile.png': encoded(RGB, 'PNG', icc_profile=bytes(3_000_000)),
        'text.png': encoded(RGB, 'PNG', **with_text(a=True, b=False)), 'texts.png': encoded(RGB, 'PNG', **many_texts()),
        'palette.gif': encoded(palette, 'GIF'), 'rgb.webp': encoded(RGB, 'WEBP'), 'rgba.webp': encoded(RGBA, 'WEBP'),
        'rgb.bmp': encoded(RGB, 'BMP'), 'rgb.avif': encoded(RGB, 'AVIF'),
        'grey16.tif': tiff(GREY, 1), 'big16.tif': tiff(GREY, 1, '>'), 'negative16.tif': tiff(GREY, 0),
        'lzw16.tif': encoded(Image.fromarray(GREY), 'TIFF', compression='tiff_lzw'),
        'dark16.tif': tiff(GREY//200, 1, '>'), 'rgb16.tif': tiff(DEEP, 2), 'big-rgb16.tif': tiff(DEEP, 2, '>'),
        'rgba16.tif': tiff(np.dstack([DEEP, GREY]), 2, extra=[2]), 'cmyk.tif': encoded(RGB.convert('CMYK'), 'TIFF'),
        'lab.tif': encoded(RGB.convert('LAB'), 'TIFF'), 'negative.tif': tiff(BYTES[..., 0], 0),
        'pages.tif': encoded(RGB, 'TIFF', save_all=True, append_images=[noise.copy()])}
    made |= {f'turned{i}.{suffix}': encoded(RGB, kind, exif=exif(i)) for i in range(1, 9)
             for suffix, kind in (('jpg', 'JPEG'), ('png', 'PNG'), ('tif', 'TIFF'), ('webp', 'WEBP'))}
    if can_read('HEIF'):
        from pillow_heif import register_heif_opener
        register_heif_opener()
        made['phone.heic'] = encoded(RGB, 'HEIF')
    return made


@cache
def refused():
    "Content of a file for each kind that is refused, and the sentence"
    floats = (GREY/65535).astype(np.float32)
    return {
        'float.tif': (tiff(floats, 1, number=3), UNKNOWN_WHITE),
        'big-float.tif': (tiff(floats, 1, '>', 3), UNKNOWN_WHITE),
        'rgb-float.tif': (tiff((DEEP/65535).astype(np.float32), 2, number=3), UNKNOWN_WHITE),
        'double.tif': (tiff(floats.astype(np.float64), 1, number=3), UNKNOWN_WHITE),
        'int32.tif': (tiff(GREY.astype(np.uint32), 1), UNKNOWN_WHITE),
        'signed16.tif': (tiff((GREY//2).astype(np.int16), 1, number=2), UNKNOWN_WHITE),
        'dim16.tif': (tiff(GREY//257, 1), TOO_DARK), 'dim-rgb16.tif': (tiff(DEEP//257, 2), TOO_DARK),
        'dim16.png': (png(16, 0, rows_of(GREY//257)), TOO_DARK),
        'dim-rgb16.png': (png(16, 2, rows_of(DEEP//257)), TOO_DARK)}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "A set with every kind among its training images"
    root = shutil.copytree(demo_cifake(n=20), tmp_path_factory.mktemp('kinds')/'set')
    for name, data in kinds().items(): (root/'train'/'REAL'/name).write_bytes(data)
    for name, (data, _) in refused().items(): (root/'train'/'REAL'/name).write_bytes(data)
    return root


@pytest.fixture(scope='module')
def detector(): return load_detector('fast')


@pytest.fixture(scope='module')
def learn(): return load_pretrained('fast', precision='float32')


@pytest.fixture(scope='module')
def trained_on(root):
    "What each loader gives of each file of the set"
    valid = {o.digest for o in training_items(root) if o.split == 'valid' and o.file.name not in kinds()}
    found = {}
    for name, dls in {'files': cifake_dls(root, stats=None, num_workers=0, valid=valid),
                      'memory': memory_dls(root, 32, stats=None, valid=valid)}.items():
        loader = dls.train.new(shuffle=False, drop_last=False)
        images = np.concatenate([(o[0].cpu()*255).round().byte().permute(0, 2, 3, 1).numpy() for o in loader])
        found[name] = {o.file.name: image for o, image in zip(dls.train.items, images, strict=True)}
    return found


@pytest.mark.parametrize('name', kinds())
def test_a_file_is_the_same_picture_everywhere(name, root, detector, learn, trained_on):
    file = root/'train'/'REAL'/name
    seen = detector.pixels_of(file)
    assert np.array_equal(trained_on['files'][name], seen) and np.array_equal(trained_on['memory'][name], seen)
    assert np.array_equal(to_size(file)[0], seen)
    for source in (str(file), file.read_bytes(), open(file, 'rb'), next(expand(str(file)))[1]):
        assert np.array_equal(detector.pixels_of(source), seen)
    assert np.array_equal(np.asarray(to_square(as_picture(file, 32))), seen)
    batch = next(image_batches(learn, [file]))[1]
    assert (batch - next(image_batches(learn, [seen]))[1]).abs().max() < 1e-6


@pytest.mark.parametrize('name', ['grey16.png', 'rgba.png', 'turned6.jpg', 'cmyk.jpg', 'large.jpg', 'big16.tif'])
def test_a_learner_judges_what_the_detector_sees(name, root, detector, learn):
    file = root/'train'/'REAL'/name
    seen = detector.pixels_of(file)
    with learn.no_bar(): found = [float(learn.predict(o)[2][0]) for o in (file, seen)]
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    file_and_pixels = [LearnerPredictor(learn).p_fake([o])[0] for o in (file, seen)]
    assert file_and_pixels[0] == pytest.approx(file_and_pixels[1], abs=1e-6)


@pytest.mark.parametrize('name', refused())
def test_a_file_of_unknown_values_is_refused_everywhere_alike(name, root, detector, learn, trained_on):
    file, sentence = root/'train'/'REAL'/name, refused()[name][1]
    assert inspect_picture(file)[-1] == sentence
    assert read_items(root).set_index('path').error[f'train/REAL/{name}'] == sentence
    assert name not in trained_on['files'] and name not in trained_on['memory']
    assert detector.predict([file, file.read_bytes()]).error.tolist() == [sentence]*2
    for read in (detector.pixels_of, as_picture, to_size, lambda o: learn.dls.test_dl([o], num_workers=0).one_batch()):
        with pytest.raises(ValueError) as caught: read(file)
        assert sentence in str(caught.value)


EXACT = {
    'grey16.png': np.dstack([GREY >> 8]*3), 'dark16.png': np.dstack([GREY//200 >> 8]*3), 'rgb16.png': BYTES,
    'grey16.tif': np.dstack([GREY >> 8]*3), 'big16.tif': np.dstack([GREY >> 8]*3), 'rgb16.tif': BYTES,
    'big-rgb16.tif': BYTES, 'lzw16.tif': np.dstack([GREY >> 8]*3), 'negative16.tif': 255 - np.dstack([GREY >> 8]*3),
    'negative.tif': 255 - np.dstack([BYTES[..., 0]]*3), 'clear-rgb16.png': np.full((40, 56, 3), 255),
    'profile.png': BYTES, 'text.png': BYTES, 'texts.png': BYTES, 'rgb.bmp': BYTES, 'pages.tif': BYTES}


@pytest.mark.parametrize('name', EXACT)
def test_pixels_are_those_that_the_format_means(name):
    assert np.array_equal(np.asarray(read_picture(kinds()[name]).image), EXACT[name])


def test_transparent_values_of_any_depth_become_white():
    grey = np.asarray(read_picture(kinds()['clear16.png']).image)[..., 0]
    assert (grey[GREY//8000 == 5] == 255).all() and (grey[GREY//8000 == 4] == 32_000 >> 8).all()
    assert np.asarray(read_picture(kinds()['two-bits.png']).image)[0, :4, 0].tolist() == [0, 85, 255, 255]


@pytest.mark.parametrize('name', ['two.jpg', 'palette.gif', 'rgb.webp', 'text.png', 'comment.jpg'])
def test_what_is_no_animation_is_not_called_one(name):
    assert not read_picture(kinds()[name]).notes


def test_a_phone_picture_with_a_second_one_in_it_is_a_jpeg():
    assert read_picture(kinds()['two.jpg']).format == 'JPEG'


@pytest.mark.parametrize('kind, note', [('GIF', 'animation'), ('PNG', 'animation'), ('WEBP', 'animation'),
                                        ('TIFF', 'page of several')])
def test_several_pictures_in_a_file_are_named_for_what_they_are(kind, note):
    frames = RGB.convert('P'), RGB.rotate(180).convert('P')
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert note in read_picture(data).notes[0]
