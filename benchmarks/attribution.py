"Measure maps of the networks in the box on validation images, and write nbs/results/attribution.json, which the package carries too"
import shutil, time
from functools import partial
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
from record import RESULTS, circumstances, rows_of, save

def _mean(values):
    "Mean and standard error of each column, and the number of rows"
    n = len(values)
    return {'images': n, **{k: [float(values[k].mean()), float(values[k].std()/n**0.5)] for k in values}}

def _by(values, **groups):
    "`_mean` of each named selection of rows that has any"
    return {name: _mean(values[chosen]) for name,chosen in groups.items() if chosen.any()}

def _speed(make):
    "Seconds of three calls"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        make()
        times.append(round(time.perf_counter() - start, 2))
    return times

@call_parse
def main(
    cnn:str='fast', # Convolutional network of the box
    transformer:str='vit', # Vision transformer of the box
    n:int=400, # Images for the table of faithfulness, half of each label
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH. Both networks were trained with the same seed, so their validation images are the same"
    about = circumstances()
    from cifake.attribution import CAM_METHODS, attention_maps, cam_maps, default_layer, faithfulness, overlap, where
    from cifake.data import LABELS, find_cifake
    from cifake.interpret import CifakeInterpretation
    from cifake.learner import load_pretrained
    from cifake.spectrum import mean_spectrum
    nets = {o: load_pretrained(o, path=find_cifake()) for o in (cnn, transformer)}
    items = list(nets[cnn].dls.valid.items)
    assert [o.digest for o in items] == [o.digest for o in nets[transformer].dls.valid.items]
    seen = {k: CifakeInterpretation.from_learner(o) for k,o in nets.items()}
    labels = np.array([o.label for o in items])
    right = {k: (o.table.label == o.table.called).to_numpy() for k,o in seen.items()}
    values = dict(**about, networks=[cnn, transformer], images=len(items), layers={k: default_layer(o) for k,o in nets.items()},
        objects_differ={k: {str(o): seen[k].objects_differ(o) for o in (None, *LABELS)} for k in nets})

    some = items[:1000]
    values['seconds of 1,000 maps'] = {f'gradcam, {cnn}': _speed(lambda: cam_maps(nets[cnn], some)), f'rollout, {transformer}': _speed(lambda: attention_maps(nets[transformer], some))}

    rng = np.random.default_rng(0)
    drawn = {o: [items[i] for i in rng.permutation(np.flatnonzero(labels == o))[:n//2]] for o in LABELS}
    stages = {'4x4': '0.stages.2', '16x16': '0.stem'}
    kinds = {cnn: {**{f'{o}, 8x8': partial(cam_maps, method=o) for o in CAM_METHODS},
                   **{f'{m}, {name}': partial(cam_maps, method=m, layer=layer) for name,layer in stages.items() for m in ('gradcam', 'hirescam')}},
             transformer: {**{o: partial(attention_maps, method=o) for o in ('last', 'rollout', 'gradient_rollout')}, 'gradcam': cam_maps, 'hirescam': partial(cam_maps, method='hirescam')}}
    values['faithfulness'] = [dict(network=k, label=label, **row) for k in nets for label in LABELS for row in rows_of(faithfulness(nets[k], drawn[label], kinds[k]))]
    save('attribution', values)

    maps = {cnn: cam_maps(nets[cnn], items), transformer: attention_maps(nets[transformer], items)}
    ways = {f'gradcam of {cnn}, rollout of {transformer}': maps[transformer], f'gradcam of {cnn}, gradcam of {transformer}': cam_maps(nets[transformer], items),
            f'gradcam of {cnn}, gradient rollout of {transformer}': attention_maps(nets[transformer], items, 'gradient_rollout')}
    both, either = right[cnn] & right[transformer], ~(right[cnn] & right[transformer])
    parts = {f'{label}, {name}': (labels == label) & chosen for label in LABELS for name,chosen in (('both right', both), ('one or both wrong', either))}
    values['overlap'] = {way: {name: _mean(overlap(maps[cnn][chosen], other[chosen])) for name,chosen in parts.items()} for way,other in ways.items()}

    values['where'] = {k: _by(where(items, o), **{label: labels == label for label in LABELS}) for k,o in maps.items()}
    values['mean maps'] = {k: {label: o[labels == label].mean(0).round(3).tolist() for label in LABELS} for k,o in maps.items()}
    values['spectrum'] = dict(images=len(nets[cnn].dls.train.items), radial=rows_of(mean_spectrum(nets[cnn].dls.train.items).radial.set_index('frequency')))
    save('attribution', values)
    package = Path(__file__).parent.parent/'cifake'/'measured'
    package.mkdir(exist_ok=True)
    shutil.copy(RESULTS/'attribution.json', package)
