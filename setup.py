"Takes the requirement lists from `settings.ini`; everything else about the package stands in `pyproject.toml`."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

settings = ConfigParser(interpolation=None)
settings.read_string(Path(__file__).with_name('settings.ini').read_text(encoding='utf-8'))
extras = {name: text.split('\n') for name, text in settings.defaults().items() if name != 'lib_name'}
extras = {name: [line for line in lines if line] for name, lines in extras.items()}
requirements = extras.pop('requirements')
extras['dev'] = [line for lines in extras.values() for line in lines]

setup(install_requires=requirements, extras_require=extras)
