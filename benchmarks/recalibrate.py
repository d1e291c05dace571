"Calibrate a network of the box anew, and put its scores into its card again; its weights stay as they are"
import json

from fastcore.script import call_parse

from box import BOX, scores_of
from record import circumstances


@call_parse
def main(
    name: str,  # Name of the network, such as `fast`
):
    """Calibrated on validation and measured on it, then on the sealed test, in float32; the dataset is `CIFAKE_PATH`'s

    Prints the accuracies before and after, which differ only where the boundary between the labels is another one.
    """
    about = circumstances()
    from cifake.data.find import find_cifake
    from cifake.measure.evaluate import calibrate
    from cifake.serve.card import check_card, detector_card
    from cifake.serve.detector import load_pretrained
    learn = load_pretrained(name, find_cifake(), precision='float32')
    card = learn.card
    calibrate(learn)
    own = detector_card(learn, name)
    new = dict(card, calibration=own['calibration'], weights_digest=own['weights_digest'], measured=about)
    new['scores'] = dict(validation=scores_of(learn, 'valid'), test=scores_of(learn, 'test'))
    checked = check_card(json.loads(json.dumps(new)))
    (BOX/f'{name}.json').write_text(json.dumps(checked, indent=1) + '\n')
    for part, kinds in new['scores'].items():
        for kind, scores in kinds.items():
            was = card['scores'][part][kind]
            changes = [f'{k} {was[k]:.4f} -> {scores[k]:.4f}' for k in ('accuracy', 'ece', 'log_loss')]
            print(f'{part}, {kind}: {", ".join(changes)}')
