"Measure a network of the box on corrupted pictures and on others; writes nbs/results/robustness.json and its card"
import json
from pathlib import Path

from fastcore.script import call_parse

from record import RESULTS, circumstances, rows_of, save, sources_in

BOX = Path(__file__).parent.parent/'cifake'/'pretrained'
COLUMNS = 'corruption', 'level', 'images', 'accuracy', 'accuracy_low', 'accuracy_high'
WAYS = {
    'as it is': {},
    'JPEG 75': dict(quality=75),
    'bilinear, JPEG 75': dict(filter='bilinear', quality=75),
    'lanczos, JPEG 75': dict(filter='lanczos', quality=75)}


def _keep_in_card(name, found):
    "Put accuracies under corruptions into the card of a network of the box"
    file = BOX/f'{name}.json'
    card = json.loads(file.read_text())
    rows = [{k: o[k] for k in COLUMNS} for o in found['corruptions']]
    card['robustness'] = dict(**{k: found[k] for k in ('command', 'commit', 'date')}, rows=rows)
    file.write_text(json.dumps(card, indent=1) + '\n')


def _elsewhere(learn, folders):
    "Measures on pictures from elsewhere, prepared in each of `WAYS`"
    from cifake.data.find import find_cifake
    from cifake.measure.robustness import cross_dataset_table
    real, found = find_cifake()/'test', []
    for way, arguments in WAYS.items():
        for source, folder in folders.items():
            try: rows = rows_of(cross_dataset_table(learn, {source: folder}, real=real, **arguments))
            except ValueError as e: rows = [dict(index=source, refused=str(e).replace(str(folder), source))]
            found += [dict(way=way, **o) for o in rows]
    return found


@call_parse
def main(
    name: str = 'robust',  # Name of the network, as in `load_pretrained`
    sources: str = None,  # Folder of folders with FAKE and REAL, or FAKE alone; its place is not kept
    card_only: bool = False,  # Measure nothing: put what nbs/results/robustness.json says into the network's card
):
    "The dataset is found as `find_cifake` finds it: set CIFAKE_PATH. FAKE alone is paired with REAL of CIFAKE's test"
    file = RESULTS/'robustness.json'
    if card_only: return _keep_in_card(name, json.loads(file.read_text())[name])
    about = circumstances()
    from cifake.data.find import find_cifake
    from cifake.measure.robustness import robustness_table
    from cifake.training.learner import load_pretrained
    learn = load_pretrained(name, path=find_cifake())
    values = json.loads(file.read_text()) if file.exists() else {}
    threshold = learn.calibrated.calibration.threshold
    found = dict(**about, threshold=threshold, corruptions=rows_of(robustness_table(learn)))
    if sources: found['sources'] = _elsewhere(learn, sources_in(sources))
    values[name] = found
    save('robustness', values)
    _keep_in_card(name, found)
