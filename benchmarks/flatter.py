"""Measure how much common liberties flatter a score; writes nbs/results/flatter.json

They are the best epoch or threshold chosen on the test, and files of the test that also stand in train.
"""
import tempfile
from pathlib import Path
from statistics import mean, stdev

from fastcore.script import call_parse

from record import circumstances, save


def _on_test():
    "A callback that measures accuracy on the test after each epoch, at a threshold of 0.5"
    import torch
    from fastai.callback.core import Callback

    from cifake.data.loaders import test_dl

    class OnTest(Callback):
        order = 70
        def __init__(self): self.scores = []

        def before_fit(self):
            "Trainings only"
            self.run = not hasattr(self.learn, 'lr_finder') and not hasattr(self.learn, 'gather_preds')

        def after_epoch(self):
            self.learn.model.eval()
            dl, right = test_dl(self.dls, bs=512), 0
            with torch.no_grad():
                for images, labels in dl: right += int((self.learn.model(images).argmax(1) == labels).sum())
            self.scores.append(right/len(dl.dataset))

    return OnTest()


def _run(recipe, epochs, seed):
    "Scores of one training, honest and flattered"
    from cifake.measure.calibration import choose_threshold
    from cifake.measure.evaluate import evaluate
    from cifake.training.train import train_learner
    with tempfile.TemporaryDirectory() as work:
        learn = train_learner(recipe=recipe, epochs=epochs, seed=seed, out=Path(work)/'run', precision='float32',
                              cbs=[_on_test()])
        report = evaluate(learn, resamples=0)
        table = report.predictions.drop(columns='leaked')
        best = evaluate(learn, threshold=choose_threshold(table, 'accuracy'), resamples=0)
    on_test = learn.on_test.scores
    on_validation = [o['accuracy'] for o in learn.history.rows]
    if len(on_test) != len(on_validation):
        raise ValueError(f'{len(on_test)} epochs on the test, {len(on_validation)} on validation: something ran twice.')
    return dict(
        seed=seed, test_by_epoch=on_test, validation_by_epoch=on_validation,
        train_loss_by_epoch=[o['train_loss'] for o in learn.history.rows],
        chosen_on_validation=on_test[on_validation.index(max(on_validation))],
        best_on_test=max(on_test), best_on_validation=max(on_validation),
        at_own_threshold=report.accuracy, at_best_threshold=best.accuracy)


def _spread(values): return dict(mean=mean(values), deviation=stdev(values) if len(values) > 1 else None)


def _gained(runs, flattered, honest):
    "What a liberty adds to the score, over `runs`"
    return _spread([o[flattered] - o[honest] for o in runs])


def _rate(right):
    "The share of `right` answers with its interval"
    from cifake.measure.metrics import wilson
    return dict(images=len(right), rate=right.mean(), interval=wilson(int(right.sum()), len(right)))


def _leaked(report):
    "What files that also stand in train add to the score"
    called_fake = report.predictions.p_fake >= report.threshold
    table = report.predictions.assign(right=called_fake == (report.predictions.label == 'FAKE'))
    fake = table[table.label == 'FAKE']
    return {
        'recall of FAKE on leaked files': _rate(fake.right[fake.leaked]),
        'recall of FAKE on the others': _rate(fake.right[~fake.leaked]),
        'accuracy with them': _rate(table.right),
        'accuracy without them': _rate(table.right[~table.leaked])}


@call_parse
def main(
    recipe: str = 'lenet',  # Recipe that is trained for each seed
    epochs: int = 10,  # Passes over the training images
    seeds: int = 5,  # Number of seeds
    name: str = 'fast',  # Network of the box, whose leaked files are looked at
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH"
    about = circumstances()
    from cifake.data.find import find_cifake
    from cifake.measure.evaluate import evaluate
    from cifake.serve.detector import load_pretrained
    runs = [_run(recipe, epochs, seed) for seed in range(seeds)]
    report = evaluate(load_pretrained(name, path=find_cifake()), resamples=0)
    save('flatter', dict(
        **about, images=report.n, runs=runs, seeds=_spread([o['at_own_threshold'] for o in runs]),
        validation_quoted_as_test=_gained(runs, 'best_on_validation', 'chosen_on_validation'),
        epoch_chosen_on_test=_gained(runs, 'best_on_test', 'chosen_on_validation'),
        threshold_chosen_on_test=_gained(runs, 'at_best_threshold', 'at_own_threshold'),
        leaked=_leaked(report)))
