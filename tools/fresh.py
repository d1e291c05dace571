"What tests of an installed package share: the sdist, the wheel, and a fresh environment that holds it, each made once."
import os
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock


def command(*parts, cwd):
    "Run a command that has to succeed; `CalledProcessError` holds its output"
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV')}
    subprocess.run([str(part) for part in parts], cwd=cwd, env=env, check=True, text=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def scripts_of(environment): return environment/('Scripts' if os.name == 'nt' else 'bin')


def once(folder, name, make):
    "The folder `name` in `folder`, made by `make(folder)` if it is not there; other processes wait for it"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder/name
    with FileLock(folder/f'{name}.lock'):
        if not (folder/f'{name}.done').exists():
            shutil.rmtree(target, ignore_errors=True)
            make(target)
            (folder/f'{name}.done').touch()
    return target


def distributions(
    folder: Path,  # Where parts of a check share things
) -> Path:  # Folder with the sdist, and the wheel that was built from it
    "Build the package"
    from check import copy_tree

    def make(target): command(sys.executable, '-m', 'build', '--outdir', target, copy_tree(folder/'source'), cwd=folder)
    return once(folder, 'dist', make)


def fresh_environment(
    folder: Path,  # Where parts of a check share things
) -> Path:  # Folder with the commands of the environment
    "An environment with the wheel and its requirements, and jupyter's means to run a notebook"
    wheel = next(distributions(folder).glob('*.whl'))

    def make(target):
        command(sys.executable, '-m', 'venv', target, cwd=folder)
        install = scripts_of(target)/'python', '-m', 'pip', 'install', '--quiet', '--no-compile'
        command(*install, wheel, cwd=folder)
        command(install[0], '-W', 'ignore', '-c', 'import cifake.all', cwd=folder)  # with no extra and no jupyter
        command(*install, 'nbconvert', 'ipykernel', cwd=folder)
    return scripts_of(once(folder, 'env', make))
