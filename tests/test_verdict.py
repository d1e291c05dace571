"What one verdict depends on: hidden parts and small changes"
import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image, ImageFilter

from cifake.data.demo import demo_cifake
from cifake.data.pictures import as_jpeg, read_picture
from cifake.explain.verdict import CHANGES, occlusion_map, plot_stability, stability
from cifake.serve.detector import load_detector


@pytest.fixture(scope='module')
def detector(): return load_detector()


@pytest.fixture(scope='module')
def file(): return sorted((demo_cifake(n=200)/'test'/'FAKE').glob('*.jpg'))[0]


@pytest.fixture(scope='module')
def table(detector, file): return stability(detector, file)


class Corner:
    "A detector that reads the upper left corner alone: light there is FAKE"
    size = 32
    def pixels_of(self, source): return source
    def p_fake(self, pixels): return 1/(1 + np.exp(-(pixels[:,:8,:8].mean((1, 2, 3)) - 100)/50))


@pytest.fixture
def light_corner():
    pixels = np.full((32, 32, 3), 100, np.uint8)
    pixels[:8,:8] = 250
    return pixels


# Hidden parts

def test_the_one_part_that_counts_is_found(light_corner):
    found = occlusion_map(Corner(), light_corner)
    assert found[:4,:4].min() > 1
    assert np.abs(found[16:,16:]).max() < 1e-6
    assert found.argmax() == 0
    assert found[0,0] == pytest.approx(3 - (light_corner.mean() - 100)/50, abs=0.03)


def test_evidence_for_real_is_below_0(light_corner):
    assert (occlusion_map(Corner(), 255 - light_corner)[:4,:4] < 0).all()


@pytest.mark.parametrize('side', [1, 7, 31, 32])
def test_squares_of_every_side_cover_the_picture(light_corner, side):
    found = occlusion_map(Corner(), light_corner, side=side)
    assert found.shape == (32, 32)
    assert np.isfinite(found).all()


@pytest.mark.parametrize('side', [0, 33, -1])
def test_a_square_has_to_fit_the_picture(detector, file, side):
    with pytest.raises(ValueError, match=f"`side` is {side}: choose 1 to 32 pixels"):
        occlusion_map(detector, file, side)


def test_a_detector_of_files_has_a_map_of_its_size(detector, light_corner):
    assert occlusion_map(detector, light_corner, side=32).shape == (32, 32)


# Small changes

def test_the_first_row_is_the_picture_as_it_is(detector, file, table):
    assert table.p_fake[0] == pytest.approx(detector.predict(file).p_fake[0], abs=1e-6)
    expected = {'as it is': 1, **{k: len(v) for k, v in CHANGES.items()}}
    assert table.change.value_counts().to_dict() == expected
    assert table.same.tolist() == (table.verdict == table.verdict[0]).tolist()


def test_verdicts_are_those_of_the_detector(detector, table):
    assert table.verdict.tolist() == [detector.verdict(o) for o in table.p_fake]


@pytest.mark.parametrize(('change', 'level', 'make'), [
    ('JPEG quality', 60, lambda o: as_jpeg(o, 60)),
    ('resized to', 0.5, lambda o: o.resize((16, 16), Image.Resampling.BICUBIC)),
    ('blur, pixels', 0.6, lambda o: o.filter(ImageFilter.GaussianBlur(0.6)))])
def test_each_change_is_what_it_says(detector, file, table, change, level, make):
    made = make(read_picture(file).image)
    row = table[(table.change == change) & (table.level == level)]
    assert row.p_fake.iloc[0] == pytest.approx(detector.predict(made).p_fake[0], abs=1e-5)


@pytest.mark.parametrize('size', [(3000, 1000), (1, 1), (1, 400)])
def test_pictures_of_any_size_have_all_rows(detector, size):
    assert len(stability(detector, Image.new('RGB', size))) == 15


@pytest.mark.parametrize('ask', [stability, occlusion_map])
def test_what_cannot_be_read_says_so(detector, file, ask):
    with pytest.raises(ValueError, match='damaged'): ask(detector, file.read_bytes()[:300])


@pytest.mark.parametrize('ask', [stability, occlusion_map])
def test_web_addresses_are_not_fetched(detector, ask):
    with pytest.raises(ValueError, match='web address'): ask(detector, 'https://example.org/cat.jpg')


def test_the_figure_has_a_line_for_each_change_and_one_for_the_threshold(table):
    assert [len(ax.lines) for ax in plot_stability(table)] == [1, 1, 1]
    axs = plot_stability(table, 0.5)
    assert [len(ax.lines) for ax in axs] == [2, 2, 2]
    assert [o.get_text() for o in axs[2].get_xticklabels()] == ['as is', '0.9', '0.75', '0.6', '0.5']
    plt.close('all')
