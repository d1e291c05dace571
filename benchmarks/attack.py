"Train with attacks on several shares of the images, judge each on corrupted validation; writes nbs/results/attack.json"
import json
import tempfile
from pathlib import Path

from fastcore.script import call_parse

from record import RESULTS, circumstances, rows_of, save

CORRUPTIONS = ['JPEG', 'blur', 'blur by Pillow', 'noise', 'resize']


@call_parse
def main(
    shares: str = '0 0.25',  # Values of the recipe's field `attack`, separated by spaces; results for others are kept
    recipe: str = 'quick',  # Name of the recipe
    seed: int = 42,  # Seed of each training
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH. The test is not opened"
    about = circumstances()
    from cifake.measure.robustness import robustness_table
    from cifake.training.runs import read_history
    from cifake.training.train import train_learner
    file = RESULTS/'attack.json'
    values = json.loads(file.read_text()) if file.exists() else {}
    for share in shares.split():
        with tempfile.TemporaryDirectory() as work:
            learn = train_learner(recipe=recipe, seed=seed, attack=float(share), out=Path(work)/'run')
            table = robustness_table(learn, split='valid', names=CORRUPTIONS)
            values[f'{recipe} {share}'] = dict(
                **about, recipe=recipe, attack=float(share), seed=seed,
                seconds=round(read_history(learn).seconds.sum(), 1), threshold=learn.report.threshold,
                validation=rows_of(table))
            save('attack', values)
