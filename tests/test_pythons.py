"The wheel under another version of Python: installed, trained on the demo set, asked for a verdict"
import pytest

from conftest import run
from fresh import other_environment

JUDGE = '''from cifake.all import demo_cifake, load_detector
file = sorted((demo_cifake()/'test'/'FAKE').iterdir())[0]
print(load_detector().predict(file).verdict[0])'''


def test_another_python(shared, tmp_path):
    "One of them: the matrix of the tests workflow has the others"
    scripts = other_environment(shared)
    if scripts is None: pytest.skip('There is no other supported version of Python here.')
    home = dict(CIFAKE_HOME=str(tmp_path/'home'), PYTHONWARNINGS='ignore')
    train = scripts/'cifake-train', '--demo', '--recipe', 'lenet', '--epochs', '1', '--out', 'run'
    said = run(*train, cwd=tmp_path, **home)
    assert 'Kept in run' in said
    assert run(scripts/'python', '-c', JUDGE, cwd=tmp_path, **home).split()[-1] in ('FAKE', 'REAL')
