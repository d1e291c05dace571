"""Run notebooks from top to bottom in a real kernel, and store their outputs, cleaned.

    python tools/save_notebooks.py                        # every notebook under nbs/
    python tools/save_notebooks.py --slow nbs/results.ipynb

A notebook runs in a copy of its folder, so that what it trains is not kept. The cells that `nbdev-test` skips are left
alone with the outputs they have: `#| notest`, `#| cuda`, `#| eval: false` and, without `--slow`, `#| slow`. The first
error ends the work, and a notebook with an error is not written.
"""
import os
import re
import shutil
import sys
import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import nbformat
from fastcore.nbio import write_nb
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import nb_test_cells

ROOT = Path(__file__).resolve().parent.parent
ANSI = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')
PROGRESS = re.compile(r'<style\b.*?</style>|<div>\s*<progress\b.*?</div>', re.DOTALL)
PICTURE = re.compile(r'<(img|svg|canvas|video|audio|iframe)\b')


class Client(NotebookClient):
    "Runs only the cells whose positions are in `positions`; remembers where it is, for error messages"
    positions, at = frozenset(), None

    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if cell_index not in self.positions: return cell
        self.at = f'cell {cell_index} ({cell.id})'
        return await super().async_execute_cell(cell, cell_index, **kwargs)


def visible(html):
    "Does `html` show anything?"
    return bool(PICTURE.search(html) or re.sub(r'<[^>]*>', '', html).strip())


def tidy_output(out):
    "`out` without console colours, progress bars and the text that stands in for a figure; None when nothing is left"
    if out.output_type == 'stream':
        out.text = ANSI.sub('', out.text)
        return out if out.name == 'stdout' and out.text.strip() else None
    if out.output_type == 'error':
        out.traceback = [ANSI.sub('', line) for line in out.traceback]
        return out
    data = out.data
    if 'application/vnd.jupyter.widget-view+json' in data: return None
    if any(mime.startswith('image/') for mime in data): data.pop('text/plain', None)
    if 'text/plain' in data: data['text/plain'] = ANSI.sub('', data['text/plain'])
    html = data.get('text/html', '')
    if '<progress' in html or 'fastprogress' in html:
        html = PROGRESS.sub('', html).strip()
        out.data = nbformat.from_dict({'text/html': html})
    return None if 'text/html' in data and not visible(html) else out


def kernel_env(folder, threads):
    "The environment of a kernel: this checkout's package, small figures, no warnings, `threads` threads"
    style = Path(folder)/'matplotlibrc'
    style.write_text('figure.dpi: 80\nsavefig.dpi: 80\n')
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    return {**os.environ, 'PYTHONPATH': path, 'MATPLOTLIBRC': str(style), 'PYTHONWARNINGS': 'ignore',
            'OMP_NUM_THREADS': str(threads)}


def run_notebook(path, slow, threads):
    "Run the notebook at `path`, write it with its new outputs, and return the seconds it took"
    start, config = perf_counter(), get_config(ROOT)
    cells = nb_test_cells(path, skip_flags=config.tst_flags.split(), force_flags=['slow'] if slow else [])
    nb = nbformat.read(path, as_version=4)
    # With no folder to look in, jupyter_client is left with one kernel: the one of this very Python.
    manager = AsyncKernelManager(kernel_name='python3', kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = Client(nb, km=manager, timeout=config.cell_timeout, coalesce_streams=True, record_timing=False,
                    store_widget_state=False, extra_arguments=['--log-level=ERROR'])
    client.positions = {cell.idx_ for cell in cells}
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(config.nbs_path, Path(folder)/'nbs', ignore=shutil.ignore_patterns('runs', '.*'))
        client.resources = {'metadata': {'path': str(copy/path.parent.relative_to(config.nbs_path))}}
        env = kernel_env(folder, threads)
        slow_cells = [cell for cell in cells if 'slow' in cell.directives_]
        if not slow_cells: env.pop('CIFAKE_PATH', None)  # it shows what a newcomer sees
        try: client.execute(env=env)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
            raise RuntimeError(f'{path.relative_to(ROOT)}, {client.at}:\n{ANSI.sub("", str(e))}') from None
    for i in client.positions: nb.cells[i].outputs = [out for out in map(tidy_output, nb.cells[i].outputs) if out]
    clean_nb(nb, clean_ids=config.clean_ids)
    write_nb(nb, path)
    return perf_counter() - start


def main():
    p = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    p.add_argument('paths', nargs='*', type=Path, help='notebooks or folders of notebooks (default: nbs/)')
    p.add_argument('--slow', action='store_true', help='run the `#| slow` cells too (they need CIFAKE_PATH)')
    p.add_argument('--n-workers', type=int, default=1, help='notebooks that run at the same time (default: 1)')
    args = p.parse_args()
    given = [path.resolve() for path in args.paths or [ROOT/'nbs']]
    for path in given:
        if not path.exists(): p.error(f'{path} does not exist')
    os.chdir(ROOT)
    paths = [file for path in given for file in sorted(nbglob(path, as_path=True))]
    threads = max(1, (os.cpu_count() or 1) // args.n_workers)
    with ThreadPoolExecutor(args.n_workers) as pool:
        jobs = [pool.submit(run_notebook, path, args.slow, threads) for path in paths]
        try:
            for path, job in zip(paths, jobs, strict=True):
                print(f'{path.relative_to(ROOT)}: {job.result():.0f} s', flush=True)
        except RuntimeError as e:
            pool.shutdown(cancel_futures=True)
            sys.exit(str(e))


if __name__ == '__main__': main()
