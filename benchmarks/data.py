"Time reading the items of CIFAKE and importing the library, and write the result to nbs/results/"
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from fastcore.script import call_parse

from record import circumstances, save


def _import_seconds(repeats=5):
    "Median seconds for fastai, and for this library after it, over `repeats` fresh interpreters"
    code = ('import time; a = time.perf_counter(); import fastai.vision.all; b = time.perf_counter(); '
            'import cifake.all; print(b-a, time.perf_counter()-b)')
    command = [sys.executable, '-W', 'ignore', '-c', code]
    times = []
    for _ in range(repeats):
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        times.append([float(o) for o in said.split()])
    return [round(median(o), 2) for o in zip(*times, strict=True)]


@call_parse
def main():
    """The dataset is found as `find_cifake` finds it: set CIFAKE_PATH

    It is linked into a temporary folder, so its cache is not used.
    """
    from cifake.data.dataset import read_items
    from cifake.data.find import find_cifake
    about = circumstances()
    with tempfile.TemporaryDirectory() as work:
        root = find_cifake()
        for split in ('train', 'test'): os.symlink(root/split, Path(work)/split)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            n = len(read_items(work))
            times.append(round(time.perf_counter()-start, 2))
    fastai, cifake = _import_seconds()
    save('data', dict(**about, files=n, first_seconds=times[0], cached_seconds=times[1],
                      import_fastai_seconds=fastai, import_cifake_after_it_seconds=cifake))
