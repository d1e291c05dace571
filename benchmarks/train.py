"Train a recipe on CIFAKE with `train_learner`, measure it on the sealed test, and write the result to nbs/results/"
import json
import tempfile
import time
from pathlib import Path

from fastcore.script import call_parse

from record import circumstances, peak_memory, save


def _without_flips(learn):
    "Reports without averaging over flips, where the network was trained to average"
    from cifake.measure.evaluate import evaluate
    if not hasattr(learn, 'flip_average'): return {}
    with learn.removed_cbs(learn.flip_average):
        return {o: json.loads(evaluate(learn, split=o).to_json()) for o in ('valid', 'test')}


@call_parse
def main(
    recipe: str = 'quick',  # Name of a recipe
    seed: int = 42,  # Seed of the validation split, the first weights and the order of batches
    out: str = None,  # Folder for the run; without it, a temporary one
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH"
    about = circumstances()
    start = time.perf_counter()
    from cifake.data.loaders import test_dl
    from cifake.explain.interpret import CifakeInterpretation
    from cifake.measure.evaluate import evaluate
    from cifake.training.runs import read_history
    from cifake.training.train import train_learner
    learn = train_learner(recipe=recipe, seed=seed, out=out or Path(tempfile.mkdtemp())/'run')
    whole = time.perf_counter() - start
    report = evaluate(learn)
    single = _without_flips(learn)
    objects = CifakeInterpretation.from_learner(learn, dl=test_dl(learn.dls)).by_object()
    own, child = peak_memory()
    rows = read_history(learn)
    card = json.loads((learn.run_folder/'recipe.json').read_text())
    save(f'train-{recipe}-{seed}', dict(
        **about, recipe=card['recipe'], seed=seed, data_digest=card['data_digest'],
        parameters=sum(o.numel() for o in learn.model.parameters()), training_images=len(learn.dls.train_ds),
        training_seconds=round(rows.seconds.sum(), 1), whole_seconds=round(whole, 1),
        training_pflop=card['training_pflop'], peak_memory_gb=own, peak_memory_of_a_reader_gb=child,
        history=rows.round(5).to_dict('records'), validation=json.loads(learn.report.to_json()),
        test=json.loads(report.to_json()), without_averaging_over_flips=single,
        errors_by_object=objects.round(5).reset_index().to_dict('records')))
    print(report)
