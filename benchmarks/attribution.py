"Measure maps of the networks in the box on validation images; writes nbs/results/attribution.json, also in the package"
import json
import re
import shutil
import time
from functools import partial
from pathlib import Path

import numpy as np
from fastcore.script import call_parse

from record import RESULTS, circumstances, rows_of, save


def _save(values):
    "Write the results, each list of numbers on one line"
    save('attribution', values)
    file = RESULTS/'attribution.json'
    numbers = re.compile(r'\[\s+(-?[\d.][^\[\]{}"]*?)\s+\]')
    file.write_text(numbers.sub(lambda o: '[' + re.sub(r'\s+', ' ', o[1]) + ']', file.read_text()))


def _mean(values):
    "Mean and standard error of each column, the number of images, and of those where one of the maps is blank"
    counts = values.count()
    measured = counts['spearman' if 'spearman' in counts else 'border']
    means = {k: [float(values[k].mean()), float(values[k].std()/counts[k]**0.5)] for k in values}
    return {'images': len(values), 'blank': int(len(values) - measured), **means}


def _by(values, groups):
    "`_mean` of each named selection of rows that has any"
    return {name: _mean(values[chosen]) for name, chosen in groups.items() if chosen.any()}


def _over_chance(a, b):
    "`overlap` with what each measure has over shuffled maps, image by image"
    from cifake.explain.faithfulness import overlap
    table = overlap(a, b, shuffles=5 if len(a) > 1000 else 100)  # thousands of images average out by themselves
    return table.assign(**{f'{o}_over': table[o] - table[f'{o}_shuffled'] for o in ('iou', 'spearman', 'ssim')})


def _overlaps(a, b, parts):
    "`_mean` of `_over_chance` of each named selection of images that has more than one"
    return {name: _mean(_over_chance(a[chosen], b[chosen])) for name, chosen in parts.items() if chosen.sum() > 1}


def _speed(make):
    "Seconds of three calls"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        make()
        times.append(round(time.perf_counter() - start, 2))
    return times


def _drawn(table):
    "Mean curves and their standard errors, by kind of map"
    def rounded(column): return column.astype(float).round(4).tolist()
    found = {}
    for name, part in table.groupby('maps', sort=False):
        found[name] = {}
        for curve, o in part.groupby('curve'):
            found[name][curve] = rounded(o['mean'])
            found[name][f'{curve}_se'] = rounded(o.error)
    return found


def _paired(learn, items, a, b):
    "Mean and standard error of what maps of kind `a` score over those of kind `b`, image by image"
    from cifake.explain.faithfulness import map_scores
    gap = map_scores(learn, items, a(learn, items)) - map_scores(learn, items, b(learn, items))
    return {k: [float(gap[k].mean()), float(gap[k].sem())] for k in gap}


def _kinds():
    "The ways to make maps of a convolutional network, and those of a transformer"
    from cifake.explain.maps import CAM_METHODS, attention_maps, cam_maps
    stages = {'4x4': '0.stages.2', '16x16': '0.stem'}
    convolutional = {f'{o}, 8x8': partial(cam_maps, method=o) for o in CAM_METHODS}
    for name, layer in stages.items():
        for method in ('gradcam', 'hirescam'):
            convolutional[f'{method}, {name}'] = partial(cam_maps, method=method, layer=layer)
    attention = {o: partial(attention_maps, method=o) for o in ('last', 'rollout', 'gradient_rollout')}
    return convolutional, {**attention, 'gradcam': cam_maps, 'hirescam': partial(cam_maps, method='hirescam')}


