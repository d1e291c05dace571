"What several test files share: the built wheel, a fresh environment that holds it, and a browser."
import os, shutil, subprocess, sys

import pytest
from check import copy_tree

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = '--no-sandbox', '--disable-gpu', '--disable-background-networking'


def clean_env(**more):
    "This process's environment with nothing of this checkout or of a virtual environment in it; a value of None removes a variable"
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV', 'CIFAKE_PATH')}
    return {k: v for k, v in {**env, **more}.items() if v is not None}


def run(*command, cwd, **env):
    "Run `command` and return its output; a failure shows all of it"
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean_env(**env), text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, f'{command[0]} failed:\n{done.stdout}'
    return done.stdout


@pytest.fixture(scope='session')
def dist(tmp_path_factory):
    "The folder with the sdist and the wheel; `build` makes the wheel from the sdist"
    folder = tmp_path_factory.mktemp('build')
    run(sys.executable, '-m', 'build', '--outdir', folder/'dist', copy_tree(folder/'source'), cwd=folder)
    return folder/'dist'


@pytest.fixture(scope='session')
def scripts(dist, tmp_path_factory):
    "The commands' folder of a fresh environment that holds the wheel and its requirements"
    folder = tmp_path_factory.mktemp('fresh')/'env'
    run(sys.executable, '-m', 'venv', folder, cwd=folder.parent)
    path = folder/('Scripts' if os.name == 'nt' else 'bin')
    run(path/'python', '-m', 'pip', 'install', '--quiet', next(dist.glob('*.whl')), cwd=folder.parent)
    return path


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
