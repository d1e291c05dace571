"The engine on PyTorch: the same numbers as the learner, for every kind of network, and files that are refused"
import json
import sys
from contextlib import redirect_stdout
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cifake.data import loaders
from cifake.data.demo import demo_cifake
from cifake.data.pictures import read_picture, to_square
from cifake.serve.card import box_card, box_file
from cifake.serve.detector import load_detector, load_pretrained, save_detector
from cifake.serve.torch_network import TorchNetwork, WholeNetwork
from cifake.training.learner import cifake_learner

FILES = sorted((demo_cifake(n=200)/'test').rglob('*.jpg'))
PIXELS = np.stack([np.asarray(to_square(read_picture(o).image)) for o in FILES])


@pytest.fixture(scope='module')
def robust():
    with box_file('robust') as file: return TorchNetwork(file)


def test_pixels_are_prepared_as_in_the_loaders(robust):
    learn = load_pretrained(path=demo_cifake(n=200))
    items = sorted(loaders.test_dl(learn.dls).items, key=lambda o: o.file)
    x = learn.dls.test_dl(items, bs=len(items)).one_batch()[0]
    assert torch.equal(robust.whole.prepared(torch.from_numpy(PIXELS)), x)


def test_the_mirror_image_is_averaged():
    with box_file('robust') as file: once, twice = (TorchNetwork(file, flip_average=o) for o in (False, True))
    for image in PIXELS[:5]:
        views = [once(o[None].copy())[0] for o in (image, image[:, ::-1])]
        assert min(views) <= twice(image[None])[0] <= max(views)
    assert once.card['flip_average'] is False and twice.card['flip_average'] is True


class Logits(torch.nn.Module):
    "Logits of FAKE: the first pixel; of REAL: 0"
    def forward(self, x): return torch.stack([x[:, 0, 0, 0], torch.zeros(len(x))], 1)


def test_temperature_and_bias_scale_the_logit():
    card = dict(flip_average=False, stats=[[0.]*3, [1.]*3], calibration=dict(temperature=2., bias=-0.25))
    pixels = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    assert torch.allclose(WholeNetwork(Logits(), card)(pixels), torch.tensor(1/2 - 0.25).sigmoid())
    del card['calibration']['bias']
    assert torch.allclose(WholeNetwork(Logits(), card)(pixels), torch.tensor(1/2).sigmoid())


KINDS = {
    'lenet': {}, 'birdlotficnn': dict(sigmoid=True, model_args=dict(filters=16)), 'cifakevit': dict(objects=True),
    'test_resnet': dict(head='dense', hidden=8), 'squeezenet1_1': dict(sigmoid=True)}


@pytest.mark.slow
@pytest.mark.parametrize('arch', KINDS)
def test_every_kind_of_network_gives_the_learners_numbers(tmp_path, arch):
    with redirect_stdout(None):
        dls = loaders.memory_dls(demo_cifake(n=200), stats=None)
        learn = cifake_learner(dls, arch, precision='float32', **KINDS[arch])
    learn.model.eval()
    detector = load_detector(save_detector(learn, tmp_path/arch))
    items = loaders.test_dl(learn.dls).items
    with learn.no_bar(): expected = learn.get_preds(dl=loaders.test_dl(learn.dls))[0][:, 0].numpy()
    assert np.abs(detector.p_fake(items) - expected).max() < 1e-4


@pytest.fixture
def changed(tmp_path):
    "What is wrong with a file of the package's weights when its card says something else"
    with box_file('robust') as file: state = load_file(file)

    def changed(**changes):
        card = json.loads(json.dumps(box_card('robust')))
        for k, v in changes.items(): (card['network'] if k in card['network'] else card)[k] = v
        save_file(state, tmp_path/'changed.safetensors', metadata=dict(card=json.dumps(card)))
        try: TorchNetwork(tmp_path/'changed.safetensors')
        except ValueError as e:
            assert 'cannot be read as a detector' in str(e)
            return str(e)

    return changed


def test_a_file_that_fits_its_card_is_read(changed): assert changed() is None


@pytest.mark.parametrize('changes', [
    dict(model_args=dict(widths=[])), dict(model_args=dict(widths=3)), dict(model_args=dict(widths=[0, 0, 0])),
    dict(model_args=dict(stem=0.5)), dict(model_args=dict(widths=[4096]*16)), dict(model_args=dict(drop=3)),
    dict(model_args=dict(layers=3)), dict(arch='cifakevit', model_args=dict(heads=3)),
    dict(arch='mlp', model_args=dict(side=4096, hidden=[4096])), dict(arch='birdlotficnn', model_args=dict(layers=40)),
    dict(objects=1), dict(outputs=1, objects=10), dict(arch='lenet'), dict(arch='my_resnet'), dict(version=2),
    dict(arch='test_resnet', head='own', model_args=dict(no=1))], ids=str)
def test_a_card_of_another_network_is_refused(changed, changes): assert changed(**changes)


def test_a_network_that_is_far_larger_is_refused_before_it_takes_memory(changed):
    assert 'far larger than what the file holds' in changed(arch='vit_giant_patch14_224')


def test_the_number_of_threads_is_as_before(robust):
    before = torch.get_num_threads()
    with robust.one_core_each() as first:
        first()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


SHARED = []


def judged_by_a_fork(_): return SHARED[0](PIXELS).tolist()


@pytest.mark.skipif(sys.platform != 'linux', reason='others do not fork')
def test_a_process_that_is_forked_after_the_first_verdicts_does_not_wait_forever(robust):
    "As a server does that loads the detector once, then forks its workers; these may be daemons"
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        SHARED[:] = [robust]
        here = robust(PIXELS)
        with get_context('fork').Pool(1) as pool: there = pool.map_async(judged_by_a_fork, [0]).get(60)[0]
    finally: torch.set_num_threads(threads)
    assert np.abs(here - there).max() < 1e-5
