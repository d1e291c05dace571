"How well the default run learns the stand-in set, for several seeds; written to nbs/results/demo-PRECISION.json"
import tempfile
from pathlib import Path

import numpy as np
from fastcore.script import call_parse
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from record import circumstances, save


def linear(demo):
    "Accuracy of logistic regression on the pixels of the test"
    from cifake.data.dataset import read_items

    def load(split):
        rows = read_items(demo).query('split == @split')
        pixels = np.stack([np.asarray(Image.open(demo/o)).ravel() for o in rows.path])
        return pixels, (rows.label == 'FAKE').to_numpy()

    line = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300))
    return line.fit(*load('train')).score(*load('test'))


@call_parse
def main(
    seeds: str = '42,0,1',  # Seeds, with commas between them
):
    "Train `quick` on the demo set and measure it on validation and test"
    from cifake.all import demo_cifake, evaluate, train_learner
    from cifake.training.callbacks import choose_precision
    around, rows = circumstances(), []
    for seed in map(int, seeds.split(',')):
        with tempfile.TemporaryDirectory() as folder:
            learn = train_learner(demo_cifake(), seed=seed, out=Path(folder)/'run', verbose=False)
        valid, test = (evaluate(learn, split=o, resamples=0) for o in ('valid', 'test'))
        seconds = sum(o['seconds'] for o in learn.history.rows)
        rows.append(dict(seed=seed, valid=valid.accuracy, valid_images=valid.n, test=test.accuracy, test_images=test.n,
                         auc=round(test.auc, 4), seconds=round(seconds, 1), epochs=len(learn.history.rows)))
        print(rows[-1], flush=True)
    means = {o: round(float(np.mean([row[o] for row in rows])), 4) for o in ('valid', 'test')}
    precision = choose_precision()
    save(f'demo-{precision}', dict(around, precision=precision, means=means, logistic_regression=linear(demo_cifake()),
                                   rows=rows))
