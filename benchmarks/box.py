"Put the network of a run into the package: 16-bit weights and a card with its measured scores"
import json
from pathlib import Path

from fastcore.script import call_parse

from record import RESULTS, circumstances

BOX = Path(__file__).parent.parent/'cifake'/'pretrained'
USE = ('Research and teaching on CIFAKE: REAL photographs of CIFAR-10 against images of Stable Diffusion 1.4 (FAKE), '
       'all of 32x32 pixels and the same JPEG compression. It knows nothing else: not other generators, not other '
       'sizes, not pictures from the web. Not evidence about any picture or person.')


def scores_of(learn, split):
    "Measures with intervals on `split`: as calibrated, with averaging over flips and without, and before calibration"
    from cifake.measure.evaluate import evaluate

    def measured():
        report = json.loads(evaluate(learn, split=split).to_json())
        return {k: v for k, v in report.items() if k not in ('note', 'unreadable', 'split')}

    scores = {'as it predicts': measured()}
    if hasattr(learn, 'flip_average'):
        with learn.removed_cbs(learn.flip_average): scores['without averaging over flips'] = measured()
    with learn.removed_cbs(learn.calibrated): scores['before calibration'] = measured()
    return scores


def _against(learn, other):
    "McNemar's exact test against the network `other` of the box, on the validation images of both"
    from cifake.measure.evaluate import evaluate, mcnemar
    from cifake.serve.detector import load_pretrained
    networks = learn, load_pretrained(other, path=learn.dls.path)
    reports = [evaluate(o, split='valid', resamples=0) for o in networks]
    return dict(network=other, **mcnemar(*reports))


def _run(out, file):
    "The card of the run in `out` and the result in `file`, which have to tell of one training"
    card = json.loads((Path(out)/'recipe.json').read_text())
    result = json.loads(file.read_text())
    same = result['data_digest'] == card['data_digest'] and result['seed'] == card['seed']
    if not same or card['subset'] is not None or card['status'] != 'finished':
        raise ValueError(f'{out} is not the finished run that nbs/results/{file.name} tells of.')
    return card, result


def _rounded(learn):
    "Round the weights of `learn` to float16 and return them"
    state = {k: v.half() if v.is_floating_point() else v for k, v in learn.model.state_dict().items()}
    learn.model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return state


def _training(learn, card, result):
    "What the network was trained on, how and where"
    told = {k: result[k] for k in ('command', 'commit', 'date', 'machine')}
    return dict(
        data='CIFAKE, train/ without its validation part',
        targets='pairs of label and object' if card['recipe'].get('objects') else 'labels',
        images=len(learn.dls.train_ds), data_digest=card['data_digest'], **told,
        minutes=round(result['whole_seconds']/60, 1), pflop=card['training_pflop'], versions=card['versions'])


@call_parse
def main(
    name: str,  # Name of the network, such as `fast`
    seed: int,  # Seed of the run
    recipe: str = None,  # Recipe of the run; without it, the network's name
    against: str = None,  # A network of the box that was trained with the same seed, to compare with on validation
    out: str = '.',  # Folder of the run, which `benchmarks/train.py --out` left
):
    """Weights are rounded to float16 first, and the rounded ones are calibrated and measured

    They are measured on validation, then on the sealed test of the run's dataset.
    """
    about = circumstances()
    from safetensors.torch import save

    from cifake.measure.evaluate import calibrate
    from cifake.serve.card import check_card, detector_card
    from cifake.training.train import load_run
    card, result = _run(out, RESULTS/f'train-{recipe or name}-{seed}.json')
    learn = load_run(out)
    state = _rounded(learn)
    learn.run_folder = None  # its own calibration stays as it is
    calibrate(learn)
    values = detector_card(learn, name)
    values.update(
        weights=f'{name}.safetensors', stats=card['stats'], recipe=card['recipe'], seed=card['seed'],
        trained=_training(learn, card, result), measured=about, intended_use=USE, licence='Apache-2.0',
        scores=dict(validation=scores_of(learn, 'valid'), test=scores_of(learn, 'test')))
    if against: values['mcnemar_on_validation'] = _against(learn, against)
    BOX.mkdir(exist_ok=True)
    weights = BOX/f'{name}.safetensors'
    weights.write_bytes(save({k: v.contiguous() for k, v in state.items()}, metadata=dict(format='pt')))
    checked = check_card(json.loads(json.dumps(values)))
    (BOX/f'{name}.json').write_text(json.dumps(checked, indent=1) + '\n')
    print(f'cifake/pretrained/{name}.safetensors: {weights.stat().st_size/1e6:.2f} MB')
    for part in ('validation', 'test'): print(part, {k: v['accuracy'] for k, v in values['scores'][part].items()})
    if against: print('against', values['mcnemar_on_validation'])
