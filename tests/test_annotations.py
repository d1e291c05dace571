"Every parameter and every return value of public functions and methods has a type annotation"
import ast

import pytest

from check import ROOT

MODULES = sorted(o for o in (ROOT/'cifake').glob('*.py') if o.name not in ('_modidx.py', 'all.py'))
DISPATCHED = {'encodes', 'decodes', 'setups'}  # fastai reads what these are annotated with
DECORATED = {'patch', 'delegates'}  # fastcore reads the annotation, or the signature, of what it decorates


def functions(tree):
    "Name, function, and whether it is a method, of the public functions and methods in `tree`"
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    found = [('', o) for o in tree.body if isinstance(o, kinds)]
    for c in tree.body:
        if isinstance(c, ast.ClassDef) and not c.name.startswith('_'):
            found += [(f'{c.name}.', o) for o in c.body if isinstance(o, kinds)]
    for owner, o in found:
        decorators = {ast.unparse(d).partition('(')[0] for d in o.decorator_list}
        if o.name.startswith('_') or o.name in DISPATCHED or decorators & DECORATED: continue
        yield owner + o.name, o, bool(owner) and 'staticmethod' not in decorators


def missing(source, module):
    "`module.function.parameter` of what has no annotation in `source`, with `return` for a return value"
    for name, o, method in functions(ast.parse(source)):
        a = o.args
        named = (a.posonlyargs + a.args)[method:] + a.kwonlyargs
        for p in [*named, *filter(None, (a.vararg, a.kwarg))]:
            if p.annotation is None: yield f'{module}.{name}.{p.arg}'
        if o.returns is None: yield f'{module}.{name}.return'


@pytest.mark.parametrize('file', MODULES, ids=lambda o: o.stem)
def test_all_annotated(file):
    assert not list(missing(file.read_text(encoding='utf-8'), file.stem))


def test_what_is_missing_is_named():
    source = '''
def bare(a, b:int, *args, c=1, **kwargs): return a
def whole(a:int, *args:int)->int:
    def nested(x): return x
    return a
def _private(x): return x
@patch(as_prop=True)
def patched(self:Some): return 1
class Some:
    def __init__(self, x): self.x = x
    def method(self, x)->int: return x
    @staticmethod
    def static(x)->int: return x
    @classmethod
    def made(cls): return cls(1)
    def encodes(self, x:int): return x
class _Hidden:
    def method(self, x): return x
'''
    names = 'bare.a bare.c bare.args bare.kwargs bare.return Some.method.x Some.static.x Some.made.return'
    assert list(missing(source, 'm')) == [f'm.{o}' for o in names.split()]
