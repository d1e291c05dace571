"What several test files share: the built wheel, a fresh environment that holds it, a trained network, and a browser."
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fresh import distributions, fresh_environment

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = '--no-sandbox', '--disable-gpu', '--disable-background-networking'
SLOW_FIXTURES = {'dist', 'scripts', 'jupyter', 'bare', 'browser', 'trained', 'built', 'imagenet', 'shared'}
LONGEST = 'test_tutorials', 'test_how_to', 'test_distributed', 'test_site'


def pytest_collection_modifyitems(items):
    "Mark what is slow by the fixtures it asks for, and let the longest files begin"
    for item in items:
        if SLOW_FIXTURES & set(item.fixturenames): item.add_marker('slow')
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.module.__name__, len(rank)))


def clean_env(**more):
    "This process's environment without checkout, virtual environment and dataset; None removes a variable"
    ours = 'PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'CIFAKE_PATH'
    env = {k: v for k, v in os.environ.items() if k not in ours}
    return {k: v for k, v in {**env, **more}.items() if v is not None}


def run(*command, cwd, **env):
    "Run `command` and return its output; a failure shows all of it"
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean_env(**env), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f'{command[0]} failed:\n{done.stdout}'
    return done.stdout


def execute(scripts, notebook, folder, change=lambda source: source, fails=False, **env):
    "Copy `notebook` alone into `folder` and run it; its printed text or, if it `fails`, its error"
    nb = json.loads(notebook.read_text(encoding='utf-8'))
    assert any('show_versions()' in ''.join(cell['source']) for cell in nb['cells'])
    for cell in nb['cells']:
        if cell['cell_type'] == 'code': cell['source'], cell['outputs'] = change(''.join(cell['source'])), []
    (folder/notebook.name).write_text(json.dumps(nb), encoding='utf-8')
    home = folder/'home'
    home.mkdir(exist_ok=True)
    env = {'HOME': str(home), 'CIFAKE_HOME': os.environ.get('CIFAKE_HOME', str(home)),
           'PYTHONWARNINGS': 'ignore', 'JUPYTER_PREFER_ENV_PATH': '1',
           'PATH': f'{scripts}{os.pathsep}{os.environ["PATH"]}', **env}
    allow = ['--allow-errors'] if fails else []
    command = scripts/'jupyter-nbconvert', '--to', 'notebook', '--execute', *allow, '--output', 'done.ipynb'
    run(*command, notebook.name, cwd=folder, **env)
    done = json.loads((folder/'done.ipynb').read_text(encoding='utf-8'))
    outputs = [out for cell in done['cells'] for out in cell.get('outputs', [])]
    if fails: return next(out for out in outputs if out['output_type'] == 'error')['evalue']
    printed = [out['text'] for out in outputs if out['output_type'] == 'stream' and out['name'] == 'stdout']
    return ''.join(''.join(text) for text in printed)


def alone_in(folder, scripts, notebook):
    "Run `notebook` alone in an empty `folder`: it says which versions it has, and leaves nothing but runs"
    text = execute(scripts, notebook, folder)
    assert text.startswith('cifake ') and 'torch ' in text.splitlines()[0]
    assert {path.name for path in folder.iterdir()} <= {notebook.name, 'done.ipynb', 'home', 'runs'}


def lay_out(root, train=6, test=2):
    "A tiny dataset of flat colours in the CIFAKE layout"
    rng = np.random.default_rng(0)
    for split, n in dict(train=train, test=test).items():
        for label in ('FAKE', 'REAL'):
            (root/split/label).mkdir(parents=True)
            for i in range(n):
                image = Image.new('RGB', (32, 32), tuple(rng.integers(0, 256, 3).tolist()))
                image.save(root/split/label/f'{i:04} ({i%10+1}).jpg', quality=75)
    return root


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
    "A folder for what is slow to make: that of the whole check, or one of this session"
    if 'CIFAKE_CHECK' in os.environ: return Path(os.environ['CIFAKE_CHECK'])
    base = tmp_path_factory.getbasetemp()
    return (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base)/'shared'


@pytest.fixture(scope='session')
def dist(shared):
    "The folder with the sdist and the wheel; `build` makes the wheel from the sdist"
    return distributions(shared)


@pytest.fixture(scope='session')
def scripts(shared):
    "The commands' folder of a fresh environment that holds the wheel and its requirements"
    return fresh_environment(shared)


@pytest.fixture(scope='session')
def jupyter(scripts):
    "The same, whose environment can run notebooks too"
    return scripts


@pytest.fixture(scope='session')
def trained():
    "The folder of a finished run of `quick` on the demo set, in float32: trained once for all tests and notebooks"
    from cifake.training.train import demo_run
    return demo_run()


@pytest.fixture(scope='session')
def resnet_weights(tmp_path_factory):
    "A file with weights of `test_resnet`, a tiny network of timm, that stand in for ImageNet's"
    import timm
    import torch
    from safetensors.torch import save_file
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp('weights')/'imagenet.safetensors'
    save_file(timm.create_model('test_resnet', num_classes=1000).state_dict(), file)
    return file


@pytest.fixture(scope='module')
def browser():
    if CHROMIUM is None:
        text = 'There is no Chromium here, so nothing was looked at in a browser.'
        pytest.fail(text) if os.environ.get('CI') else pytest.skip(text)
    from playwright.sync_api import sync_playwright
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()
