"How threads that wait share the cores: one training alone and two together; written to nbs/results/waiting.json"
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from fastcore.script import call_parse

from record import circumstances, save

WAYS = {
    'as PyTorch sets it': {},
    'passive waiting': dict(OMP_WAIT_POLICY='PASSIVE'),
    'short spinning': dict(GOMP_SPINCOUNT='10000'),
    'one thread': dict(OMP_NUM_THREADS='1')}
MIXED = {
    'first as PyTorch sets it, second passive': ('as PyTorch sets it', 'passive waiting'),
    'first as PyTorch sets it, second one thread': ('as PyTorch sets it', 'one thread')}
STEPS = '''import sys, time
from pathlib import Path
import torch
from cifake.models.networks import CifakeNet
from cifake.training.callbacks import choose_precision, muon_arguments
folder, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
net = CifakeNet().to(memory_format=torch.channels_last)
images = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
half = choose_precision() == 'bfloat16'
optimiser = torch.optim.AdamW(net.parameters(), fused=True)
def step():
    with torch.autocast('cpu', torch.bfloat16, enabled=half): out = net(images)
    out.float().logsumexp(1).mean().backward()
    optimiser.step()
    optimiser.zero_grad()
for _ in range(3): step()
(folder/f'{name} ready').touch()
while not (folder/'go').exists(): time.sleep(0.01)
start, n = time.perf_counter(), 0
while time.perf_counter() - start < seconds:
    step()
    n += len(images)
print(n/(time.perf_counter() - start))'''


def rates(environments, seconds):
    "Images a second of trainings side by side, one for each of `environments`"
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for i, env in enumerate(environments):
            command = [sys.executable, '-W', 'ignore', '-c', STEPS, folder, str(i), str(seconds)]
            started.append(subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.PIPE, text=True))
        while len(list(Path(folder).glob('* ready'))) < len(started): time.sleep(0.05)
        (Path(folder)/'go').touch()
        return [float(o.communicate()[0]) for o in started]


@call_parse
def main(
    seconds: int = 8,  # Of each measurement
    repeats: int = 3,  # Turns; the median is taken
):
    "Forward, backward and optimiser step of `CifakeNet`, batches of 128"
    around = circumstances()
    alone, together = {name: [] for name in WAYS}, {name: [] for name in [*WAYS, *MIXED]}
    for _ in range(repeats):
        for name, env in WAYS.items():
            alone[name] += rates([env], seconds)
            together[name].append(rates([env, env], seconds))
        for name, pair in MIXED.items(): together[name].append(rates([WAYS[o] for o in pair], seconds))
        print(json.dumps(dict(alone=alone, together=together)), flush=True)
    rows = []
    for name, turns in together.items():
        own = round(median(alone[name])) if name in alone else None
        each = [round(median(o)) for o in zip(*turns, strict=True)]
        rows.append(dict(way=name, alone=own, first=each[0], second=each[1], both=sum(each)))
    save('waiting', dict(around, seconds=seconds, repeats=repeats, unit='images/s', rows=rows))
