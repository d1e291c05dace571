"""Mutated picture files against `Detector.predict`, in a process of their own

    python tests/fuzz.py NUMBER RESULT.json

Files of every format and depth, with metadata beyond Pillow's limits, with several pictures in them, and in every form
in which they may be given, are cut, spliced and overwritten; each must give one row, with a verdict or with an error.
"""
import base64
import io
import json
import sys
import time
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import psutil
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin, features

from cifake.data.containers import can_read
from cifake.serve.detector import load_detector


def files():
    "One small file, or more, of each format and mode"
    values = np.random.default_rng(0).integers(0, 255, (24, 40, 4), dtype=np.uint8)
    rgba = Image.fromarray(values)
    rgb, grey, palette = rgba.convert('RGB'), rgba.convert('L'), rgba.convert('P')
    deep = Image.fromarray(values[..., 0].astype(np.uint16)*257)
    exif = Image.Exif()
    exif[0x112] = 6
    frames = dict(save_all=True, append_images=[grey.convert('P')]*3)
    long = 'node, '*300_000
    settings, packed = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    settings.add_text('parameters', long, zip=True)
    packed.add_itxt('workflow', long, zip=True)
    made = [
        (rgb, 'JPEG', dict(exif=exif)),
        (rgb, 'JPEG', dict(progressive=True)),
        (grey, 'JPEG', {}),
        (rgb.convert('CMYK'), 'JPEG', {}),
        (rgba, 'PNG', {}),
        (palette, 'PNG', dict(transparency=3)),
        (deep, 'PNG', {}),
        (rgb, 'PNG', dict(compress_level=0)),
        (rgba, 'WEBP', {}),
        (rgb, 'WEBP', dict(lossless=True)),
        (palette, 'GIF', {}),
        (palette, 'GIF', frames),
        (rgb, 'BMP', {}),
        (palette, 'BMP', {}),
        (rgb, 'TIFF', {}),
        (rgb, 'TIFF', dict(compression='tiff_lzw')),
        (rgb, 'TIFF', dict(compression='tiff_deflate')),
        (deep, 'TIFF', {}),
        (rgb, 'MPO', dict(save_all=True, append_images=[rgb])),
        (rgb, 'JPEG', dict(icc_profile=bytes(200_000), comment=b'c'*9000)),
        (rgb, 'PNG', dict(pnginfo=settings)),
        (grey, 'PNG', dict(pnginfo=packed)),
        (rgb, 'PNG', dict(icc_profile=bytes(2_000_000))),
        (rgba.convert('LA'), 'PNG', dict(exif=exif)),
        (grey.convert('1'), 'PNG', {}),
        (rgb, 'PNG', dict(save_all=True, append_images=[rgb.rotate(180)])),
        (rgb, 'WEBP', dict(save_all=True, append_images=[rgb.rotate(180)])),
        (Image.fromarray(values[..., 0].astype('>u2')*257), 'TIFF', {}),
        (Image.fromarray(values[..., 0].astype(np.float32)), 'TIFF', {}),
        (rgb.convert('CMYK'), 'TIFF', {}),
        (rgb.convert('LAB'), 'TIFF', {}),
        (palette, 'TIFF', dict(save_all=True, append_images=[palette])),
    ]
    if features.check('avif'): made.append((rgb, 'AVIF', {}))
    if can_read('HEIF'):
        from pillow_heif import register_heif_opener
        register_heif_opener()
        made.append((rgb, 'HEIF', {}))
    data = []
    for image, format, options in made:
        with io.BytesIO() as file:
            image.save(file, format, **options)
            data.append(file.getvalue())
    return data


FILES = files()
place = st.floats(0, 1, exclude_max=True)
numbers = [b'\xff'*4, b'\0'*4, b'\x7f\xff\xff\xff', b'\0\0\xff\xff']
marks = [b'\xff\xd8\xff\xe0', b'IHDR', b'IDAT', b'IEND', b'RIFF', b'II*\0']
small = st.binary(min_size=1, max_size=8) | st.sampled_from(numbers + marks)
FORMS = ['bytes', 'bytes', 'open file', 'view', 'base64', 'address']
ways = ['write', 'write', 'write', 'write at the start', 'cut', 'insert', 'remove', 'repeat', 'splice']
change = st.tuples(st.sampled_from(ways), place, place, small, st.sampled_from(FILES))


def changed(data, how, where, far, text, other):
    "`data` after one change"
    i, j = sorted((int(where*len(data)), int(far*len(data))))
    if how == 'write': return data[:i] + text + data[i+len(text):]
    if how == 'write at the start': return changed(data[:64], 'write', where, far, text, other) + data[64:]
    if how == 'cut': return data[:i]
    if how == 'insert': return data[:i] + text + data[i:]
    if how == 'remove': return data[:i] + data[j:]
    if how == 'repeat': return data[:j] + data[i:]
    return data[:i] + other[int(far*len(other)):]


def given(data, form):
    "`data` in one of the forms in which a file may be given"
    if form == 'open file': return io.BytesIO(data)
    if form == 'view': return memoryview(data)
    text = base64.b64encode(data).decode()
    if form == 'base64': return text
    return f'data:image/png;base64,{text}' if form == 'address' else data


def peak():
    "Largest resident memory of this process so far, in bytes; `ru_maxrss` begins with that of its parent"
    line = next(o for o in open('/proc/self/status') if o.startswith('VmHWM'))
    return int(line.split()[1])*1024


def main(number, result):
    detector, seen, slowest = load_detector(), Counter(), 0
    process = psutil.Process()
    before = process.memory_info().rss

    @seed(0)
    @settings(max_examples=number, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @hypothesis.given(st.sampled_from(FILES), st.lists(change, min_size=1, max_size=4), st.sampled_from(FORMS))
    def attack(data, changes, form):
        nonlocal slowest
        for o in changes: data = changed(data, *o)
        start = time.process_time()  # of this process alone: the machine may be busy
        table = detector.predict(given(data, form))
        slowest = max(slowest, time.process_time() - start)
        assert len(table) == 1
        row = table.iloc[0]
        judged = row.verdict in ('FAKE', 'REAL', 'unsure') and 0 <= row.p_fake <= 1
        assert judged != bool(row.error), (row.to_dict(), data)
        seen['a verdict' if not row.error else row.error.partition(' (')[0][:60]] += 1

    attack()
    grown = round((peak() - before)/1e6, 1)
    values = dict(files=sum(seen.values()), slowest_seconds=round(slowest, 3), megabytes_above_start=grown,
                  answers=dict(seen.most_common()))
    Path(result).write_text(json.dumps(values, indent=1) + '\n')


if __name__ == '__main__': main(int(sys.argv[1]), sys.argv[2])
