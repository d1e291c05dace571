"""Count how dense the package and its notebooks are: `python tools/lines.py [FOLDER ...]`, by default `cifake`.

- syntax nodes a line: all nodes of the syntax tree over the lines that are neither blank, comment nor docstring
- lines over 120 characters
- names at module level: public ones and private ones
- lines of hidden cells, and the most exported cells of a notebook before its first output
"""
import ast
import io
import json
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 120
MADE = 'cifake/_modidx.py'  # by nbdev
OWNERS = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING,
           tokenize.ENDMARKER}


def docstring_lines(tree):
    "The lines of docstrings"
    for node in ast.walk(tree):
        if not isinstance(node, OWNERS) or not node.body: continue
        first = node.body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            yield from range(first.lineno, first.end_lineno + 1)


def code_lines(text, tree):
    "The lines that hold code"
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SKIPPED: lines.update(range(token.start[0], token.end[0] + 1))
    return lines - set(docstring_lines(tree))


def module_names(tree):
    "The functions, classes and constants that a module makes"
    for node in tree.body:
        if isinstance(node, OWNERS): yield node.name
        elif isinstance(node, ast.Assign): yield from (o.id for o in node.targets if isinstance(o, ast.Name))


def count_module(path):
    "Counts of one module"
    text = path.read_text(encoding='utf-8')
    tree = ast.parse(text)
    names = [name for name in module_names(tree) if not name.startswith('__')]
    return dict(nodes=sum(1 for _ in ast.walk(tree)), lines=len(code_lines(text, tree)),
                wide=sum(len(line) > WIDTH for line in text.splitlines()),
                public=sum(not name.startswith('_') for name in names),
                private=sum(name.startswith('_') for name in names))


def count_notebook(path):
    "Lines of hidden cells, and exported cells before the first output"
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    hidden, exported, shown = 0, 0, False
    for cell in cells:
        source = ''.join(cell['source'])
        if source.startswith('#| hide'): hidden += len(source.splitlines()) - 1
        exported += source.startswith('#| export') and not shown
        shown = shown or bool(cell.get('outputs'))
    return dict(hidden=hidden, before=exported)


def main():
    folders = [ROOT/name for name in sys.argv[1:] or ['cifake']]
    files = [o for folder in folders for o in sorted(folder.rglob('*.py')) if not o.as_posix().endswith(MADE)]
    counts = {file: count_module(file) for file in files}
    total = {key: sum(o[key] for o in counts.values()) for key in ('nodes', 'lines', 'wide', 'public', 'private')}
    for file, o in sorted(counts.items(), key=lambda item: -item[1]['nodes']/max(item[1]['lines'], 1)):
        if o['lines']: print(f"{o['nodes']/o['lines']:6.1f}  {o['lines']:4} lines  {file.relative_to(ROOT)}")
    nodes, lines = total['nodes'], total['lines']
    print(f'{nodes/lines:.1f} syntax nodes a line: {nodes:,} on {lines:,} lines of code')
    print(f"{total['wide']} lines over {WIDTH} characters")
    print(f"{total['public']} public and {total['private']} private names at module level")
    notebooks = {o: count_notebook(o) for o in sorted((ROOT/'nbs').rglob('*.ipynb'))}
    most = max(notebooks, key=lambda o: notebooks[o]['before'])
    print(f"{sum(o['hidden'] for o in notebooks.values()):,} lines in hidden cells")
    print(f"at most {notebooks[most]['before']} exported cells before an output, in {most.relative_to(ROOT)}")


if __name__ == '__main__': main()
