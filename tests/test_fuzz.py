"Damaged and huge files, and random folders; `benchmarks/fuzz.py` and `tests/fuzz_folders.py` go on for longer"
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from check import ROOT
from conftest import run


def test_damaged_files_give_rows(tmp_path):
    run(sys.executable, '-W', 'ignore', ROOT/'tests'/'fuzz.py', 400, tmp_path/'result.json', cwd=tmp_path)
    found = json.loads((tmp_path/'result.json').read_text())
    assert found['files'] >= 400 and 40 < found['answers']['a verdict'] < found['files'] - 40  # both happen, often
    assert found['slowest_seconds'] < 5
    assert found['megabytes_above_start'] < 300


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes and names that are not UTF-8')
def test_random_folders_end_in_tables_and_sentences(tmp_path):
    run(sys.executable, '-W', 'ignore', ROOT/'tests'/'fuzz_folders.py', 40, tmp_path/'result.json', cwd=tmp_path)
    found = json.loads((tmp_path/'result.json').read_text())['answers']
    assert found['a table'] > 20 and found['a verdict'] > 100 and found['a row with an error'] > 20


READ = """import sys
from cifake.data.pictures import read_picture
peak = lambda: int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/1e3
before = peak()
try: size = read_picture(sys.argv[1]).image.size
except ValueError as e: size = str(e)
print(round(peak() - before), size)"""


# `ru_maxrss` would not do: a new process begins with its parent's.
# What each decoder takes most memory for, at the largest that is read: coefficients of every component, one strip as
# large as the picture, a palette with transparency
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='needs /proc')
@pytest.mark.parametrize('kind,mode,side,options', [
    ('JPEG', 'RGB', 5773, dict(progressive=True, subsampling=0)),
    ('JPEG', 'CMYK', 4999, dict(progressive=True, subsampling=0)),
    ('JPEG', 'RGB', 7071, dict(progressive=True, subsampling=2)),
    ('PNG', 'P', 6324, dict(transparency=3)),
    ('PNG', 'LA', 6324, {}),
    ('PNG', 'I;16', 6324, {}),
    ('GIF', 'P', 6324, {}),
    ('BMP', 'P', 6324, {}),
    ('TIFF', 'RGBA', 4472, dict(compression='tiff_lzw', strip_size=10**9)),
    ('WEBP', 'RGB', 3464, {}),
    ('AVIF', 'RGB', 3872, dict(speed=10))])
def test_memory_for_the_largest_pictures(kind, mode, side, options, tmp_path):
    image = Image.linear_gradient('L').resize((side, side)).convert(mode)
    if mode == 'I;16': image = Image.fromarray(np.asarray(image)*257)  # 8-bit values in 16 bits are refused
    image.save(tmp_path/'picture', kind, **options)
    megabytes, _, said = run(sys.executable, '-c', READ, tmp_path/'picture', cwd=tmp_path).partition(' ')
    assert said.startswith('(') and 5 < int(megabytes) < 250
    Image.new(mode, (side + 3, side + 3)).save(tmp_path/'larger', kind, **options)
    assert 'million that are read at most' in run(sys.executable, '-c', READ, tmp_path/'larger', cwd=tmp_path)
