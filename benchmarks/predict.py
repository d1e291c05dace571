"Time the ways to judge a folder of pictures with the default detector, and write nbs/results/predict.json"
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastcore.script import call_parse

from record import circumstances, save


def _rates(ways, files, turns):
    "Pictures a second of each way, in turns, so that a busy moment falls on all of them"
    found = {o: [] for o in ways}
    for _ in range(turns):
        for name, (run, n) in ways.items():
            start = time.perf_counter()
            judged = run(files[:n])
            assert judged == n, (name, judged, n)
            found[name].append(round(n/(time.perf_counter() - start), 1))
    return found


def _rate(work, seconds=5):
    "Calls of `work` a second, after one to start it"
    work()
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        n += 1
    return n/(time.perf_counter() - start)


def _limit(detector, bs=64):
    "What a product of two matrices reaches on this processor, and the network alone on pixels in memory"
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    a = torch.randn(2048, 2048)
    pixels = np.random.default_rng(0).integers(0, 255, (bs, detector.size, detector.size, 3), dtype=np.uint8)
    with FlopCounterMode(display=False) as counter: detector.p_fake(pixels)
    gflop = counter.get_total_flops()/bs/1e9
    peak = _rate(lambda: a@a)*2*2048**3/1e9
    return {
        'GFLOP for a picture': round(gflop, 4),
        'GFLOP/s of a matrix product': round(peak, 1),
        'pictures a second at that rate': round(peak/gflop),
        'pictures a second of the network alone': round(_rate(lambda: detector.p_fake(pixels))*bs)}


# `ru_maxrss` would not do: it begins with that of the process that started this one
PEAK = """import sys
from cifake.serve.detector import load_detector, pictures_in
detector, n = load_detector(flip_average=False), 0
def peak(): return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/1e3
def some(most):
    for i,o in zip(range(most), pictures_in(sys.argv[1])): yield o
for _ in detector.stream(some(600)): pass
before = peak()
for rows in detector.stream(some(int(sys.argv[2]))): n += len(rows)
print(n, peak() - before)"""


def _grown(folder, most):
    "How many of `most` pictures were judged, and the megabytes that it took above what the first 600 had taken"
    command = [sys.executable, '-W', 'ignore', '-c', PEAK, str(folder), str(most)]
    judged, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(judged) == most
    return judged, float(grown)


def _command_seconds(file):
    "Seconds of `cifake-predict` on one picture"
    start = time.perf_counter()
    subprocess.run([Path(sys.executable).with_name('cifake-predict'), file], capture_output=True, check=True)
    return round(time.perf_counter() - start, 2)


def _ways(folder, n, work):
    "Each way as a function that judges files and returns how many, and the number of files for it"
    from cifake.serve.detector import export_onnx, load_detector
    from cifake.training.learner import load_pretrained
    once, twice = load_detector(flip_average=False), load_detector()
    onnx = load_detector(export_onnx(once, work/'once'))
    learn, plain = load_pretrained(), load_pretrained()
    plain.remove_cb(plain.flip_average)

    def folder_with(detector): return lambda files: len(detector.predict_folder(folder))

    def preds_with(learn):
        def preds(files):
            with learn.no_bar(), learn.no_logging():
                return len(learn.get_preds(dl=learn.dls.test_dl(files, bs=256))[0])
        return preds

    def loop(files):
        with learn.no_bar(), learn.no_logging(): return sum(len(learn.predict(o)[2]) == 2 for o in files)

    return once, {
        'predict_folder, one view': (folder_with(once), n),
        'predict_folder on onnxruntime, one view': (folder_with(onnx), n),
        'predict_folder, with the mirror image': (folder_with(twice), n),
        'test_dl and get_preds, one view': (preds_with(plain), n),
        'test_dl and get_preds, with the mirror image': (preds_with(learn), n),
        'learn.predict, one by one': (loop, min(200, n))}


@call_parse
def main(
    n: int = 10000,  # Pictures in the folder
    turns: int = 3,  # Times each way is run
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH. The pictures are the first of its test"
    about = circumstances()
    from cifake.data.find import find_cifake
    files = sorted((find_cifake()/'test').rglob('*.jpg'))[:n]
    values = dict(**about, pictures=len(files))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)/'pictures'
        folder.mkdir()
        for i, o in enumerate(files): shutil.copy(o, folder/f'{i:05}.jpg')
        files = sorted(folder.iterdir())
        detector, ways = _ways(folder, len(files), Path(temporary))
        values['limit, one view'] = _limit(detector)
        values['pictures a second'] = _rates(ways, files, turns)
        some = [_grown(folder, most) for most in (2*len(files)//10, len(files))]
        values['megabytes above the first 600'] = dict(some)
        values['seconds of cifake-predict on one picture'] = [_command_seconds(files[0]) for _ in range(turns)]
    save('predict', values)
    for k, v in values.items(): print(k, v)
