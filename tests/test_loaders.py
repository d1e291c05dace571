"Loaders: what a network sees is what the files hold, from disk and from memory alike"
import shutil
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from cifake.data.demo import demo_cifake
from cifake.data.loaders import ImageStore, cifake_dls


@pytest.fixture
def small(tmp_path): return shutil.copytree(demo_cifake(n=20), tmp_path/'set')


def test_decoded_pixels_belong_to_the_pillow_that_decoded_them(small):
    ours = ImageStore(small).file
    with patch('cifake.data.pictures.PILLOW', '99.0'): theirs = ImageStore(small).file
    assert ours != theirs and ours == ImageStore(small).file


def test_loaders_do_not_depend_on_the_number_of_processes(tmp_path):
    "Pictures of other sizes are cut in the middle, never at random, which would differ from process to process"
    root = shutil.copytree(demo_cifake(n=20), tmp_path/'set')
    for i, file in enumerate(sorted((root/'train').rglob('*.jpg'))):
        Image.open(file).resize((48 + i % 7, 40)).save(file)

    def pixels(workers):
        loader = cifake_dls(root, bs=4, stats=None, num_workers=workers).train.new(shuffle=False, drop_last=False)
        return np.concatenate([x.cpu().numpy() for x, _ in loader])
    alone = pixels(0)
    for workers in (1, 2): assert np.array_equal(pixels(workers), alone)
