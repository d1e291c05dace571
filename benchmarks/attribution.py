"Measure maps of the networks in the box on validation images, and write nbs/results/attribution.json, which the package carries too"
import json, re, shutil, time
from functools import partial
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
from record import RESULTS, circumstances, rows_of, save

def _save(values):
    "Write the results, each list of numbers on one line"
    save('attribution', values)
    file = RESULTS/'attribution.json'
    file.write_text(re.sub(r'\[\s+(-?[\d.][^\[\]{}"]*?)\s+\]', lambda o: '[' + re.sub(r'\s+', ' ', o[1]) + ']', file.read_text()))

def _mean(values):
    "Mean and standard error of each column, the number of images, and of those where one of the maps is blank"
    counts = values.count()
    return {'images': len(values), 'blank': int(len(values) - counts['spearman' if 'spearman' in counts else 'border']), **{k: [float(values[k].mean()), float(values[k].std()/counts[k]**0.5)] for k in values}}

def _by(values, groups):
    "`_mean` of each named selection of rows that has any"
    return {name: _mean(values[chosen]) for name,chosen in groups.items() if chosen.any()}

def _over_chance(a, b):
    "`overlap` with what each measure has over shuffled maps, image by image"
    from cifake.attribution import overlap
    table = overlap(a, b, shuffles=5 if len(a) > 1000 else 100) # thousands of images average out by themselves
    return table.assign(**{f'{o}_over': table[o] - table[f'{o}_shuffled'] for o in ('iou', 'spearman', 'ssim')})

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
    return {name: {k: v for curve,o in part.groupby('curve') for k,v in ((curve, o['mean'].astype(float).round(4).tolist()), (f'{curve}_se', o.error.astype(float).round(4).tolist()))}
            for name,part in table.groupby('maps', sort=False)}

def _paired(learn, items, a, b):
    "Mean and standard error of what maps of kind `a` score over those of kind `b`, image by image"
    from cifake.attribution import map_scores
    gap = map_scores(learn, items, a(learn, items)) - map_scores(learn, items, b(learn, items))
    return {k: [float(gap[k].mean()), float(gap[k].sem())] for k in gap}

