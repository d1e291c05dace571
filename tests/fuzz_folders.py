"""Random folders against finding, checking, loading and judging, in a process of its own

    python tests/fuzz_folders.py NUMBER RESULT.json

Each folder holds pictures, damaged files, hidden ones, copies by systems, links of every kind, names that are not
UTF-8, folders of other spellings, and pipes. Whatever ends in an exception must end in one sentence, and no picture is
counted twice.
"""
import json
import os
import random
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from cifake.data.core import on_disk, part_of_system
from cifake.data.dataset import Cifake, labelled_files
from cifake.data.find import find_cifake
from cifake.data.items import as_items, training_items
from cifake.serve.detector import load_detector

SYSTEMS = ['__MACOSX', '@eaDir', '.ipynb_checkpoints', '.Trash-1000', '$RECYCLE.BIN', 'lost+found', '#recycle']
FOLDERS = ['FAKE', 'fake', 'REAL', 'Real', 'train', 'Train', 'test', 'sd', 'cats', 'a.jpg', 'x'*200]
FILES = ['0001.jpg', '0001 (2).JPG', 'b.png', 'c.jfif', 'd.GIF', 'e.tif', 'f.heic', 'Thumbs.db', 'notes.txt', '._a.jpg',
         'g.webp', 'no suffix', '.DS_Store', os.fsdecode(b'caf\xe9.jpg'), 'two\nlines.jpg', 'groups.csv', 'h.zip']
MEMBERS = ['train\\FAKE\\{}.jpg', 'a/train/REAL/{}.jpg', '__MACOSX/._{}.jpg', '/{}.jpg', '../{}.png']


def picture(rng):
    "Bytes of a small picture that no other file has"
    with tempfile.SpooledTemporaryFile() as file:
        values = np.random.default_rng(rng.randrange(10**9)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(values).save(file, 'PNG')
        file.seek(0)
        return file.read()


def content(rng):
    "What stands in a file: mostly a picture"
    how = rng.choice(['whole']*7 + ['cut', 'empty', 'text'])
    if how == 'whole': return picture(rng)
    return dict(cut=picture(rng)[:60], empty=b'', text=b'no picture')[how]


def add_entry(rng, folder, places):
    "One more entry in `folder`; `places` are the folders so far"
    how = rng.choice(['file']*6 + ['folder']*3 + ['link', 'link', 'system', 'pipe', 'deep'])
    path = folder/rng.choice(FILES if how in ('file', 'link', 'pipe') else FOLDERS)
    if how == 'system': path = folder/rng.choice(SYSTEMS)
    if how == 'link': path = rng.choice([path, folder/rng.choice(FOLDERS)])
    if os.path.lexists(path): return
    if how == 'file': path.write_bytes(content(rng))
    elif how == 'pipe': os.mkfifo(path)
    elif how == 'link': path.symlink_to(target(rng, path, places))
    else:
        for _ in range(rng.randrange(1, 30) if how == 'deep' else 1):
            path.mkdir()
            places.append(path)
            path = path/rng.choice('ab')


def target(rng, path, places):
    "Where a link leads"
    folder = rng.choice(places)
    below = sorted(folder.iterdir())
    return rng.choice([folder, folder, rng.choice(below) if below else folder, path, Path('gone'), Path('..')])


def grow(rng, root):
    "A random tree; most have the folders of a dataset"
    places = [root]
    if rng.random() < 0.8:
        for split in ('train', 'test'):
            for label in ('FAKE', 'REAL'):
                folder = root/rng.choice([split, split, split.title()])/rng.choice([label, label, label.lower()])
                folder.mkdir(parents=True, exist_ok=True)
                places.append(folder)
                for i in range(rng.randrange(4)): (folder/f'{i:04} ({i+1}).jpg').write_bytes(picture(rng))
    for _ in range(rng.randrange(1, 25)): add_entry(rng, rng.choice(places), places)
    if rng.random() < 0.2: pack(rng, root)


def pack(rng, root):
    "Some of the files as a zip, with names that need care"
    with zipfile.ZipFile(root/'some.zip', 'w') as file:
        for i in range(rng.randrange(5)):
            file.writestr(rng.choice(MEMBERS).format(i), content(rng))
    if rng.random() < 0.3: (root/'some.zip').write_bytes((root/'some.zip').read_bytes()[:-20])


def tell(work, answers, what):
    "The result of `work`, or None after an error, which has to be one sentence"
    try: return work()
    except (ValueError, OSError) as e:
        text = str(e)
        assert text and '\n' not in text.replace('two\nlines', '') and not isinstance(e, UnicodeError), text
        answers[f'{what}: {type(e).__name__}'] += 1
        return None


def same_file(path):
    "What a file is, whatever its name; None for a folder, and for what is not there"
    return os.path.realpath(path) if os.path.isfile(path) else None


def no_repeats(paths):
    "Refuse a file that is listed twice, or that a system left"
    assert len(set(paths)) == len(paths)
    real = [o for o in map(same_file, paths) if o]
    assert len(set(real)) == len(real), Counter(real).most_common(1)


def judge_dataset(root, answers):
    "Find, check and load; every picture of a label is counted once"
    found = tell(lambda: find_cifake(root), answers, 'find')
    if not found: return
    data = Cifake(found)
    items = tell(lambda: data.items, answers, 'read')  # a `groups.csv` that is none
    if items is None: return
    items.path.str.encode('utf-8')
    table = data.check()
    assert table.files.sum() == len(items)
    for _, part in items.groupby(['split', 'label']):
        no_repeats([on_disk(os.path.join(found, o)) for o in part.path])
    assert not any(map(part_of_system, items.path))
    assert Cifake(found).items.equals(items)
    for item in as_items(items, found): assert item.file.is_file()
    tell(lambda: training_items(data), answers, 'load')
    answers['a table'] += 1


def judge_pictures(root, detector, answers):
    "A row for each picture, and labelled files"
    table = tell(lambda: detector.predict_folder(root), answers, 'predict')
    if table is not None:
        no_repeats([on_disk(o) for o in table.file])
        json.loads(table.to_json())
        table.to_csv(root.parent/'table.csv')
        answers['a verdict'] += int((table.error == '').sum())
        answers['a row with an error'] += int((table.error != '').sum())
    for folder in (root, root/'train'):
        files = tell(lambda: labelled_files(folder), answers, 'labelled')  # noqa: B023
        for label in ('FAKE', 'REAL'): no_repeats([o for o, of in files or [] if of == label])
    if (root/'some.zip').exists(): tell(lambda: detector.predict_folder(root/'some.zip'), answers, 'zip')
    if (root/'some.zip').exists(): tell(lambda: find_cifake(root/'some.zip'), answers, 'find zip')


def main(number, result):
    warnings.simplefilter('ignore')
    detector, answers = load_detector('fast'), Counter()
    with tempfile.TemporaryDirectory() as work:
        os.environ['CIFAKE_HOME'] = f'{work}/home'
        for seed in range(number):
            root = Path(work)/'tree'/'set'
            root.mkdir(parents=True)
            try:
                grow(random.Random(seed), root)
                judge_dataset(root, answers)
                judge_pictures(root, detector, answers)
            except Exception as e:
                raise AssertionError(f'The tree of seed {seed} ends in {type(e).__name__}: {e}') from e
            shutil.rmtree(root.parent)
    values = dict(trees=number, answers=dict(answers.most_common()))
    Path(result).write_text(json.dumps(values, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__': main(int(sys.argv[1]), sys.argv[2])
