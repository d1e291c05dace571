"Time the ways to judge a folder of pictures with the default detector, and write nbs/results/predict.json"
import shutil, subprocess, sys, tempfile, time
from pathlib import Path
from fastcore.script import call_parse
from record import circumstances, save

def _rates(ways, files, turns):
    "Pictures a second of each way, in turns, so that a busy moment falls on all of them"
    found = {o: [] for o in ways}
    for _ in range(turns):
        for name,(run,n) in ways.items():
            start = time.perf_counter()
            judged = run(files[:n])
            assert judged == n, (name, judged, n)
            found[name].append(round(n/(time.perf_counter() - start), 1))
    return found

def _limit(detector, bs=64, seconds=5):
    "What a product of two matrices reaches on this processor, and the network alone on pixels in memory"
    import numpy as np, torch
    from torch.utils.flop_counter import FlopCounterMode
    def rate(work):
        work()
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < seconds: n += bool(work() is not None)
        return n/(time.perf_counter() - start)
    a, pixels = torch.randn(2048, 2048), np.random.default_rng(0).integers(0, 255, (bs, detector.size, detector.size, 3), dtype=np.uint8)
    with FlopCounterMode(display=False) as counter: detector.p_fake(pixels)
    gflop, peak = counter.get_total_flops()/bs/1e9, rate(lambda: a@a)*2*2048**3/1e9
    return {'GFLOP for a picture': round(gflop, 4), 'GFLOP/s of a matrix product': round(peak, 1), 'pictures a second at that rate': round(peak/gflop), 'pictures a second of the network alone': round(rate(lambda: detector.p_fake(pixels))*bs)}

PEAK = """import sys
from cifake.detector import load_detector, pictures_in
detector, n = load_detector(flip_average=False), 0
def peak(): return int(next(o for o in open('/proc/self/status') if o.startswith('VmHWM')).split()[1])/1e3 # ru_maxrss begins with that of the process that started this one
def some(most):
    for i,o in zip(range(most), pictures_in(sys.argv[1])): yield o
for _ in detector.stream(some(600)): pass
before = peak()
for rows in detector.stream(some(int(sys.argv[2]))): n += len(rows)
print(n, peak() - before)"""

@call_parse
def main(
    n:int=10000, # Pictures in the folder
    turns:int=3, # Times each way is run
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH. The pictures are the first of its test"
    about = circumstances()
    from cifake.data import find_cifake
    from cifake.detector import export_onnx, load_detector
    from cifake.learner import load_pretrained
    files = sorted((find_cifake()/'test').rglob('*.jpg'))[:n]
    values = dict(**about, pictures=len(files))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)/'pictures'
        folder.mkdir()
        for i,o in enumerate(files): shutil.copy(o, folder/f'{i:05}.jpg')
        files = sorted(folder.iterdir())
        once, twice, learn = load_detector(flip_average=False), load_detector(), load_pretrained()
        onnx = load_detector(export_onnx(once, Path(temporary)/'once'))
        plain = load_pretrained()
        plain.remove_cb(plain.flip_average)
        def preds(learn, files):
            with learn.no_bar(), learn.no_logging(): return len(learn.get_preds(dl=learn.dls.test_dl(files, bs=256))[0])
        def loop(files):
            with learn.no_bar(), learn.no_logging(): return sum(len(learn.predict(o)[2]) == 2 for o in files)
        ways = {'predict_folder, one view': (lambda o: len(once.predict_folder(folder)), len(files)), 'predict_folder on onnxruntime, one view': (lambda o: len(onnx.predict_folder(folder)), len(files)), 'predict_folder, with the mirror image': (lambda o: len(twice.predict_folder(folder)), len(files)),
                'test_dl and get_preds, one view': (lambda o: preds(plain, o), len(files)), 'test_dl and get_preds, with the mirror image': (lambda o: preds(learn, o), len(files)), 'learn.predict, one by one': (loop, min(200, len(files)))}
        values['limit, one view'] = _limit(once)
        values['pictures a second'] = _rates(ways, files, turns)
        values['megabytes above the first 600'] = {}
        for most in (2*len(files)//10, len(files)):
            judged, grown = subprocess.run([sys.executable, '-W', 'ignore', '-c', PEAK, str(folder), str(most)], capture_output=True, text=True, check=True).stdout.split()
            assert int(judged) == most
            values['megabytes above the first 600'][judged] = float(grown)
        values['seconds of cifake-predict on one picture'] = []
        for _ in range(turns):
            start = time.perf_counter()
            subprocess.run([Path(sys.executable).with_name('cifake-predict'), files[0]], capture_output=True, check=True)
            values['seconds of cifake-predict on one picture'].append(round(time.perf_counter() - start, 2))
    save('predict', values)
    for k,v in values.items(): print(k, v)
