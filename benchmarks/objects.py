"Train classifiers of ten objects on FAKE and on REAL, test each on both, and write nbs/results/objects.json"
import json, tempfile
from pathlib import Path
from fastcore.script import call_parse
from record import RESULTS, circumstances, rows_of, save

@call_parse
def main(
    names:str='mlp,lenet,quick', # Recipes of the classifiers, with commas
    seed:int=42, # Seed of the validation split, the first weights and the order of batches
    growth:str='', # Recipes, with commas, that learn from some of REAL, alone and with all of FAKE; empty leaves this part as it was measured before
    steps:int=1400, # Optimiser steps of each training of that part
    out:str=None, # Folder for the runs; without it, a temporary one
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH"
    about = circumstances()
    from cifake.data import LABELS, find_cifake
    from cifake.learner import history
    from cifake.objects import train_objects, transfer_table
    root, folder = find_cifake(), Path(out or tempfile.mkdtemp())
    values = json.loads((RESULTS/'objects.json').read_text()) if (RESULTS/'objects.json').exists() else {}
    if names:
        nets = {(o, source): train_objects(root, o, source, seed=seed, out=folder/f'{o}-{source}-{seed}') for o in names.split(',') for source in LABELS}
        values['transfer'] = dict(**about, seed=seed, rows=rows_of(transfer_table(nets, root)),
            networks={f'{a}, {b}': dict(arch=json.loads((o.run_folder/'recipe.json').read_text())['recipe']['arch'], training_images=len(o.dls.train_ds), seconds=round(history(o).seconds.sum(), 1),
                parameters=sum(p.numel() for p in o.model.parameters()), history=history(o).round(5).to_dict('records')) for (a,b),o in nets.items()})
        save('objects', values)
    for recipe in growth.split(',') if growth else ():
        nets = {(f'{share:g}', source): train_objects(root, recipe, source, real=share, valid_source='REAL', steps=steps, seed=seed, out=folder/f'{recipe}-{share:g}-{source}-{seed}')
                for share in (0.01, 0.05, 0.1, 0.5, 1.) for source in ('REAL', 'both')}
        values.setdefault('growth', {})[recipe] = dict(**about, seed=seed, steps=steps, validation_images=len(next(iter(nets.values())).dls.valid_ds), rows=rows_of(transfer_table(nets, root)),
            trainings={f'{a}, {b}': dict(training_images=len(o.dls.train_ds), bs=o.dls.train.bs, epochs=len(history(o)), best_epoch=int(history(o).valid_loss.idxmin()),
                seconds=round(history(o).seconds.sum(), 1)) for (a,b),o in nets.items()})
        save('objects', values)
