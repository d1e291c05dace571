"Scores, calibration and origin belong to weights: what becomes of them when a network is trained further"
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save

from cifake.data.core import arrays_digest
from cifake.measure.evaluate import calibrate, evaluate
from cifake.measure.learners import weights_digest
from cifake.serve.card import detector_card, list_detectors, read_card
from cifake.serve.detector import load_pretrained, save_detector
from cifake.serve.hub import model_card
from cifake.training.train import load_run


@pytest.fixture
def own(trained):
    "A learner of a run that was kept, as it is opened"
    learn = load_run(trained)
    with learn.no_bar(), learn.no_logging(): yield learn


def described(learn):
    "Its card, and what was warned of"
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        card = detector_card(learn)
    return card, ' '.join(str(o.message) for o in found if 'trained further' in str(o.message))


def test_a_learner_as_it_was_kept_has_its_scores(own):
    card, said = described(own)
    assert card['scores']['validation']['as it predicts']['n'] == own.report.n
    assert card['calibration']['images'] == own.report.n and card['seed'] == 42 and said == ''
    assert card['weights_digest'] == weights_digest(own.model)


def nudged(learn):
    "Other weights, by as little as can be"
    with torch.no_grad(): next(learn.model.parameters()).view(-1)[0] += 1e-3


@pytest.mark.parametrize('change', [nudged, lambda learn: learn.fit(1, lr=1e-6)])
def test_scores_do_not_pass_to_other_weights(own, change):
    change(own)
    card, said = described(own)
    assert not {'scores', 'seed', 'recipe', 'trained', 'data_digest'} & card.keys()
    assert (card['name'], card['calibration']['images'], card['calibration']['criterion']) == ('cifakenet', 0, '')
    assert 'trained further' in said


def test_weights_that_come_back_have_their_scores_again(own):
    state = {k: v.clone() for k, v in own.model.state_dict().items()}
    nudged(own)
    own.model.load_state_dict(state)
    assert 'scores' in described(own)[0]


def test_other_weights_can_be_measured_anew(own):
    nudged(own)
    calibrate(own)
    own.report = evaluate(own, split='valid', resamples=0)
    card, _ = described(own)
    assert card['scores']['validation']['as it predicts']['accuracy'] == own.report.accuracy
    assert card['calibration']['images'] == own.report.n and 'seed' not in card


def test_calibrating_other_weights_leaves_the_folder_of_the_run_alone(own):
    before = (own.run_folder/'calibration.json').read_bytes()
    nudged(own)
    calibrate(own, error=0.2)
    assert (own.run_folder/'calibration.json').read_bytes() == before


@pytest.mark.parametrize('name', list_detectors())
def test_a_network_of_the_package_that_was_trained_further_is_another(name):
    learn = load_pretrained(name, precision='float32')
    assert 'test' in described(learn)[0]['scores']
    nudged(learn)
    card, said = described(learn)
    assert card['name'] == learn.network['arch'] and card['licence'] == 'Apache-2.0'
    assert not {'scores', 'trained', 'robustness', 'intended_use'} & card.keys() and 'trained further' in said
    assert 'not measured' in model_card(card).text


def test_weights_put_into_the_file_of_others_lose_its_scores(own, tmp_path):
    file = save_detector(own, tmp_path/'own')
    assert 'scores' in read_card(file)[0]
    with safe_open(file, 'np') as opened:
        tensors = {o: opened.get_tensor(o) for o in opened.keys()}
        metadata = opened.metadata()
    name = next(o for o, v in tensors.items() if v.dtype.kind == 'f')
    tensors[name] = tensors[name] + 1
    file.write_bytes(save(tensors, metadata=metadata))
    with pytest.warns(UserWarning, match='not those its card was written for'): card, _ = read_card(file)
    assert 'scores' not in card and 'seed' not in card


def test_a_digest_is_that_of_the_values_not_of_their_order_or_storage():
    a, b = np.arange(6, dtype='f4').reshape(2, 3), np.ones(2, 'f4')
    digest = arrays_digest(dict(a=a, b=b, steps=np.array(3)))
    assert digest == arrays_digest(dict(b=b.astype('f2'), a=np.asfortranarray(a), steps=np.array(4)))
    for other in (dict(a=a), dict(a=a.reshape(3, 2), b=b), dict(a=a, c=b), dict(a=a + 1, b=b)):
        assert arrays_digest(other) != digest
