"Damaged files against a detector; `benchmarks/fuzz.py` does the same for longer"
import json, sys

from check import ROOT
from conftest import run


def test_damaged_files_give_rows(tmp_path):
    run(sys.executable, '-W', 'ignore', ROOT/'tests'/'fuzz.py', 400, tmp_path/'result.json', cwd=tmp_path)
    found = json.loads((tmp_path/'result.json').read_text())
    assert found['files'] >= 400 and 40 < found['answers']['a verdict'] < found['files'] - 40  # both happen, often
    assert found['slowest_seconds'] < 5
    assert found['megabytes_above_start'] < 300
