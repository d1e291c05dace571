"""Takes the requirement lists from `settings.ini`, and the description from `README.md`.

Everything else about the package stands in `pyproject.toml`. Where that has the address of the repository, relative
links and pictures of the README lead there, since PyPI has no files beside it."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
RELATIVE = re.compile(r'(!?\[[^\]]*\]\()(?!\w+:|[#/])([^)\s]+)(\))')


def text_of(name): return (HERE/name).read_text(encoding='utf-8')


def description():
    "The README, as PyPI shows it"
    found = re.search(r'^Repository = "(.+)"$', text_of('pyproject.toml'), re.MULTILINE)
    if not found: return text_of('README.md')

    def absolute(m): return f'{m[1]}{found[1]}/{"raw" if m[1].startswith("!") else "blob"}/main/{m[2]}{m[3]}'
    return RELATIVE.sub(absolute, text_of('README.md'))


settings = ConfigParser(interpolation=None)
settings.read_string(text_of('settings.ini'))
extras = {name: text.split('\n') for name, text in settings.defaults().items() if name != 'lib_name'}
extras = {name: [line for line in lines if line] for name, lines in extras.items()}
requirements = extras.pop('requirements')
extras['dev'] = [line for lines in extras.values() for line in lines]

setup(install_requires=requirements, extras_require=extras,
      long_description=description(), long_description_content_type='text/markdown')
