"The engine on onnxruntime: the same numbers as PyTorch, and files that are refused"
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from cifake.serve import onnx as room
from cifake.serve.detector import load_detector
from cifake.serve.onnx import export_onnx

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
PIXELS = np.random.default_rng(0).integers(0, 255, (100, 32, 32, 3), dtype=np.uint8)
pytestmark = pytest.mark.slow  # an export takes seconds


@pytest.fixture(scope='module')
def robust(tmp_path_factory):
    "A detector, and its ONNX file"
    detector = load_detector()
    return detector, export_onnx(detector, tmp_path_factory.mktemp('onnx')/'robust')


def test_both_engines_give_the_same_for_any_number_of_pictures(robust):
    on_torch, file = robust
    on_onnx = load_detector(file)
    for n in (1, 3, 7, 100): assert np.abs(on_onnx.p_fake(PIXELS[:n]) - on_torch.p_fake(PIXELS[:n])).max() < 1e-4
    assert on_onnx.calibration == on_torch.calibration and on_onnx.size == on_torch.size


def test_a_worker_gets_it_as_a_pickle(robust):
    on_onnx = load_detector(robust[1], threshold=0.9)
    copy = pickle.loads(pickle.dumps(on_onnx))
    assert (copy.p_fake(PIXELS) == on_onnx.p_fake(PIXELS)).all() and copy.threshold == 0.9


@pytest.mark.parametrize('name, options', [
    ('fast', dict(flip_average=False, threshold=0.7)), ('vit', dict(band=(0.1, 0.8)))])
def test_a_threshold_or_band_of_ones_own_goes_along(tmp_path, name, options):
    first = load_detector(name, **options)
    second = load_detector(export_onnx(first, tmp_path/name))
    assert np.abs(first.p_fake(PIXELS) - second.p_fake(PIXELS)).max() < 1e-4
    assert (second.threshold, second.band) == (first.threshold, first.band)


def without_card(model): del model.metadata_props[:]


def with_value(**values):
    def change(model):
        card = {**json.loads(model.metadata_props[0].value), **values}
        model.metadata_props[0].value = json.dumps(card)
    return change


@pytest.mark.parametrize('change, said', [
    (without_card, 'no card'), (with_value(version=2), 'version'), (with_value(size=64), 'as its card says')],
    ids=['no card', 'a newer version', 'another size'])
def test_a_file_that_disagrees_with_its_card_is_refused(robust, tmp_path, change, said):
    model = onnx.load(robust[1])
    change(model)
    onnx.save(model, tmp_path/'changed.onnx')
    with pytest.raises(ValueError, match=said): load_detector(tmp_path/'changed.onnx')


def test_what_the_file_fixes_cannot_be_chosen(robust):
    for options in (dict(device='cpu'), dict(flip_average=False)):
        with pytest.raises(ValueError, match='leave out'): load_detector(robust[1], **options)


def test_a_missing_extra_is_named(robust, tmp_path, monkeypatch):
    monkeypatch.setattr(room, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match='install the extra'): export_onnx(robust[0], tmp_path/'none')
    with pytest.raises(ImportError, match='install the extra'): load_detector(robust[1])


def test_pytorch_is_not_imported(robust):
    code = ("import sys; from cifake.serve.detector import load_detector; import numpy as np; "
            "load_detector(sys.argv[1]).p_fake(np.zeros((1, 32, 32, 3), np.uint8)); "
            "print([o for o in ('torch', 'fastai', 'pandas') if o in sys.modules])")
    command = [sys.executable, '-W', 'ignore', '-c', code, str(robust[1])]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == '[]'
