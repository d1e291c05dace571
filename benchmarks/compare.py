"Train recipes on CIFAKE with `compare_recipes`, put the networks of the box beside them, and write nbs/results/NAME.json"
import json
from pathlib import Path
from fastcore.script import call_parse
from record import RESULTS, circumstances, save

def _row(report, best, **values):
    "Measures of one network, and McNemar's test against the best"
    from cifake.evaluate import mcnemar
    return dict(accuracy=report.accuracy, low=report.intervals['accuracy'][0], high=report.intervals['accuracy'][1], f1=report.f1, auc=report.auc, images=report.n,
        recall=report.recall, recall_real=report.recall_real, without_leaks=report.clean.accuracy if report.clean else None,
        p_value=None if report is best else mcnemar(best, report)['p_value'], **values)

def _of_run(folder):
    "What the folder of a run says of its cost"
    card = json.loads((folder/'recipe.json').read_text())
    return dict(recipe=card['recipe']['name'], seed=card['seed'], subset=card['subset'], size=card['recipe']['size'], epochs=card['epochs_done'], pretrained=card['recipe']['pretrained'], parameters=card['parameters'],
        flops=card['flops'], minutes=card['seconds']/60, pflop=card['training_pflop'], here='trained by this script')

def _of_box(name, learn):
    "What is known of the cost of a network of the box"
    from cifake.compare import cost_of
    run = json.loads((RESULTS/f'train-{name}-{learn.card["seed"]}.json').read_text())
    return dict(recipe=name, seed=learn.card['seed'], subset=None, size=learn.dls.size, epochs=len(run['history']), pretrained=False, **cost_of(learn), minutes=run['training_seconds']/60, pflop=run['training_pflop'],
        here='network of the box')

@call_parse
def main(
    names:str='mlp,lenet,bird-lotfi-cnn,quick,resnet18-scratch', # Recipes, with commas; with `random:` before it, from random weights
    seed:int=42, # Seed of the validation split, the first weights and the order of batches
    out:str='runs/compare', # Folder for the runs, which are passed over where they are finished
    weights:str=None, # File with ImageNet weights, for recipes that start from them
    box:str='fast,robust,vit', # Networks of the box to put beside them, with commas; an empty text for none
    subset:int=None, # Number of training images; without it, all
    name:str='compare', # Of the file with the results
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH"
    about = circumstances()
    from dataclasses import replace
    from cifake.compare import compare_recipes, leaderboard
    from cifake.data import find_cifake
    from cifake.evaluate import Report, evaluate
    from cifake.learner import load_pretrained
    from cifake.recipes import get_recipe
    def chosen(word):
        recipe = get_recipe(word.removeprefix('random:'))
        return replace(recipe, name=f'{recipe.name}, random weights', pretrained=False) if word.startswith('random:') else recipe
    root, recipes = find_cifake(), [chosen(o) for o in names.split(',')]
    for recipe in recipes: compare_recipes(recipe, root, out, seeds=[seed], subset=subset, weights={recipe.name: weights} if recipe.pretrained and weights else None)
    finished = [o for o in sorted(Path(out).glob('*/valid.json')) if json.loads((o.parent/'recipe.json').read_text())['status'] == 'finished']
    costs = {o.parent: _of_run(o.parent) for o in finished}
    reports = {split: {} for split in ('valid', 'test')}
    leaderboard(out, split='test', path=root) # measures what is not yet
    for folder in costs:
        for split in reports: reports[split][folder] = Report.from_json((folder/f'{split}.json').read_text())
    for network in box.split(',') if box else ():
        learn = load_pretrained(network, path=root)
        costs[network] = _of_box(network, learn)
        for split in reports: reports[split][network] = evaluate(learn, split=split)
    values = dict(**about)
    for split,some in reports.items():
        best = max(some.values(), key=lambda o: o.accuracy)
        values[split] = sorted([_row(o, best, **costs[k]) for k,o in some.items()], key=lambda o: -o['accuracy'])
    save(name, values)