@call_parse
def main(
    cnn:str='fast', # Convolutional network of the box
    transformer:str='vit', # Vision transformer of the box
    n:int=400, # Images for the table of faithfulness, half of each label
    limit:int=0, # Images for everything else, for a trial; 0 takes all of validation
    overlap_only:bool=False, # Measure the agreement of maps anew, and keep the rest as it was measured before
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH. Both networks were trained with the same seed, so their validation images are the same"
    about = circumstances()
    from cifake.attribution import faithfulness, mean_curves, where
    from cifake.data import LABELS, find_cifake
    from cifake.interpret import CifakeInterpretation
    from cifake.learner import load_pretrained
    from cifake.maps import CAM_METHODS, attention_maps, cam_maps, default_layer
    from cifake.spectrum import mean_spectrum
    nets = {o: load_pretrained(o, path=find_cifake()) for o in (cnn, transformer)}
    items = list(nets[cnn].dls.valid.items)
    assert [o.digest for o in items] == [o.digest for o in nets[transformer].dls.valid.items]
    seen = {k: CifakeInterpretation.from_learner(o) for k,o in nets.items()}
    some = np.arange(len(items)) if not limit else np.random.default_rng(0).permutation(len(items))[:limit]
    items = [items[i] for i in some]
    labels = np.array([o.label for o in items])
    right = {k: (o.table.label == o.table.called).to_numpy()[some] for k,o in seen.items()}
    values = dict(**about, networks=[cnn, transformer], images=len(items), layers={k: default_layer(o) for k,o in nets.items()},
        objects_differ={k: {str(o): seen[k].objects_differ(o) for o in (None, *LABELS)} for k in nets})

    if overlap_only: values = dict(json.loads((RESULTS/'attribution.json').read_text()), overlap_measured=about)
    else:
        first = items[:1000]
        values['seconds of 1,000 maps'] = {f'gradcam, {cnn}': _speed(lambda: cam_maps(nets[cnn], first)), f'rollout, {transformer}': _speed(lambda: attention_maps(nets[transformer], first))}

        rng = np.random.default_rng(0)
        drawn = {o: [items[i] for i in rng.permutation(np.flatnonzero(labels == o))[:n//2]] for o in LABELS}
        stages = {'4x4': '0.stages.2', '16x16': '0.stem'}
        kinds = {cnn: {**{f'{o}, 8x8': partial(cam_maps, method=o) for o in CAM_METHODS},
                       **{f'{m}, {name}': partial(cam_maps, method=m, layer=layer) for name,layer in stages.items() for m in ('gradcam', 'hirescam')}},
                 transformer: {**{o: partial(attention_maps, method=o) for o in ('last', 'rollout', 'gradient_rollout')}, 'gradcam': cam_maps, 'hirescam': partial(cam_maps, method='hirescam')}}
        shown = {cnn: ('gradcam, 8x8', 'gradcam++, 8x8', 'gradcam, 4x4', 'hirescam, 16x16'), transformer: ('rollout', 'gradient_rollout', 'gradcam')}
        values['faithfulness'] = [dict(network=k, label=label, **row) for k in nets for label in LABELS for row in rows_of(faithfulness(nets[k], drawn[label], kinds[k]))]
        values['curves'] = {k: {label: _drawn(mean_curves(nets[k], drawn[label], {o: kinds[k][o] for o in shown[k]})) for label in LABELS} for k in nets}
        values['4x4 less 8x8'] = {label: _paired(nets[cnn], drawn[label], kinds[cnn]['gradcam, 4x4'], kinds[cnn]['gradcam, 8x8']) for label in LABELS}
        _save(values)

    maps = {(cnn, 'gradcam'): cam_maps(nets[cnn], items), (transformer, 'rollout'): attention_maps(nets[transformer], items),
            (transformer, 'gradcam'): cam_maps(nets[transformer], items), (transformer, 'gradient_rollout'): attention_maps(nets[transformer], items, 'gradient_rollout')}
    both = {'both right': (1, 1), f'only {cnn} wrong': (0, 1), f'only {transformer} wrong': (1, 0), 'both wrong': (0, 0)}
    parts = {f'{label}, {name}': (labels == label) & (right[cnn] == a) & (right[transformer] == b) for label in LABELS for name,(a,b) in both.items()}
    own = maps[cnn, 'gradcam']
    values['overlap'] = {f'gradcam of {cnn}, {kind} of {transformer}': {name: _mean(_over_chance(own[chosen], other[chosen])) for name,chosen in parts.items() if chosen.sum() > 1}
                         for (net,kind),other in maps.items() if net == transformer}
    fake = cam_maps(nets[cnn], items, label='FAKE') # one question to both, where they would answer differently
    for kind,other in (('gradcam', cam_maps(nets[transformer], items, label='FAKE')), ('gradient_rollout', attention_maps(nets[transformer], items, 'gradient_rollout', 'FAKE'))):
        values['overlap'][f'gradcam of {cnn}, {kind} of {transformer}, both for FAKE'] = {name: _mean(_over_chance(fake[chosen], other[chosen])) for name,chosen in parts.items() if chosen.sum() > 1}
    if overlap_only: _save(values)
    else:
        by_label = {label: labels == label for label in LABELS}
        values['where'] = {f'{kind} of {net}': _by(where(items, o), by_label) for (net,kind),o in maps.items()}
        values['mean maps'] = {f'{kind} of {net}': {label: o[chosen].mean(0).astype(float).round(3).tolist() for label,chosen in by_label.items()} for (net,kind),o in maps.items()}
        train = nets[cnn].dls.train.items if not limit else nets[cnn].dls.train.items[::100]
        spectrum = mean_spectrum(train)
        values['spectrum'] = dict(images=len(train), radial=rows_of(spectrum.radial.set_index('frequency')), mean={k: o.round(4).tolist() for k,o in spectrum.mean.items()})
        _save(values)
    package = Path(__file__).parent.parent/'cifake'/'measured'
    package.mkdir(exist_ok=True)
    if not limit: shutil.copy(RESULTS/'attribution.json', package)
