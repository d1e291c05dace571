"Training: the precision follows from the device, the same call gives the same weights, a run says what made it"
import json
import subprocess
import sys
from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from timm.optim import Muon

from cifake.all import demo_cifake, get_recipe, load_run, resume_run, train_learner
from cifake.training.callbacks import (
    CPUBFloat16,
    Float32Muon,
    choose_precision,
    device_callbacks,
    has_fast_bfloat16,
    muon_arguments,
)
from cifake.training.recipes import recipe_to_json
from conftest import clean_env


class Machine(ExitStack):
    "Imitates a machine: its kernels, its instructions, and whether its GPU computes in bfloat16"
    def __init__(self, kernels='AVX512', amx=False, bf16=False, cuda_bf16=False):
        super().__init__()
        self.enter_context(patch('torch.backends.cpu.get_cpu_capability', return_value=kernels))
        self.enter_context(patch('torch.cpu._is_amx_tile_supported', return_value=amx))
        self.enter_context(patch('torch.cpu._is_avx512_bf16_supported', return_value=bf16))
        self.enter_context(patch('torch.cuda.is_bf16_supported', return_value=cuda_bf16))


@pytest.fixture(autouse=True)
def nobody_asks(monkeypatch):
    "What a user's environment asks for is set by each test itself"
    monkeypatch.delenv('CIFAKE_PRECISION', raising=False)


@pytest.mark.parametrize('kernels, amx, bf16, fast', [
    ('AVX512', True, True, True), ('AVX512', True, False, True), ('AVX512', False, True, True),
    ('AVX512', False, False, False),  # bfloat16 without instructions for it
    ('AVX512_AMX', True, True, True),  # whatever follows AVX512
    ('AVX2', True, True, False),  # ATEN_CPU_CAPABILITY=avx2 on a processor that has AMX
    ('DEFAULT', False, False, False), ('NO AVX', False, False, False), ('SVE256', False, False, False)])
def test_what_a_processor_is_fast_at(kernels, amx, bf16, fast):
    with Machine(kernels, amx, bf16):
        assert has_fast_bfloat16() is fast
        assert choose_precision() == ('bfloat16' if fast else 'float32')


def test_queries_that_this_torch_does_not_have():
    "Older and newer versions of PyTorch lack one query or the other"
    with Machine(amx=True, bf16=True):
        with patch.object(torch.cpu, '_is_amx_tile_supported', None): torch.cpu.__dict__.pop('_is_amx_tile_supported')
        assert has_fast_bfloat16()


def test_nothing_is_timed_and_no_random_number_is_drawn():
    before = torch.get_rng_state()
    with patch('time.perf_counter', side_effect=AssertionError('timed')):
        answers = {has_fast_bfloat16() for _ in range(20)}
    assert len(answers) == 1
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('device, asked, cuda_bf16, chosen', [
    ('cuda', 'auto', True, 'bfloat16'), ('cuda', 'auto', False, 'float16'),  # as a T4
    ('cuda', 'bfloat16', True, 'bfloat16'), ('cuda', 'float32', True, 'float32'), ('cuda', 'float16', True, 'float16'),
    ('mps', 'auto', True, 'float32'), ('mps', 'float32', True, 'float32')])
def test_what_other_devices_get(device, asked, cuda_bf16, chosen):
    with Machine(amx=True, cuda_bf16=cuda_bf16): assert choose_precision(asked, device) == chosen


@pytest.mark.parametrize('device, asked, words', [
    ('cuda', 'bfloat16', 'This GPU does not support bfloat16'), ('mps', 'bfloat16', "not supported on 'mps'"),
    ('mps', 'float16', "not supported on 'mps'"), ('cpu', 'float16', "not supported on 'cpu'"),
    ('cpu', 'half', "`precision` is 'half': choose one of auto, float32")])
def test_what_a_device_cannot_do_is_refused(device, asked, words):
    with Machine(), pytest.raises(ValueError, match=words): choose_precision(asked, device)


def test_forced_on_a_processor_without_instructions():
    with Machine('AVX2'), pytest.warns(UserWarning, match='no bfloat16 instructions'):
        assert choose_precision('bfloat16') == 'bfloat16'


@pytest.mark.parametrize('value', ['float32', 'bfloat16', 'auto', ''])
def test_the_variable_decides_where_the_call_leaves_it_open(value, monkeypatch):
    monkeypatch.setenv('CIFAKE_PRECISION', value)
    with Machine(amx=True):
        assert choose_precision() == (value if value in ('float32', 'bfloat16') else 'bfloat16')
        assert choose_precision('float32') == 'float32'


