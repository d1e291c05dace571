"Train classifiers of ten objects on FAKE and on REAL, test each on both, and write nbs/results/objects.json"
import json
import tempfile
from pathlib import Path

from fastcore.script import call_parse

from record import RESULTS, circumstances, rows_of, save

SHARES = 0.01, 0.05, 0.1, 0.5, 1.  # of REAL, for the growth of accuracy


def _network(learn):
    "What a classifier is and how its training went"
    from cifake.training.runs import read_history
    card = json.loads((learn.run_folder/'recipe.json').read_text())
    rows = read_history(learn)
    return dict(
        arch=card['recipe']['arch'], training_images=len(learn.dls.train_ds), seconds=round(rows.seconds.sum(), 1),
        parameters=sum(p.numel() for p in learn.model.parameters()), history=rows.round(5).to_dict('records'))


def _training(learn):
    "How a training on some of REAL went"
    from cifake.training.runs import read_history
    rows = read_history(learn)
    return dict(
        training_images=len(learn.dls.train_ds), bs=learn.dls.train.bs, epochs=len(rows),
        best_epoch=int(rows.valid_loss.idxmin()), seconds=round(rows.seconds.sum(), 1))


def _transfer(root, names, seed, folder):
    "Classifiers of both sources, each tested on both"
    from cifake.data.core import LABELS
    from cifake.training.objects import train_objects, transfer_table
    nets = {}
    for name in names:
        for source in LABELS:
            nets[name, source] = train_objects(root, name, source, seed=seed, out=folder/f'{name}-{source}-{seed}')
    return dict(seed=seed, rows=rows_of(transfer_table(nets, root)),
                networks={f'{a}, {b}': _network(o) for (a, b), o in nets.items()})


def _growth(root, recipe, steps, seed, folder):
    "Classifiers of some of REAL, alone and with all of FAKE"
    from cifake.training.objects import train_objects, transfer_table
    nets = {}
    for share in SHARES:
        for source in ('REAL', 'both'):
            nets[f'{share:g}', source] = train_objects(
                root, recipe, source, real=share, valid_source='REAL', steps=steps, seed=seed,
                out=folder/f'{recipe}-{share:g}-{source}-{seed}')
    first = next(iter(nets.values()))
    return dict(
        seed=seed, steps=steps, validation_images=len(first.dls.valid_ds), rows=rows_of(transfer_table(nets, root)),
        trainings={f'{a}, {b}': _training(o) for (a, b), o in nets.items()})


@call_parse
def main(
    names: str = 'mlp,lenet,quick',  # Recipes of the classifiers, with commas
    seed: int = 42,  # Seed of the validation split, the first weights and the order of batches
    growth: str = '',  # Recipes, with commas, that learn from some of REAL; empty keeps this part as it is in the file
    steps: int = 1400,  # Optimiser steps of each training of that part
    out: str = None,  # Folder for the runs; without it, a temporary one
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH"
    about = circumstances()
    from cifake.data.find import find_cifake
    root, folder = find_cifake(), Path(out or tempfile.mkdtemp())
    file = RESULTS/'objects.json'
    values = json.loads(file.read_text()) if file.exists() else {}
    if names:
        values['transfer'] = dict(**about, **_transfer(root, names.split(','), seed, folder))
        save('objects', values)
    for recipe in growth.split(',') if growth else ():
        values.setdefault('growth', {})[recipe] = dict(**about, **_growth(root, recipe, steps, seed, folder))
        save('objects', values)
