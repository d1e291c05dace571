"Images a second that loaders deliver, side by side in one run, and write the result to nbs/results/"
import time
from statistics import median
from fastcore.script import call_parse
from record import circumstances, save

def _rate(dl, seconds):
    "Images a second of one pass over `dl`, or of as much of it as fits in about `seconds`, after one batch to start it"
    batches = iter(dl)
    next(batches)
    start, n = time.perf_counter(), 0
    for images, _ in batches:
        n += len(images)
        if time.perf_counter() - start > seconds: break
    return n/(time.perf_counter() - start)

@call_parse
def main(
    bs:int=256, # Images in a batch
    seconds:int=20, # Longest time of one measurement
    repeats:int=3, # Of which the median is kept
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH. Loaders take turns, so that a busy hour slows all of them"
    about = circumstances()
    from fastai.vision.data import ImageDataLoaders
    from cifake.augment import cifake_tfms
    from cifake.data import find_cifake, read_items
    from cifake.loaders import ImageStore, cifake_dls, memory_dls
    root = find_cifake()
    read_items(root)
    start = time.perf_counter()
    ImageStore(root).file.unlink() # whatever is there: the next one decodes
    ImageStore(root)
    decoding = time.perf_counter() - start
    start = time.perf_counter()
    ImageStore(root)
    mapping = time.perf_counter() - start
    loaders = {'ImageDataLoaders.from_folder, its defaults': ImageDataLoaders.from_folder(root/'train', valid_pct=0.1, seed=42, bs=bs),
               'cifake_dls': cifake_dls(bs=bs), 'memory_dls': memory_dls(bs=bs),
               'cifake_dls, flip and shift': cifake_dls(bs=bs, batch_tfms=cifake_tfms(shift=2)),
               'memory_dls, flip and shift': memory_dls(bs=bs, batch_tfms=cifake_tfms(shift=2))}
    rates = {name:[] for name in loaders}
    for _ in range(repeats):
        for name,dls in loaders.items(): rates[name].append(round(_rate(dls.train, seconds)))
    middle = {name:median(o) for name,o in rates.items()}
    first, cifake, memory, *_ = middle.values()
    save('speed', dict(**about, bs=bs, decoding_seconds=round(decoding, 1), mapping_seconds=round(mapping, 1), images_per_second=middle,
                       all_measurements=rates, memory_over_from_folder=round(memory/first, 1), memory_over_cifake=round(memory/cifake, 1)))