def test_a_misspelt_variable_is_named(monkeypatch):
    monkeypatch.setenv('CIFAKE_PRECISION', 'fp16')
    with pytest.raises(ValueError, match="environment variable CIFAKE_PRECISION is 'fp16'"): choose_precision()
    assert choose_precision('float32') == 'float32'


def test_callbacks_and_optimiser_follow_the_choice():
    def made(device, **machine):
        with Machine(**machine):
            optimiser = muon_arguments(device=device)['opt_func'].keywords['opt'].func
            return [type(o).__name__ for o in device_callbacks(device)[1:]], optimiser
    assert made('cpu', amx=True) == (['CPUBFloat16'], Muon)
    assert made('cpu', kernels='AVX2', amx=True) == ([], Float32Muon)
    assert made('cuda', cuda_bf16=True) == (['MixedPrecision'], Muon)
    assert made('cuda') == (['MixedPrecision'], Float32Muon)
    assert made('mps') == ([], Float32Muon)


@pytest.mark.parametrize('cuda_bf16, mode', [(True, 'bf16'), (False, 'fp16')])
def test_mixed_precision_of_a_gpu(cuda_bf16, mode):
    "float16 comes with fastai's scaler, which bfloat16 does not need"
    with Machine(cuda_bf16=cuda_bf16): (callback,) = device_callbacks('cuda')[1:]
    assert callback.amp_mode.value == mode


SMALL = dict(epochs=2, min_steps=0, bs=32)
TRAIN = '''import sys
from pathlib import Path
from cifake.all import demo_cifake, train_learner
from cifake.training.recipes import recipe_from_json
recipe = recipe_from_json(Path(sys.argv[1]).read_text())
learn = train_learner(demo_cifake(n=100), recipe, out=sys.argv[2], verbose=False)'''
BUSY = 'import torch\nx = torch.ones(600, 600)\nwhile True: x = (x @ x).clamp(0, 1)'


@pytest.mark.slow
@pytest.mark.parametrize('how', ['auto', 'float32'])
def test_the_same_call_gives_the_same_weights_beside_a_busy_process(how, tmp_path):
    "Bit for bit, in the precision that this machine chooses and in float32"
    (tmp_path/'recipe.json').write_text(recipe_to_json(get_recipe('quick', **SMALL)))
    env = clean_env(CIFAKE_PRECISION=None if how == 'auto' else how)

    def train(out):
        command = [sys.executable, '-W', 'ignore', '-c', TRAIN, 'recipe.json', out]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return tmp_path/out

    alone = train('alone')
    other = subprocess.Popen([sys.executable, '-c', BUSY], stdin=subprocess.DEVNULL)
    try: beside = train('beside')
    finally: other.kill()
    assert other.wait() != 0, 'the other process ended before it was stopped'
    chosen = [json.loads((o/'recipe.json').read_text())['precision'] for o in (alone, beside)]
    assert chosen == [choose_precision('auto' if how == 'auto' else how)]*2
    for name in ('weights.safetensors', 'report.json', 'valid.txt'):
        assert (alone/name).read_bytes() == (beside/name).read_bytes(), name


@pytest.mark.slow
def test_a_run_keeps_its_precision(tmp_path, capsys):
    "It says so once, goes on in it, and is measured on another machine in what suits that machine"
    recipe = get_recipe('lenet', **SMALL)

    class Stop(CPUBFloat16):
        order = 90
        def after_epoch(self): raise KeyboardInterrupt
        def before_batch(self): pass
        def after_pred(self): pass

    with Machine(amx=True), pytest.raises(KeyboardInterrupt):
        train_learner(demo_cifake(n=60), recipe, out=tmp_path/'run', cbs=[Stop()])
    assert capsys.readouterr().out.count('Computing in bfloat16 on cpu.') == 1
    assert json.loads((tmp_path/'run'/'recipe.json').read_text())['precision'] == 'bfloat16'

    def halves(learn): return sum(type(o) is CPUBFloat16 for o in learn.cbs)
    with Machine('AVX2'):
        assert halves(load_run(tmp_path/'run')) == 0
        with pytest.warns(UserWarning, match='no bfloat16 instructions'):
            resumed = resume_run(tmp_path/'run', verbose=False)
        assert halves(resumed) == 1
    assert json.loads((tmp_path/'run'/'recipe.json').read_text())['precision'] == 'bfloat16'
    with Machine(amx=True): assert halves(load_run(tmp_path/'run')) == 1
    train_learner(demo_cifake(n=60), recipe, out=tmp_path/'full', precision='float32', verbose=False)
    with Machine(amx=True): assert halves(load_run(tmp_path/'full')) == 0
