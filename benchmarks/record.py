"What every benchmark writes beside its numbers: command, commit, machine and time"
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

from cifake.main import processor_name

RESULTS = Path(__file__).parent.parent/'nbs'/'results'


def _git(*args): return subprocess.run(['git', *args], capture_output=True, text=True, cwd=RESULTS).stdout.strip()


def _commit():
    "The commit that was measured, with `+` where the package differs from it"
    changed = _git('status', '--porcelain', '--', ':/cifake', ':/benchmarks')
    return _git('rev-parse', '--short', 'HEAD') + ('+' if changed else '')


PLACES = {'--out', '--sources', '--weights'}  # where files and folders lie is nobody's business


def circumstances():
    "Command, commit, day and machine of this measurement; ask before it starts, since a run may outlive its commit"
    words = [o for i, o in enumerate(sys.argv[1:]) if not {o, sys.argv[i]} & PLACES]
    command = shlex.join(['python', f'benchmarks/{Path(sys.argv[0]).name}', *words])
    return dict(command=command, commit=_commit(), date=str(date.today()),
                machine=dict(processor=processor_name(), cores=os.cpu_count(), python=platform.python_version()))


def peak_memory():
    "Largest resident memory so far of this process, and of its largest child, in GB"
    return [round(resource.getrusage(o).ru_maxrss/1e6, 2) for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def rows_of(table):
    "The rows of a table of measures, for JSON"
    return json.loads(table.reset_index().to_json(orient='records', double_precision=6))


def sources_in(folder):
    "Name and folder of each set of pictures below `folder`: what holds FAKE"
    return {o.parent.name: o.parent for o in sorted(Path(folder).rglob('FAKE'))}


def save(name, values):
    "Write `values` to `nbs/results/NAME.json`"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS/f'{name}.json').write_text(json.dumps(values, indent=1) + '\n')
    print(f'nbs/results/{name}.json')
