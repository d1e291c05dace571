"""Mutated picture files against `Detector.predict`, in a process of their own

    python tests/fuzz.py NUMBER RESULT.json

Files of every format are cut, spliced and overwritten; each must give one row, with a verdict or with an error.
"""
import io
import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image, features

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
    ]
    if features.check('avif'): made.append((rgb, 'AVIF', {}))
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
    @given(st.sampled_from(FILES), st.lists(change, min_size=1, max_size=4))
    def attack(data, changes):
        nonlocal slowest
        for o in changes: data = changed(data, *o)
        start = time.process_time()  # of this process alone: the machine may be busy
        table = detector.predict(data)
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
