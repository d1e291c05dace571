"What tests of an installed package share: the sdist, the wheel, and a fresh environment that holds it, each made once."
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

OTHER_VERSIONS = '3.12', '3.13', '3.10', '3.11'


def command(*parts, cwd):
    "Run a command that has to succeed; `CalledProcessError` holds its output"
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME', 'VIRTUAL_ENV')}
    subprocess.run([str(part) for part in parts], cwd=cwd, env=env, check=True, text=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def install(python, *packages):
    """Install `packages` for the interpreter `python`: by uv, which shares files between environments, or else by pip.

    PyTorch is of the version that the rest of the check runs on."""
    with tempfile.TemporaryDirectory() as folder:
        same = Path(folder)/'constraints.txt'
        versions = [f'{name}=={version(name).split("+")[0]}' for name in ('torch', 'torchvision')]
        same.write_text('\n'.join(versions) + '\n', encoding='utf-8')
        pip = 'pip', 'install', '--quiet', '--constraint', same
        try: command(sys.executable, '-m', 'uv', *pip, '--python', python, *packages, cwd=folder)
        except subprocess.CalledProcessError: command(python, '-m', *pip, '--no-compile', *packages, cwd=folder)


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
        python = scripts_of(target)/'python'
        install(python, wheel)
        command(python, '-W', 'ignore', '-c', 'import cifake.all', cwd=folder)  # with no extra and no jupyter
        install(python, 'nbconvert', 'ipykernel')
    return scripts_of(once(folder, 'env', make))


def interpreters():
    "Version and path of Pythons of other supported versions on this machine, on the path or below pyenv"
    home = Path(os.environ.get('PYENV_ROOT') or Path.home()/'.pyenv')
    for wanted in OTHER_VERSIONS:
        if wanted == f'{sys.version_info.major}.{sys.version_info.minor}': continue
        below = sorted(home.glob(f'versions/{wanted}.*/bin/python'))
        for python in [shutil.which(f'python{wanted}'), *below]:
            if python and works(python, wanted): yield wanted, python


def works(python, version):
    "Whether `python` is that version and can make an environment: a shim of pyenv may name one that is not there"
    code = 'import sys, venv, ensurepip; print("{}.{}".format(*sys.version_info))'
    done = subprocess.run([python, '-c', code], capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == version


def other_environment(
    folder: Path,  # Where parts of a check share things
) -> Path:  # Folder with the commands of the environment, or None where there is no other Python
    "An environment of another version of Python with the wheel and its requirements"
    found = next(interpreters(), None)
    if found is None: return None
    name, python = found
    wheel = next(distributions(folder).glob('*.whl'))

    def make(target):
        command(python, '-m', 'venv', target, cwd=folder)
        install(scripts_of(target)/'python', wheel)
    return scripts_of(once(folder, f'python{name}', make))
