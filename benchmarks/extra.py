"Train with pictures from elsewhere and at several sizes, and write what it buys to nbs/results/extra.json"
import os
import tempfile
from pathlib import Path

from fastcore.script import call_parse

from record import circumstances, rows_of, save, sources_in


def _halves(sources, work):
    "Links to every second picture of each source to train on, and to the others to test on; source by source"
    folders = sources_in(sources)
    for name, folder in folders.items():
        for label in ('FAKE', 'REAL'):
            for i, o in enumerate(sorted((folder/label).glob('*'))):
                target = work/('train' if i % 2 else 'test')/name/label
                target.mkdir(parents=True, exist_ok=True)
                os.symlink(o.resolve(), target/o.name)
    return list(folders)


@call_parse
def main(
    sources: str = 'others',  # Folder of folders with FAKE and REAL, or FAKE alone; its place is not kept
    recipe: str = 'quick',  # Name of the recipe; objects are left out, since those of the pictures are unknown
    seed: int = 42,  # Seed of each training
    subset: float = 0.3,  # Share of CIFAKE's training images
):
    """The dataset is found as `find_cifake` finds it: set CIFAKE_PATH

    The validation part chooses thresholds; the test is opened last.
    """
    about = circumstances()
    from cifake.data.find import find_cifake
    from cifake.measure.evaluate import evaluate
    from cifake.measure.robustness import cross_dataset_table, robustness_table
    from cifake.training.train import train_learner
    with tempfile.TemporaryDirectory() as work:
        names = _halves(sources, Path(work))
        ways = {
            'as it is': {},
            'with half of the pictures from elsewhere': dict(extra=[Path(work)/'train'/o for o in names]),
            'at several sizes': dict(multi_scale=0.5)}
        held = {o: Path(work)/'test'/o for o in names}
        found = {}
        for way, arguments in ways.items():
            learn = train_learner(
                recipe=recipe, seed=seed, subset=subset, objects=False, out=Path(work)/way, **arguments)
            found[way] = dict(
                training_images=len(learn.dls.train_ds), validation=learn.report.accuracy,
                test=evaluate(learn, resamples=0).accuracy,
                sources=rows_of(cross_dataset_table(learn, held, real=find_cifake()/'test')),
                corruptions=rows_of(robustness_table(learn, names=['resize', 'crop'])))
            save('extra', dict(**about, recipe=recipe, seed=seed, subset=subset, ways=found))
