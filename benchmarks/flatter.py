"Measure how much common liberties flatter a score: the best epoch or threshold chosen on the test, leaked files; written to nbs/results/flatter.json"
import tempfile
from pathlib import Path
from statistics import mean, stdev
from fastcore.script import call_parse
from record import circumstances, save

@call_parse
def main(
    recipe:str='lenet', # Recipe that is trained for each seed
    epochs:int=10, # Passes over the training images
    seeds:int=5, # Number of seeds
    name:str='fast', # Network of the box, whose leaked files are looked at
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH"
    about = circumstances()
    from cifake.calibration import choose_threshold
    from cifake.data import find_cifake
    from cifake.evaluate import evaluate
    from cifake.learner import load_pretrained, train_learner
    from cifake.loaders import test_dl
    import torch
    from fastai.callback.core import Callback
    class OnTest(Callback):
        "Accuracy on the test after each epoch, at a threshold of 0.5"
        order = 70
        def __init__(self): self.scores = []
        def before_fit(self): self.run = not hasattr(self.learn, 'lr_finder') and not hasattr(self.learn, 'gather_preds') # trainings only
        def after_epoch(self):
            self.learn.model.eval()
            dl, right = test_dl(self.dls, bs=512), 0
            with torch.no_grad():
                for images,labels in dl: right += int((self.learn.model(images).argmax(1) == labels).sum())
            self.scores.append(right/len(dl.dataset))
    runs = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as work:
            learn = train_learner(recipe=recipe, epochs=epochs, seed=seed, out=Path(work)/'run', precision='float32', cbs=[OnTest()])
            report = evaluate(learn, resamples=0)
            table = report.predictions.drop(columns='leaked')
            best = evaluate(learn, threshold=choose_threshold(table, 'accuracy'), resamples=0)
            on_test, on_validation = learn.on_test.scores, [o['accuracy'] for o in learn.history.rows]
            if len(on_test) != len(on_validation): raise ValueError(f'{len(on_test)} epochs on the test, {len(on_validation)} on validation: something ran twice.')
            runs.append(dict(seed=seed, test_by_epoch=on_test, validation_by_epoch=on_validation, train_loss_by_epoch=[o['train_loss'] for o in learn.history.rows],
                chosen_on_validation=on_test[on_validation.index(max(on_validation))], best_on_test=max(on_test), best_on_validation=max(on_validation), at_own_threshold=report.accuracy, at_best_threshold=best.accuracy))
    spread = lambda values: dict(mean=mean(values), deviation=stdev(values) if len(values) > 1 else None)
    report = evaluate(load_pretrained(name, path=find_cifake()), resamples=0)
    boxed = report.predictions.assign(right=(report.predictions.p_fake >= report.threshold) == (report.predictions.label == 'FAKE'))
    fake = boxed[boxed.label == 'FAKE']
    from cifake.metrics import wilson
    rate = lambda right: dict(images=len(right), rate=right.mean(), interval=wilson(int(right.sum()), len(right)))
    save('flatter', dict(**about, images=report.n, runs=runs, seeds=spread([o['at_own_threshold'] for o in runs]),
        validation_quoted_as_test=spread([o['best_on_validation'] - o['chosen_on_validation'] for o in runs]), epoch_chosen_on_test=spread([o['best_on_test'] - o['chosen_on_validation'] for o in runs]),
        threshold_chosen_on_test=spread([o['at_best_threshold'] - o['at_own_threshold'] for o in runs]),
        leaked={'recall of FAKE on leaked files': rate(fake.right[fake.leaked]), 'recall of FAKE on the others': rate(fake.right[~fake.leaked]),
                'accuracy with them': rate(boxed.right), 'accuracy without them': rate(boxed.right[~boxed.leaked])}))
