"""The whole check of the project, in the order of its cost; ends with one line, `N passed, M failed`.

    python tools/check.py                          # everything
    python tools/check.py --fast                   # 1 to 4: no training, no browser, no second environment
    python tools/check.py tests/test_x.py nbs/y.ipynb  # any part by name

1. nbdev-clean and nbdev-export leave the tree unchanged
2. README.md is what nbs/index.ipynb gives, and badges what pyproject.toml gives
3. ruff finds nothing in the package, tests, tools and benchmarks
4. the tests in tests/ that need no training, no browser and no second environment
5. every notebook passes, without the dataset; tutorials and how-tos do in 6, alone in an empty folder. With
   $CIFAKE_PATH set to the dataset, those that have `#| slow` cells pass with them instead
6. the other tests in tests/: the wheel in a fresh environment, the tutorials there, the site in a browser

Parts run side by side, each with its share of the processor. OMP_NUM_THREADS is kept where it is set, and fewer parts
run side by side then. What is trained for examples is trained once, in a folder of the check's own.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter

from fresh import fresh_environment, other_environment

ROOT = Path(__file__).resolve().parent.parent
SLOW = re.compile(r'"\s*#\s*\|\s*slow\b')  # a directive at the start of a line, in a notebook's JSON
LINTED = 'cifake', 'tests', 'tools', 'benchmarks'
LONGEST = 'learner', 'faithfulness', 'cli', 'loaders', 'search', 'compare', 'objects', 'callbacks'
counts = Counter()


def report(name, state, seconds=None, text=''):
    "Count an entry and print its line; of a failure, the output too"
    counts[state] += 1
    took = '' if seconds is None else f'  {seconds:.1f} s'
    print(f'{state:8}{name}{took}', flush=True)
    if text.strip(): print('\n'.join('    ' + line for line in text.strip().splitlines()), flush=True)


def report_run(name, ok, text, seconds):
    "Count a command that has to succeed"
    report(name, 'passed' if ok else 'failed', seconds, '' if ok else text)


def run(*command, cwd=ROOT, **env):
    "Run `command`; whether it succeeded, its output, and its seconds. An `env` of None removes a variable"
    start = perf_counter()
    env = {k: v for k, v in {**os.environ, **env}.items() if v is not None}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, text=True, errors='replace',
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode == 0, done.stdout, perf_counter() - start


def script(name): return Path(sysconfig.get_path('scripts'))/name


def tree():
    "The project's files, relative to its top: what git tracks, and what it would track"
    listing = 'git', '-c', 'core.quotePath=off', 'ls-files', '--cached', '--others', '--exclude-standard'
    ok, text, _ = run(*listing)
    if not ok: sys.exit(f'tools/check.py needs a git checkout to tell which files belong to the project: {text}')
    return sorted({Path(line) for line in text.splitlines() if os.path.lexists(ROOT/line)})


def copy_tree(folder):
    "Copy the project's files, and nothing else, into `folder`"
    for path in tree():
        (folder/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/path, folder/path, follow_symlinks=False)
    return folder


def contents(folder):
    "The bytes of every file under `folder`, by relative path; a symbolic link is its target"
    found = {}
    for path in folder.rglob('*'):
        if path.is_symlink(): found[path.relative_to(folder)] = os.readlink(path).encode()
        elif path.is_file(): found[path.relative_to(folder)] = path.read_bytes()
    return found


def cores():
    "Processor cores that the check may use"
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def workers_and_threads():
    "How many parts run side by side, and the threads of each: a given OMP_NUM_THREADS is kept"
    given = os.environ.get('OMP_NUM_THREADS', '')
    if given.isdigit() and int(given): return min(2, max(1, cores()//int(given))), int(given)
    workers = min(2, cores())
    return workers, max(1, cores()//workers)


def check_generated():
    "nbdev-clean and nbdev-export change nothing, in a copy of the project"
    with tempfile.TemporaryDirectory() as temporary:
        folder = copy_tree(Path(temporary)/'cifake')
        before = contents(folder)
        for name in 'nbdev-clean', 'nbdev-export':
            ok, text, seconds = run(script(name), cwd=folder)
            after = contents(folder)
            changed = sorted(str(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path))
            if changed: text += f'It changes {", ".join(changed)}: run `{name}` and commit the result.'
            report_run(f'{name} leaves the tree unchanged', ok and not changed, text, seconds)
            before = after


def check_readme():
    report_run('README.md equals nbs/index.ipynb', *run(sys.executable, 'tools/readme.py', '--check'))


def check_ruff():
    report_run('ruff', *run(sys.executable, '-m', 'ruff', 'check', *LINTED))


def notebook_jobs(paths, data):
    "Pairs of notebook and dataset, the longest first: with a dataset, slow cells are run too"
    slow = {path for path in paths if SLOW.search((ROOT/path).read_text(encoding='utf-8'))}
    for path in sorted(slow) if not data else ():
        report(f'{path} with its slow cells: CIFAKE_PATH names no dataset here', 'skipped')
    rank = {name: i for i, name in enumerate(LONGEST)}
    order = sorted(paths, key=lambda path: (path not in slow if data else False, rank.get(path.stem, len(rank)), path))
    return [(path, data if path in slow else None) for path in order]


def test_notebook(job, folder, env):
    "Run the notebook of `job` in a process of its own and report it"
    path, data = job
    flags = 'slow' if data else ''
    result = run(script('nbdev-test'), path, '--flags', flags, cwd=folder, **env, CIFAKE_PATH=data, PYTHONPATH=folder)
    report_run(f'{path}{" with its slow cells" if data else ""}', *result)


def check_notebooks(jobs, env, workers, meanwhile):
    "Test each notebook in a copy of the project, since what it trains is not kept; do something else `meanwhile`"
    pools = ThreadPoolExecutor(workers), ThreadPoolExecutor(1)
    with tempfile.TemporaryDirectory() as temporary, pools[0] as pool, pools[1] as other:
        folder = copy_tree(Path(temporary)/'cifake')
        aside = other.submit(meanwhile)
        list(pool.map(partial(test_notebook, folder=str(folder), env=env), jobs))
        aside.result()


def check_tests(parts, env, workers, fast):
    "Run pytest and count its tests one by one"
    options = ['-m', 'not slow'] if fast else []
    if workers > 1: options += ['-n', workers, '--dist', 'loadfile', '--no-loadscope-reorder']
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/'report.xml'
        ok, text, seconds = run(sys.executable, '-m', 'pytest', '-q', '--junitxml', file, *options, *parts, **env)
        cases = list(ET.parse(file).iter('testcase')) if file.exists() else []
    for case in cases: report_case(case)
    broken = any(case.find(tag) is not None for case in cases for tag in ('failure', 'error'))
    if not ok and not broken: report('tests', 'failed', seconds, text)


def report_case(case):
    "Count one test of pytest's report"
    problem = next((case.find(tag) for tag in ('failure', 'error', 'skipped') if case.find(tag) is not None), None)
    state, detail = 'passed', ''
    if problem is not None:
        state = 'skipped' if problem.tag == 'skipped' else 'failed'
        detail = problem.get('message', '') if state == 'skipped' else problem.text or problem.get('message', '')
    name = f"{case.get('classname').replace('.', '/')}.py {case.get('name')}"
    report(name, state, float(case.get('time')), detail)


@contextmanager
def workplace(threads):
    "The environment of all parts: a home of the check's own, and a folder where parts share what is slow to make"
    with tempfile.TemporaryDirectory(prefix='cifake-check-') as folder:
        home, shared = Path(folder)/'home', Path(folder)/'shared'
        for path in home, shared: path.mkdir()
        yield dict(CIFAKE_HOME=str(home), CIFAKE_CHECK=str(shared), OMP_NUM_THREADS=str(threads))


def prepare(env):
    "What several parts need: a trained network, and environments that hold the wheel"
    code = 'from cifake.training.train import demo_run; print(demo_run())'
    result = run(sys.executable, '-W', 'ignore', '-c', code, **env, PYTHONPATH=str(ROOT))
    report_run('a network trained for examples', *result)
    for name, make in (('a fresh environment', fresh_environment), ('one of another Python', other_environment)):
        start = perf_counter()
        try: made = make(Path(env['CIFAKE_CHECK']))
        except subprocess.CalledProcessError as e: report(name, 'failed', perf_counter() - start, e.stdout)
        else: report(name, 'passed' if made else 'skipped', perf_counter() - start)


def chosen_parts(names):
    "Notebooks and tests among `names`; a name that is neither ends the check"
    for name in names:
        file = name.split('::')[0]
        if not (ROOT/file).exists() or Path(file).suffix not in ('.ipynb', '.py'):
            sys.exit(f'{name} is no part of the check: name a notebook under nbs/ or a file under tests/.')
    return [Path(n) for n in names if n.endswith('.ipynb')], [n for n in names if not n.endswith('.ipynb')]


def everything(args, env, workers):
    "The check without parts: static parts first, then notebooks, then tests"
    check_generated()
    check_readme()
    check_ruff()
    if args.fast: return check_tests([], env, workers, fast=True)
    alone = 'tutorials', 'how-to'
    notebooks = [p for p in tree() if p.suffix == '.ipynb' and p.parts[0] == 'nbs' and p.parent.name not in alone]
    check_notebooks(notebook_jobs(notebooks, args.data), env, workers, partial(prepare, env))
    check_tests([], env, workers, fast=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', help='notebooks and test files; without any, everything')
    parser.add_argument('--fast', action='store_true', help='no training, no browser, no second environment')
    args = parser.parse_args()
    if sys.version_info < (3, 11) and not args.fast:
        sys.exit('tools/check.py needs Python 3.11 or newer, as the development tools do; --fast runs on 3.10 too.')
    data = os.environ.get('CIFAKE_PATH')
    args.data = str(Path(data).resolve()) if data and Path(data).exists() else None
    os.chdir(ROOT)
    start, (workers, threads) = perf_counter(), workers_and_threads()
    notebooks, tests = chosen_parts(args.parts)
    with workplace(threads) as env:
        if notebooks: check_notebooks(notebook_jobs(notebooks, args.data), env, workers, lambda: None)
        if tests: check_tests(tests, env, workers, fast=args.fast)
        if not args.parts: everything(args, env, workers)
    print(f'{perf_counter() - start:.0f} s in all')
    skipped = f", {counts['skipped']} skipped" if counts['skipped'] else ''
    print(f"{counts['passed']} passed, {counts['failed']} failed{skipped}")
    sys.exit(bool(counts['failed']))


if __name__ == '__main__': main()
