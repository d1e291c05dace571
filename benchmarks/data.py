"Time reading the items of CIFAKE and importing the library, and write the result to nbs/results/"
import os, subprocess, sys, tempfile, time
from pathlib import Path
from fastcore.script import call_parse
from record import circumstances, save

def _import_seconds(module, repeats=5):
    "Shortest of `repeats` times that a fresh interpreter takes to import `module`"
    code = f'import time; t = time.perf_counter(); import {module}; print(time.perf_counter()-t)'
    run = lambda: float(subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True).stdout)
    return min(run() for _ in range(repeats))

@call_parse
def main():
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH. It is linked into a temporary folder, so its cache is not used"
    from cifake.data import find_cifake, read_items
    about = circumstances()
    with tempfile.TemporaryDirectory() as work:
        root = find_cifake()
        for split in ('train', 'test'): os.symlink(root/split, Path(work)/split)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            n = len(read_items(work))
            times.append(round(time.perf_counter()-start, 2))
    fastai, both = _import_seconds('fastai.vision.all'), _import_seconds('fastai.vision.all, cifake.all')
    save('data', dict(**about, files=n, first_seconds=times[0], cached_seconds=times[1],
                      import_fastai_seconds=round(fastai, 2), import_both_seconds=round(both, 2)))