def _believable(nets, items, labels, n):
    "How long maps take, and whether to believe them: the table of faithfulness and its curves, on `n` images"
    from cifake.data.core import LABELS
    from cifake.explain.faithfulness import faithfulness, mean_curves
    from cifake.explain.maps import attention_maps, cam_maps
    cnn, transformer = nets
    first = items[:1000]
    seconds = {
        f'gradcam, {cnn}': _speed(lambda: cam_maps(nets[cnn], first)),
        f'rollout, {transformer}': _speed(lambda: attention_maps(nets[transformer], first))}

    rng = np.random.default_rng(0)
    drawn = {o: [items[i] for i in rng.permutation(np.flatnonzero(labels == o))[:n//2]] for o in LABELS}
    kinds = dict(zip(nets, _kinds(), strict=True))
    shown = {
        cnn: ('gradcam, 8x8', 'gradcam++, 8x8', 'gradcam, 4x4', 'hirescam, 16x16'),
        transformer: ('rollout', 'gradient_rollout', 'gradcam')}
    rows, lines = [], {}
    for name, learn in nets.items():
        for label in LABELS:
            table = rows_of(faithfulness(learn, drawn[label], kinds[name]))
            rows += [dict(network=name, label=label, **row) for row in table]
    for name, learn in nets.items():
        some = {o: kinds[name][o] for o in shown[name]}
        lines[name] = {label: _drawn(mean_curves(learn, drawn[label], some)) for label in LABELS}
    fine, coarse = (kinds[cnn][f'gradcam, {o}'] for o in ('4x4', '8x8'))
    gaps = {label: _paired(nets[cnn], drawn[label], fine, coarse) for label in LABELS}
    return {'seconds of 1,000 maps': seconds, 'faithfulness': rows, 'curves': lines, '4x4 less 8x8': gaps}


def _maps(nets, items):
    "The maps that are compared, by network and kind"
    from cifake.explain.maps import attention_maps, cam_maps
    cnn, transformer = nets
    return {
        (cnn, 'gradcam'): cam_maps(nets[cnn], items),
        (transformer, 'rollout'): attention_maps(nets[transformer], items),
        (transformer, 'gradcam'): cam_maps(nets[transformer], items),
        (transformer, 'gradient_rollout'): attention_maps(nets[transformer], items, 'gradient_rollout')}


def _agreement(nets, items, maps, labels, right):
    "Agreement of the maps of both networks, by label and by who is right"
    from cifake.data.core import LABELS
    from cifake.explain.maps import attention_maps, cam_maps
    cnn, transformer = nets
    outcomes = {
        'both right': (1, 1), f'only {cnn} wrong': (0, 1), f'only {transformer} wrong': (1, 0), 'both wrong': (0, 0)}
    parts = {}
    for label in LABELS:
        for name, (a, b) in outcomes.items():
            parts[f'{label}, {name}'] = (labels == label) & (right[cnn] == a) & (right[transformer] == b)
    own, found = maps[cnn, 'gradcam'], {}
    for (net, kind), other in maps.items():
        if net == transformer: found[f'gradcam of {cnn}, {kind} of {transformer}'] = _overlaps(own, other, parts)
    fake = cam_maps(nets[cnn], items, label='FAKE')  # one question to both, where they would answer differently
    others = {
        'gradcam': cam_maps(nets[transformer], items, label='FAKE'),
        'gradient_rollout': attention_maps(nets[transformer], items, 'gradient_rollout', 'FAKE')}
    for kind, other in others.items():
        found[f'gradcam of {cnn}, {kind} of {transformer}, both for FAKE'] = _overlaps(fake, other, parts)
    return found


def _places(maps, items, labels):
    "Where maps look, and the mean map of each label"
    from cifake.data.core import LABELS
    from cifake.explain.faithfulness import where
    by_label = {label: labels == label for label in LABELS}
    looks, means = {}, {}
    for (net, kind), o in maps.items():
        name = f'{kind} of {net}'
        looks[name] = _by(where(items, o), by_label)
        means[name] = {k: o[chosen].mean(0).astype(float).round(3).tolist() for k, chosen in by_label.items()}
    return {'where': looks, 'mean maps': means}


def _spectrum(train):
    "The mean power spectrum of each label"
    from cifake.explain.spectrum import mean_spectrum
    spectrum = mean_spectrum(train)
    return dict(images=len(train), radial=rows_of(spectrum.radial.set_index('frequency')),
                mean={k: o.round(4).tolist() for k, o in spectrum.mean.items()})


@call_parse
def main(
    cnn: str = 'fast',  # Convolutional network of the box
    transformer: str = 'vit',  # Vision transformer of the box
    n: int = 400,  # Images for the table of faithfulness, half of each label
    limit: int = 0,  # Images for everything else, for a trial; 0 takes all of validation
    overlap_only: bool = False,  # Measure the agreement of maps anew, and keep the rest as it was measured before
):
    """The dataset is found as `find_cifake` finds it: set CIFAKE_PATH

    Both networks were trained with the same seed, so their validation images are the same.
    """
    about = circumstances()
    from cifake.data.core import LABELS
    from cifake.data.find import find_cifake
    from cifake.explain.interpret import CifakeInterpretation
    from cifake.explain.maps import default_layer
    from cifake.training.learner import load_pretrained
    nets = {o: load_pretrained(o, path=find_cifake()) for o in (cnn, transformer)}
    items = list(nets[cnn].dls.valid.items)
    assert [o.digest for o in items] == [o.digest for o in nets[transformer].dls.valid.items]
    seen = {k: CifakeInterpretation.from_learner(o) for k, o in nets.items()}
    some = np.arange(len(items)) if not limit else np.random.default_rng(0).permutation(len(items))[:limit]
    items = [items[i] for i in some]
    labels = np.array([o.label for o in items])
    right = {k: (o.table.label == o.table.called).to_numpy()[some] for k, o in seen.items()}

    if overlap_only: values = dict(json.loads((RESULTS/'attribution.json').read_text()), overlap_measured=about)
    else:
        differ = {k: {str(o): seen[k].objects_differ(o) for o in (None, *LABELS)} for k in nets}
        values = dict(**about, networks=[cnn, transformer], images=len(items),
                      layers={k: default_layer(o) for k, o in nets.items()}, objects_differ=differ)
        values |= _believable(nets, items, labels, n)
        _save(values)

    maps = _maps(nets, items)
    values['overlap'] = _agreement(nets, items, maps, labels, right)
    if not overlap_only:
        values |= _places(maps, items, labels)
        train = nets[cnn].dls.train.items
        values['spectrum'] = _spectrum(train[::100] if limit else train)
    _save(values)
    package = Path(__file__).parent.parent/'cifake'/'measured'
    package.mkdir(exist_ok=True)
    if not limit: shutil.copy(RESULTS/'attribution.json', package)
