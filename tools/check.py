"""The whole check of the project, in the order of its cost; ends with one line, `N passed, M failed`.

1. nbdev-clean and nbdev-export leave the tree unchanged
2. README.md is what nbs/index.ipynb gives, and badges what pyproject.toml gives
3. pyflakes finds no name that is used without an import, as one from a hidden cell would be, and no import without use
4. every notebook passes, without the dataset; tutorials and how-tos do in 5, alone in an empty folder. With $CIFAKE_PATH
   set to the dataset, those that have `#| slow` cells pass with them instead
5. tests/: the wheel in a fresh environment, the tutorials there, the site in a browser, the command line
"""
import os, sys

if sys.version_info < (3, 11): sys.exit('tools/check.py needs Python 3.11 or newer, as the development tools do.')

import re, shutil, subprocess, sysconfig, tempfile
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).resolve().parent.parent
SLOW = re.compile(r'"\s*#\s*\|\s*slow\b')  # a directive at the start of a line, in a notebook's JSON
CORES = os.cpu_count() or 1
counts = dict(passed=0, failed=0, skipped=0)


def report(name, state, seconds=None, text=''):
    "Count an entry and print its line; of a failure, the output too"
    counts[state] += 1
    print(f'{state:8}{name}' + (f'  {seconds:.1f} s' if seconds is not None else ''), flush=True)
    if text.strip(): print('\n'.join('    ' + line for line in text.strip().splitlines()), flush=True)


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
    ok, text, _ = run('git', '-c', 'core.quotePath=off', 'ls-files', '--cached', '--others', '--exclude-standard')
    if not ok: sys.exit(f'tools/check.py needs git and a git checkout to tell which files belong to the project: {text}')
    return sorted({Path(line) for line in text.splitlines() if os.path.lexists(ROOT/line)})


def copy_tree(folder):
    "Copy the project's files, and nothing else, into `folder`"
    for path in tree():
        (folder/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/path, folder/path, follow_symlinks=False)
    return folder


def contents(folder):
    "The bytes of every file under `folder`, by relative path; a symbolic link is its target"
    return {path.relative_to(folder): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            for path in folder.rglob('*') if path.is_symlink() or path.is_file()}


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
            fine = ok and not changed
            report(f'{name} leaves the tree unchanged', 'passed' if fine else 'failed', seconds, '' if fine else text)
            before = after


def check_readme():
    ok, text, seconds = run(sys.executable, 'tools/readme.py', '--check')
    report('README.md equals nbs/index.ipynb', 'passed' if ok else 'failed', seconds, '' if ok else text)


def check_names():
    "No name without its import, no import without its use; `all.py` only imports"
    files = [path for path in tree() if path.suffix == '.py' and path.name not in ('all.py', '_modidx.py')]
    ok, text, seconds = run(sys.executable, '-m', 'pyflakes', *files)
    report('pyflakes', 'passed' if ok else 'failed', seconds, '' if ok else text)


def check_notebooks(jobs):
    """Test each notebook in a process of its own, two at a time, sharing the cores, in a copy: what they train is not kept.
    `jobs` are pairs of path and dataset: with a dataset, slow cells are run too. Those come first, since they take longest"""
    workers = min(2, CORES)
    env = dict(OMP_NUM_THREADS=str(max(1, CORES // workers)))
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(workers) as pool:
        folder = copy_tree(Path(temporary)/'cifake')
        test = lambda job: run(script('nbdev-test'), job[0], '--flags', 'slow' if job[1] else '', cwd=folder, **env, CIFAKE_PATH=job[1], PYTHONPATH=str(folder))
        for (path, data), (ok, text, seconds) in zip(jobs, pool.map(test, jobs)):
            report(f'{path}{" with its slow cells" if data else ""}', 'passed' if ok else 'failed', seconds, '' if ok else text)


def check_tests():
    "Run pytest and count its tests one by one"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder)/'report.xml'
        ok, text, seconds = run(sys.executable, '-m', 'pytest', '-q', '--junitxml', file)
        cases = list(ET.parse(file).iter('testcase')) if file.exists() else []
    for case in cases:
        problem = next((case.find(tag) for tag in ('failure', 'error', 'skipped') if case.find(tag) is not None), None)
        state = 'passed' if problem is None else 'skipped' if problem.tag == 'skipped' else 'failed'
        detail = '' if problem is None else problem.get('message', '') if state == 'skipped' else problem.text
        report(f"{case.get('classname').replace('.', '/')}.py {case.get('name')}", state, float(case.get('time')), detail)
    if not ok and not any(case.find('failure') is not None or case.find('error') is not None for case in cases):
        report('tests', 'failed', seconds, text)


def main():
    start = perf_counter()
    check_generated()
    check_readme()
    check_names()
    notebooks = [p for p in tree() if p.suffix == '.ipynb' and p.parts[0] == 'nbs' and not p.name.startswith('_')]
    slow = [path for path in notebooks if SLOW.search((ROOT/path).read_text(encoding='utf-8'))]
    data = os.environ.get('CIFAKE_PATH')
    data = str(Path(data).resolve()) if data and Path(data).exists() else None
    others = [p for p in notebooks if p.parent.name not in ('tutorials', 'how-to') and not (data and p in slow)]
    check_notebooks([*((path, data) for path in slow if data), *((path, None) for path in others)])
    if not data:
        for path in slow: report(f'{path} with its slow cells: CIFAKE_PATH names no dataset here', 'skipped')
    check_tests()
    print(f'{perf_counter() - start:.0f} s in all')
    skipped = f", {counts['skipped']} skipped" if counts['skipped'] else ''
    print(f"{counts['passed']} passed, {counts['failed']} failed{skipped}")
    sys.exit(bool(counts['failed']))


if __name__ == '__main__': main()
