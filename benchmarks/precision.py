"""Images a second of a training step in float32 and in bfloat16; written to nbs/results/precision.json.

Each processor has its rows there: a run replaces those of the processor it runs on. A processor without AVX-512 is
imitated as well, by the variables that PyTorch's kernels and oneDNN follow.
"""
import json
import os
import subprocess
import sys
from statistics import median

from fastcore.script import call_parse

from record import RESULTS, circumstances, save

MACHINES = {'as it is': {}, 'AVX2 imitated': dict(ONEDNN_MAX_CPU_ISA='AVX2', ATEN_CPU_CAPABILITY='avx2')}
STEPS = '''import json, sys, time
import torch
from cifake.models.networks import CifakeNet
from cifake.training.callbacks import has_fast_bfloat16
precision, seconds = sys.argv[1], float(sys.argv[2])
net = CifakeNet().to(memory_format=torch.channels_last)
images = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
def step():
    with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'bfloat16'): out = net(images)
    out.float().logsumexp(1).mean().backward()
step()
start, n = time.perf_counter(), 0
while time.perf_counter() - start < seconds:
    step()
    n += len(images)
found = [o for o in ('amx_tile', 'avx512_bf16') if getattr(torch.cpu, f'_is_{o}_supported', bool)()]
print(json.dumps(dict(rate=n/(time.perf_counter() - start), kernels=torch.backends.cpu.get_cpu_capability(),
                      instructions=found, auto='bfloat16' if has_fast_bfloat16() else 'float32')))'''


def measured(env, precision, seconds):
    "What one process says of its steps in `precision`"
    command = [sys.executable, '-W', 'ignore', '-c', STEPS, precision, str(seconds)]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@call_parse
def main(
    seconds: int = 6,  # Of each measurement
    repeats: int = 3,  # Turns; the median is taken
):
    "Forward and backward pass of `CifakeNet`, batches of 128"
    around = circumstances()
    processor, rows = around['machine']['processor'], []
    for name, env in MACHINES.items():
        turns = [{o: measured(env, o, seconds) for o in ('float32', 'bfloat16')} for _ in range(repeats)]
        one = turns[0]['float32']
        rates = {o: round(median(turn[o]['rate'] for turn in turns)) for o in ('float32', 'bfloat16')}
        rows.append(dict(processor=processor, imitation=name, kernels=one['kernels'],
                         instructions=' '.join(one['instructions']), **rates, auto=one['auto'], **around))
        print(rows[-1], flush=True)
    file = RESULTS/'precision.json'
    others = json.loads(file.read_text())['rows'] if file.exists() else []
    save('precision', dict(unit='images/s', rows=[o for o in others if o['processor'] != processor] + rows))
