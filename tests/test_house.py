"The order of wings and rooms: a module imports only from rooms that stand before it in the site's sidebar."
import ast

import yaml

from check import ROOT

WINGS = 'data', 'models', 'measure', 'training', 'explain', 'serve'
COMMANDS = 'cli', 'main'  # rooms without a wing, after all others
APART = {'cifake._modidx', 'cifake.all'}  # made by nbdev; the door to all rooms, which no room uses


def rooms():
    "Modules in the order of the sidebar"
    sidebar = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    pages = [page.removesuffix('.ipynb') for section in sidebar for page in section['contents']]
    return [f'cifake.{page.replace("/", ".")}' for page in pages if page.split('/')[0] in (*WINGS, *COMMANDS)]


def modules():
    "Every module of the package and its file; a package stands for its `__init__`"
    for path in sorted((ROOT/'cifake').rglob('*.py')):
        parts = path.relative_to(ROOT).with_suffix('').parts
        yield '.'.join(parts[:-1] if parts[-1] == '__init__' else parts), path


def imported(name, tree):
    "Modules of this package that the module `name` imports anywhere, and the names that it takes from each"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names if alias.name.startswith('cifake.'))
        elif isinstance(node, ast.ImportFrom):
            above = name.split('.')[:-node.level] if node.level else []
            base = '.'.join([*above, *([node.module] if node.module else [])])
            names = [alias.name for alias in node.names]
            if base.split('.')[0] != 'cifake': continue
            if base.split('.')[-1] in WINGS: yield from ((f'{base}.{name}', []) for name in names)
            else: yield base, names


def test_every_room_has_its_place_in_the_sidebar():
    found = {name for name, path in modules() if path.name != '__init__.py'} - APART
    assert found == set(rooms())


def test_wings_stand_in_their_order():
    wings = [name.split('.')[1] for name in rooms()]
    assert list(dict.fromkeys(wings)) == [*WINGS, *COMMANDS]
    assert wings == sorted(wings, key=[*WINGS, *COMMANDS].index)


def test_no_arrow_runs_back():
    place, back = {name: i for i, name in enumerate(rooms())}, []
    for name, path in modules():
        if name in APART or path.name == '__init__.py': continue
        tree = ast.parse(path.read_text(encoding='utf-8'))
        for target, names in imported(name, tree):
            if target == 'cifake' and '__version__' in names: continue
            if place.get(target, len(place)) >= place[name]: back.append(f'{name} imports {target}')
    assert not back


def test_a_wing_passes_nothing_on():
    for wing in WINGS: assert not (ROOT/'cifake'/wing/'__init__.py').read_text(encoding='utf-8').strip(), wing


def test_the_check_of_imports_sees_every_kind():
    code = '''
import cifake.serve.app
def late():
    from ..data.demo import demo_cifake
    from . import runs
    from cifake.models.registry import create_model
'''
    found = list(imported('cifake.training.learner', ast.parse(code)))
    assert found == [('cifake.serve.app', []), ('cifake.data.demo', ['demo_cifake']), ('cifake.training.runs', []),
                     ('cifake.models.registry', ['create_model'])]


def without_encoding(tree):
    "Lines that open, read or write text in whatever encoding the system has"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call): continue
        name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        given = {keyword.arg for keyword in node.keywords}
        binary = any(isinstance(o, ast.Constant) and 'b' in str(o.value) for o in node.args[:2])
        opens = name in ('open', 'fdopen') and isinstance(node.func, ast.Name) and not binary
        if (opens or name in ('read_text', 'write_text')) and not given & {'encoding', None}: yield node.lineno


def test_text_is_utf_8_on_every_system():
    found = {name: list(without_encoding(ast.parse(path.read_text(encoding='utf-8')))) for name, path in modules()}
    assert not {name: lines for name, lines in found.items() if lines}
    assert list(without_encoding(ast.parse("open(f)\nf.read_text()\nopen(f, 'rb')\nf.write_text(s, encoding='utf-8')")))
