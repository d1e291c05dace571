"""Set the address of the repository, and with it every link that needs one.

    python tools/address.py OWNER/NAME   # on GitHub; the site is at https://OWNER.github.io/NAME
    python tools/address.py --none       # no address: links are relative, and there are no badges

It writes `[project.urls]` in `pyproject.toml`, then the package, the README and the badges by `nbdev-export` and
`tools/readme.py`. The workflows for the documentation and for a release do so with the repository they run in.
"""
import argparse
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
URLS = re.compile(r'^\[project\.urls\]\n(?:\w+ = .*\n)*\n?', re.MULTILINE)
PLACE = '[project.scripts]\n'
GITHUB = re.compile(r'[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?/[\w.-]+')


def with_address(text, address):
    "`text` of pyproject.toml with the urls of `address`, OWNER/NAME, or with none"
    text = URLS.sub('', text)
    if not address: return text
    owner, name = address.split('/')
    urls = f'Repository = "https://github.com/{owner}/{name}"\nDocumentation = "https://{owner}.github.io/{name}"\n'
    return text.replace(PLACE, f'[project.urls]\n{urls}\n{PLACE}')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('address', nargs='?', help='OWNER/NAME of the repository on GitHub')
    parser.add_argument('--none', action='store_true', help='no address')
    args = parser.parse_args()
    if bool(args.address) == args.none: parser.error('give either OWNER/NAME or --none')
    if args.address and not GITHUB.fullmatch(args.address):
        parser.error(f'{args.address!r} is not OWNER/NAME of a repository on GitHub, such as fastai/nbdev')
    file = ROOT/'pyproject.toml'
    file.write_text(with_address(file.read_text(encoding='utf-8'), args.address), encoding='utf-8')
    subprocess.run([Path(sysconfig.get_path('scripts'))/'nbdev-export'], cwd=ROOT, check=True)
    subprocess.run([sys.executable, ROOT/'tools'/'readme.py'], cwd=ROOT, check=True)


if __name__ == '__main__': main()
