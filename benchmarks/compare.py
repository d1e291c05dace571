"Train recipes on CIFAKE with `compare_recipes`, put the networks of the box beside them; writes nbs/results/NAME.json"
import json
from pathlib import Path

from fastcore.script import call_parse

from record import RESULTS, circumstances, save


def _row(report, best, **values):
    "Measures of one network, and McNemar's test against the best"
    from cifake.measure.evaluate import mcnemar
    low, high = report.intervals['accuracy'][:2]
    return dict(
        accuracy=report.accuracy, low=low, high=high, f1=report.f1, auc=report.auc, images=report.n,
        recall=report.recall, recall_real=report.recall_real,
        without_leaks=report.clean.accuracy if report.clean else None,
        p_value=None if report is best else mcnemar(best, report)['p_value'], **values)


def _of_run(folder):
    "What the folder of a run says of its cost"
    card = json.loads((folder/'recipe.json').read_text())
    recipe = card['recipe']
    return dict(
        recipe=recipe['name'], seed=card['seed'], subset=card['subset'], size=recipe['size'],
        epochs=card['epochs_done'], pretrained=recipe['pretrained'], parameters=card['parameters'],
        flops=card['flops'], minutes=card['seconds']/60, pflop=card['training_pflop'], here='trained by this script')


def _of_box(name, learn):
    "What is known of the cost of a network of the box"
    from cifake.training.compare import cost_of
    seed = learn.card['seed']
    run = json.loads((RESULTS/f'train-{name}-{seed}.json').read_text())
    return dict(
        recipe=name, seed=seed, subset=None, size=learn.dls.size, epochs=len(run['history']), pretrained=False,
        **cost_of(learn), minutes=run['training_seconds']/60, pflop=run['training_pflop'], here='network of the box')


def _finished(out):
    "The folders of the finished runs in `out`"
    folders = [o.parent for o in sorted(Path(out).glob('*/valid.json'))]
    return [o for o in folders if json.loads((o/'recipe.json').read_text())['status'] == 'finished']


def _chosen(word):
    "The recipe that is called `word`; after `random:` its network starts from random weights"
    from dataclasses import replace

    from cifake.training.recipes import get_recipe
    recipe = get_recipe(word.removeprefix('random:'))
    if not word.startswith('random:'): return recipe
    return replace(recipe, name=f'{recipe.name}, random weights', pretrained=False)


@call_parse
def main(
    names: str = 'mlp,lenet,bird-lotfi-cnn,quick,resnet18-scratch',  # Recipes, with commas; `random:NAME` from scratch
    seed: int = 42,  # Seed of the validation split, the first weights and the order of batches
    out: str = 'runs/compare',  # Folder for the runs, which are passed over where they are finished
    weights: str = None,  # File with ImageNet weights, for recipes that start from them
    box: str = 'fast,robust,vit',  # Networks of the box to put beside them, with commas; an empty text for none
    subset: int = None,  # Number of training images; without it, all
    name: str = 'compare',  # Of the file with the results
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH"
    about = circumstances()
    from cifake.data.find import find_cifake
    from cifake.measure.evaluate import Report, evaluate
    from cifake.training.compare import compare_recipes, leaderboard
    from cifake.training.learner import load_pretrained
    root, recipes = find_cifake(), [_chosen(o) for o in names.split(',')]
    for recipe in recipes:
        start = {recipe.name: weights} if recipe.pretrained and weights else None
        compare_recipes(recipe, root, out, seeds=[seed], subset=subset, weights=start)
    costs = {o: _of_run(o) for o in _finished(out)}
    reports = {split: {} for split in ('valid', 'test')}
    leaderboard(out, split='test', path=root)  # measures what is not yet
    for folder in costs:
        for split in reports: reports[split][folder] = Report.from_json((folder/f'{split}.json').read_text())
    for network in box.split(',') if box else ():
        learn = load_pretrained(network, path=root)
        costs[network] = _of_box(network, learn)
        for split in reports: reports[split][network] = evaluate(learn, split=split)
    values = dict(**about)
    for split, some in reports.items():
        best = max(some.values(), key=lambda o: o.accuracy)
        rows = [_row(o, best, **costs[k]) for k, o in some.items()]
        values[split] = sorted(rows, key=lambda o: -o['accuracy'])
    save(name, values)
