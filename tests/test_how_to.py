"The pages that solve one task, as their reader meets them: see test_tutorials.py; a file of its own, to run beside it"
import pytest

from check import ROOT
from conftest import alone_in


@pytest.mark.parametrize('notebook', sorted((ROOT/'nbs'/'how-to').glob('*.ipynb')), ids=lambda path: path.stem)
def test_alone_in_an_empty_folder(jupyter, notebook, tmp_path): alone_in(tmp_path, jupyter, notebook)
