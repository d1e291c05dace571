"Mutated picture files against a detector, for longer than the tests do, and write nbs/results/fuzz.json"
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from fastcore.script import call_parse

from record import circumstances, save


@call_parse
def main(
    n: int = 20000,  # Files
):
    "Runs tests/fuzz.py"
    about = circumstances()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder)/'result.json'
        script = Path(__file__).parent.parent/'tests'/'fuzz.py'
        subprocess.run([sys.executable, '-W', 'ignore', script, str(n), result], check=True)
        values = dict(**about, **json.loads(result.read_text()))
    save('fuzz', values)
    print(values)
